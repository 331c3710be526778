"""The records of upstreams: JSON, and the sum of several workers."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.upstreams import (
    DOWN,
    MODES,
    UP,
    QueueRecord,
    UpstreamRecord,
    UpstreamsRecord,
    merge_upstreams,
)
from tests.support.recorded_upstreams import two

COUNTS = st.integers(0, 1 << 40)
TIMES = st.none() | st.integers(0, 1 << 51)
RECORDS = st.builds(
    UpstreamRecord,
    name=st.sampled_from(("a", "b", "10.0.0.1:9001")),
    endpoint=st.text(max_size=5),
    health=st.sampled_from((UP, DOWN)),
    mode=st.sampled_from(MODES),
    since=TIMES,
    active=COUNTS,
    commands=COUNTS,
    last_check=TIMES,
    last_error=st.none() | st.text(max_size=5),
    verbs=st.none() | st.tuples(st.sampled_from(("GET", "LS"))),
    addresses=st.tuples(st.sampled_from(("10.0.0.1", "::1"))),
    workers=st.just(()),
)
ALL = st.builds(
    UpstreamsRecord,
    st.lists(RECORDS, max_size=3, unique_by=lambda each: each.name).map(tuple),
    st.builds(QueueRecord, COUNTS, st.none() | COUNTS, st.floats(0, 100)),
)


class JSONTests(SynchronousTestCase):
    @given(ALL)
    def test_json_is_read_back(self, record: UpstreamsRecord) -> None:
        found = UpstreamsRecord.from_json(json.loads(json.dumps(record.json())))
        self.assertEqual(found, record)

    def test_malformed_objects_are_refused(self) -> None:
        good = two().json()
        first = good["upstreams"][0]
        for wrong in (
            {},
            {"upstreams": []},
            {"upstreams": [], "queue": []},
            {"upstreams": [], "queue": {"length": "x"}},
            {"upstreams": [{}], "queue": {}},
            {"upstreams": [{**first, "active": "x"}], "queue": {}},
            {"upstreams": [{**first, "name": 1}], "queue": {}},
            {"upstreams": [{**first, "workers": [1]}], "queue": {}},
            {"upstreams": [{**first, "since": "x"}], "queue": {}},
            {"upstreams": [{**first, "since": 1}], "queue": {}},
        ):
            malformed = (ValueError, TypeError, KeyError, AttributeError)
            self.assertRaises(malformed, UpstreamsRecord.from_json, wrong)

    def test_members_of_a_later_version_are_ignored(self) -> None:
        members = two().json()
        members["upstreams"][0]["later"] = 1
        members["queue"]["later"] = 1
        self.assertEqual(UpstreamsRecord.from_json(members), two())


class MergeTests(SynchronousTestCase):
    def merged(self, *records: dict[str, Any]) -> UpstreamRecord:
        """Return the first upstream of workers that have these members of it."""
        found = [(number, two(**members)) for number, members in enumerate(records)]
        return merge_upstreams(found).upstreams[0]

    def test_worst_health_and_its_reason(self) -> None:
        found = self.merged({}, {"health": DOWN, "since": 7, "last_error": "refused"}, {})
        self.assertEqual((found.health, found.since, found.last_error), (DOWN, 7, "refused"))

    def test_mode_of_the_most_workers_and_the_stricter_of_two(self) -> None:
        for modes, expected in (
            (("ready", "drain", "drain"), "drain"),
            (("ready", "ready", "drain"), "ready"),
            (("ready", "drain"), "drain"),
            (("maintenance", "drain"), "maintenance"),
        ):
            for order in permutations(modes):
                self.assertEqual(self.merged(*({"mode": each} for each in order)).mode, expected)

    def test_upstream_that_only_one_worker_has(self) -> None:
        one = two()._replace(upstreams=two().upstreams[:1])
        found = merge_upstreams([(0, one), (1, two())])
        self.assertEqual([each.name for each in found.upstreams], ["files-a", "files-b"])
        self.assertEqual([each["worker"] for each in found.upstreams[1].workers], [1])

    def test_no_worker(self) -> None:
        self.assertEqual(merge_upstreams([]), UpstreamsRecord())

    @given(st.lists(ALL, min_size=1, max_size=4))
    def test_sums(self, records: list[UpstreamsRecord]) -> None:
        found = merge_upstreams([*enumerate(records)])
        everything = [each for record in records for each in record.upstreams]
        self.assertEqual(
            sum(each.commands for each in found.upstreams),
            sum(each.commands for each in everything),
        )
        self.assertEqual({each.name for each in found.upstreams}, {e.name for e in everything})
        self.assertEqual(found.queue.length, sum(record.queue.length for record in records))
        for each in found.upstreams:
            parts = [part for part in everything if part.name == each.name]
            self.assertEqual(each.health == DOWN, any(part.health == DOWN for part in parts))
            self.assertEqual(len(each.workers), len(parts))
