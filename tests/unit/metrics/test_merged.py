"""Metrics of several processes: sums, and counters that do not go down."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.metrics.families import Family, Histogram, Kind, counter, gauge, histogram, labelled
from natproxy.metrics.merged import (
    Counters,
    Report,
    Totals,
    added,
    ended,
    families_json,
    families_of,
)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("a", "b", "c")),  # the process's place
        st.integers(0, 3),  # its boot
        st.integers(0, 100),  # what it has counted besides
        st.booleans(),  # whether it replies
    ),
    max_size=30,
)


def value_of(families: list[Family], name: str) -> Any:
    (family,) = [each for each in families if each.name == name]
    return family.samples[0][1]


class TotalsTests(SynchronousTestCase):
    @given(STEPS)
    def test_counters_never_go_down(self, steps: list[tuple[str, int, int, bool]]) -> None:
        totals, counted, boots, before = Totals(), {}, {}, 0.0
        for number, (place, boot, more, replies) in enumerate(steps):
            if place not in boots or boots[place][0] != boot:
                # Another process: no boot comes again.
                boots[place] = boot, f"{place}{number}"
                counted[place] = 0
            counted[place] += more
            if replies:
                families = [counter("n", "N", counted[place])]
                totals.update({place: Report(0, boots[place][1], families)}, boots)
            found = totals.families([place] if replies else [])
            total = value_of(found, "n") if found else 0.0
            self.assertGreaterEqual(total, before)
            before = total

    def test_gauges_of_what_is_shared(self) -> None:
        totals = Totals()
        for place, value in (("a", 3), ("b", 5)):
            families = [
                gauge("natproxy_clients", "", value),
                gauge("natproxy_journal_lag_seconds", "", value),
                gauge("natproxy_certificate_expiry_seconds", "", value),
            ]
            totals.update({place: Report(0, place, families)}, "ab")
        found = totals.families("ab")
        values = [float(value_of(found, family.name)) for family in found]
        self.assertEqual(values, [8, 5, 3])
        self.assertEqual(value_of(totals.families("a"), "natproxy_clients"), 3)

    def test_histograms_are_added_and_kept(self) -> None:
        totals = Totals()
        one = Histogram((1.0, 2.0))
        one.observe(0.5)
        one.observe(5)
        totals.update({"a": Report(0, "1", [histogram("h", "", one)])}, "a")
        totals.update({"a": Report(0, "2", [histogram("h", "", one)])}, "a")
        buckets = value_of(totals.families("a"), "h")
        self.assertEqual((list(buckets.counts), buckets.sum), ([2, 0, 2], 11))
        totals.update({}, "")
        self.assertEqual(totals.families(""), [])

    def test_families_as_json(self) -> None:
        one = Histogram((1.0,))
        one.observe(3)
        families = [
            labelled(Kind.COUNTER, "n", "N", "verb", {"GET": 3, "LIST": 4}),
            histogram("h", "H", one),
            gauge("g", "G", None),
        ]
        found = families_of(json.loads(json.dumps(families_json(families))))
        self.assertEqual(families_json(found), families_json(families))


class CountersTests(SynchronousTestCase):
    def test_sum_of_objects(self) -> None:
        one = {"a": {"GET": 1}, "h": {"bounds": [1, 2], "counts": [1, 2, 3], "sum": 0.5}, "t": "x"}
        other = {"a": {"GET": 2, "LIST": 5}, "h": {"bounds": [1, 2], "counts": [1, 1, 1], "sum": 1}}
        self.assertEqual(
            added(one, other),
            {
                "a": {"GET": 3, "LIST": 5},
                "h": {"bounds": [1, 2], "counts": [2, 3, 4], "sum": 1.5},
                "t": "x",
            },
        )
        self.assertEqual(added({"ports": {"used": 3}}, {"ports": {"used": 3}})["ports"]["used"], 3)

    def test_gauges_of_a_process_that_has_ended_are_left_out(self) -> None:
        counters = {"clients": {"now": 3, "total": 9}, "limits": {"clients": [{"client": "a"}]}}
        self.assertEqual(ended(counters), {"clients": {"total": 9}, "limits": {}})

    def test_process_that_was_replaced_is_kept(self) -> None:
        counters = Counters()
        counters.update({"a": ("1", {"n": 5})}, "ab")
        counters.update({"a": ("2", {"n": 1}), "b": ("1", {"n": 2})}, "ab")
        self.assertEqual(counters.total("ab"), {"n": 8})
        counters.update({}, "b")
        self.assertEqual(counters.total("b"), {"n": 8})
