"""The proxies of a fleet, and the texts about them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.coverage import NOT_YET
from natproxy.journal.postgres.fleet import Proxy, ProxyRecord, behind, joined
from natproxy.journal.spans import span
from natproxy.journal.summary import END
from natproxy.records.whois import Gap

NOW = 1_795_665_600_000_000
SECOND = 1_000_000


def proxy(complete_to: dict[int, int], name: str = "edge-1", retired: bool = False) -> Proxy:
    return Proxy(1, name, "host", "/journal", "1", ["10.1.0.1"], NOW, 5, 0, retired, complete_to)


class ProxyTests(SynchronousTestCase):
    def test_proxy_is_complete_as_far_as_all_workers_are(self) -> None:
        self.assertEqual(proxy({0: NOW, 1: NOW - SECOND}).horizon, NOW - SECOND)
        self.assertEqual(proxy({0: NOW}, retired=True).horizon, END)

    def test_json_of_a_proxy_of_which_nothing_was_shipped(self) -> None:
        found = proxy({}).json()
        self.assertIsNone(found["complete_to"])
        self.assertEqual(found["proxy"], "edge-1")


class ProxyRecordTests(SynchronousTestCase):
    def test_gap_after_the_horizon_has_how_far_it_is_behind(self) -> None:
        record = ProxyRecord(proxy({0: NOW - 40 * SECOND}), [], [])
        self.assertIsNone(record.gap(0, NOW - 40 * SECOND))
        gap = record.gap(NOW - SECOND, NOW)
        assert gap is not None
        self.assertEqual(record.explain(gap, NOW).cause, "edge-1 is 40 s behind")

    def test_other_gaps_have_the_proxy_and_their_cause(self) -> None:
        record = ProxyRecord(proxy({0: NOW}), [span(5, 9, "the daemon was killed")], [])
        gap = record.gap(7, 7)
        assert gap is not None
        self.assertEqual(record.explain(gap, NOW), Gap(5, 9, "edge-1: the daemon was killed"))

    def test_proxy_of_which_nothing_was_shipped(self) -> None:
        record = ProxyRecord(proxy({}), [], [])
        gap = record.gap(NOW, NOW)
        assert gap is not None
        self.assertEqual(record.explain(gap, NOW).cause, "nothing of edge-1 was shipped yet")

    def test_retired_proxy_has_no_gap_at_the_end(self) -> None:
        record = ProxyRecord(proxy({0: 5}, retired=True), [], [])
        self.assertIsNone(record.gap(NOW, END))


class TextTests(SynchronousTestCase):
    def test_gaps_of_several_proxies_are_one(self) -> None:
        self.assertIsNone(joined([]))
        one = Gap(1, None, "edge-1 is 5 s behind")
        self.assertEqual(joined([one]), one)
        other = Gap(3, 9, "edge-2: a segment is missing")
        self.assertEqual(
            joined([one, other]),
            Gap(1, None, "edge-1 is 5 s behind, edge-2: a segment is missing"),
        )
        many = [Gap(None, None, f"edge-{number} {NOT_YET}") for number in range(9)]
        found = joined(many)
        assert found is not None
        self.assertTrue(found.cause.endswith(", and 4 more"))

    def test_durations_have_one_unit(self) -> None:
        for seconds, text in (
            (-1, "0.0 s"),
            (0.94, "0.9 s"),
            (40, "40 s"),
            (119, "119 s"),
            (180, "3 min"),
            (7200, "2 h"),
            (3 * 86_400, "3 days"),
        ):
            self.assertEqual(behind(round(seconds * SECOND)), text)
