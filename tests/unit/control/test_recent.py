"""Whois and history of the ring and the table: found, not held, or unknown, and never wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.record import Record
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery, WhoisReply
from tests.support.control_resources import WALL, ControlCase

START = 1_700_000_000_000_000
SECOND = 1_000_000
PORT = 40_000


class RecentCase(ControlCase):
    def whois(self, *queries: WhoisQuery) -> list[WhoisReply]:
        assert self.observed.history is not None
        found = self.observed.history.whois(list(queries))
        self.turns()
        return self.successResultOf(found)

    def at(self, seconds: float, port: int = PORT, **members: Any) -> WhoisReply:
        """Return who was behind a port, so many seconds after the start of the ring."""
        moment = START + round(seconds * SECOND)
        (found,) = self.whois(WhoisQuery(port, since=moment, until=moment, **members))
        return found

    def history(self, **members: Any) -> list[Record]:
        assert self.observed.history is not None
        records: list[Record] = []
        for page in self.observed.history.pages(HistoryQuery(**members)):
            self.turns()
            found = self.successResultOf(page)
            self.assertLessEqual(len(found), 500)
            if not found:
                break
            records += found
        return records


class WhoisTests(RecentCase):
    def test_now(self) -> None:
        entry = self.register(port=PORT)
        (found,) = self.whois(WhoisQuery(PORT))
        self.assertEqual((found.result, found.translations[0].serial), (FOUND, 1))
        self.table.remove(entry, Outcome.COMPLETED)
        (found,) = self.whois(WhoisQuery(PORT))
        self.assertEqual((found.result, found.gap), (NOBODY, None))
        assert found.last is not None
        self.assertEqual((found.last.serial, found.last.outcome), (1, "completed"))
        (found,) = self.whois(WhoisQuery(PORT + 1))
        self.assertEqual(found, WhoisReply(NOBODY))

    def test_times_of_two_translations_of_one_port(self) -> None:
        for client in ("10.0.0.1", "10.0.0.2"):
            self.clock.advance(10)
            entry = self.register(client=client, port=PORT)
            self.clock.advance(10)
            self.table.remove(entry, Outcome.COMPLETED)
        for seconds, client in (
            (10, "10.0.0.1"),
            (15, "10.0.0.1"),
            (20, "10.0.0.1"),
            (30, "10.0.0.2"),
        ):
            found = self.at(seconds)
            self.assertEqual(found.result, FOUND, seconds)
            self.assertEqual([record.client for record in found.translations], [client])
            self.assertIsNone(found.gap)
        for seconds, last in ((5, None), (25, 1)):
            found = self.at(seconds)
            self.assertEqual((found.result, found.translations), (NOBODY, ()))
            self.assertEqual(found.last.serial if found.last else None, last)

    def test_record_is_the_whole_translation(self) -> None:
        entry = self.register(b"GET a%20b", port=PORT)
        self.table.relaying(entry, 3)
        self.clock.advance(2)
        self.table.remove(entry, Outcome.TIMEOUT, "late")
        (record,) = self.at(1).translations
        self.assertEqual((record.event, record.time, record.seq), (None, None, 1))
        self.assertEqual((record.started, record.ended), (START, START + 2 * SECOND))
        self.assertEqual(
            (record.outcome, record.reason, record.state), ("timeout", "late", "removed")
        )
        self.assertEqual((record.name, record.promised, record.duration), ("a%20b", 3, 2.0))

    def test_translation_that_exists_held_the_port_since_its_start(self) -> None:
        self.clock.advance(10)
        self.register(port=PORT)
        self.clock.advance(10)
        self.assertEqual(self.at(9).result, NOBODY)
        self.assertEqual([self.at(seconds).result for seconds in (10, 20)], [FOUND, FOUND])

    def test_before_the_start_of_the_daemon_is_unknown(self) -> None:
        found = self.at(-1)
        self.assertEqual((found.result, found.translations), (UNKNOWN, ()))
        assert found.gap is not None
        self.assertEqual((found.gap.since, found.gap.until), (None, START))
        self.assertEqual(found.gap.cause, "the daemon had not started")

    def test_before_what_the_ring_holds_is_unknown(self) -> None:
        self.size = 6
        self.setUp()
        for _ in range(3):
            self.clock.advance(10)
            self.execute(port=PORT)
        self.assertEqual(self.at(10).result, UNKNOWN)
        self.assertEqual(self.at(15).result, NOBODY)
        self.assertEqual(self.at(20).result, FOUND)
        gap = self.at(10).gap
        assert gap is not None
        self.assertEqual(gap.until, START + 10 * SECOND + 1)
        self.assertIn("no longer holds", gap.cause)

    def test_upstream_and_host_select(self) -> None:
        for last, upstream in ((1, Address("10.9.0.1", 9001)), (2, Address("::1", 9001))):
            self.register(client=f"10.0.0.{last}", port=PORT, upstream=upstream)
        for members, clients in (
            ({}, ["10.0.0.1", "10.0.0.2"]),
            ({"upstream": "10.9.0.1"}, ["10.0.0.1"]),
            ({"upstream": "10.9.0.1:9001"}, ["10.0.0.1"]),
            ({"upstream": "[::1]:9001"}, ["10.0.0.2"]),
            ({"upstream": "0:0:0:0:0:0:0:1"}, ["10.0.0.2"]),
            ({"upstream": "::ffff:10.9.0.1"}, ["10.0.0.1"]),
            ({"upstream": "10.9.0.1:9002"}, []),
            ({"nat": "10.0.0.1"}, ["10.0.0.1", "10.0.0.2"]),
            ({"nat": "10.0.0.2"}, []),
        ):
            found = self.at(0, **members)
            self.assertEqual(sorted(str(each.client) for each in found.translations), clients)

    def test_start_nearer_to_the_time_than_a_translation_makes_it_unknown(self) -> None:
        self.clock.advance(10)
        self.execute(port=PORT)
        for middle, expected in ((1, UNKNOWN), (9, FOUND), (10, FOUND)):
            (found,) = self.whois(
                WhoisQuery(
                    PORT,
                    since=START + (middle - 20) * SECOND,
                    until=START + (middle + 20) * SECOND,
                )
            )
            self.assertEqual((found.result, len(found.translations)), (expected, 1), middle)

    def test_nearest_to_the_middle_of_an_interval_is_first(self) -> None:
        for _ in range(5):
            self.clock.advance(10)
            self.execute(port=PORT)
        (found,) = self.whois(
            WhoisQuery(PORT, since=START + 15 * SECOND, until=START + 46 * SECOND)
        )
        self.assertEqual([record.serial for record in found.translations], [3, 4, 2])
        (found,) = self.whois(WhoisQuery(PORT, since=START - SECOND, until=START + 20 * SECOND))
        # The end of an interval is not in it; its begin is not covered.
        self.assertEqual([record.serial for record in found.translations], [1])
        self.assertIsNotNone(found.gap)

    def test_clock_that_was_set_back_while_it_lasted(self) -> None:
        self.clock.advance(10)
        entry = self.register(port=PORT)
        self.offset -= 5
        self.table.remove(entry, Outcome.COMPLETED)
        for seconds in (5, 7, 10):
            found = self.at(seconds)
            assert found.gap is not None
            self.assertEqual((found.result, len(found.translations)), (UNKNOWN, 1))
            self.assertEqual(found.gap.cause, "the clock was set back")
        self.clock.advance(60)
        self.assertEqual(self.at(11).result, NOBODY)

    def test_clock_that_was_set_back_with_a_translation_that_exists(self) -> None:
        self.clock.advance(4000)
        self.register(port=PORT)
        self.offset -= 3600
        self.clock.advance(10)
        for port, possible in ((PORT, 1), (PORT + 1, 0)):
            found = self.at(405, port)
            self.assertEqual((found.result, len(found.translations)), (UNKNOWN, possible))
        # Now it is certain.
        self.assertEqual(self.whois(WhoisQuery(PORT))[0].result, FOUND)
        self.assertEqual(self.whois(WhoisQuery(PORT + 1))[0].result, NOBODY)
        self.clock.advance(3600)
        self.assertEqual(self.at(4005).result, FOUND)
        self.assertEqual(self.at(4005, PORT + 1).result, NOBODY)

    def test_translation_that_ends_during_the_search_is_found_once(self) -> None:
        entry = self.register(port=PORT)
        for _ in range(1000):
            self.execute()
        assert self.observed.history is not None
        moment = START
        found = self.observed.history.whois([WhoisQuery(PORT, since=moment, until=moment)])
        self.clock.advance(0.5)
        self.table.remove(entry, Outcome.COMPLETED)
        self.turns()
        self.assertEqual(len(self.successResultOf(found)[0].translations), 1)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), min_size=1, max_size=12),
        st.integers(3, 40),
    )
    def test_ring_of_any_size_is_never_wrong(self, steps: list[tuple[int, int]], size: int) -> None:
        self.size = size
        self.setUp()
        truth: dict[int, int] = {}
        now = 0
        for idle, lasting in steps:
            self.clock.advance(idle)
            now += idle
            entry = self.register(port=PORT)
            for second in range(now * 2 + 1, (now + lasting) * 2):
                truth[second] = entry.serial
            self.clock.advance(lasting)
            now += lasting
            self.table.remove(entry, Outcome.COMPLETED)
        for half in range(-1, now * 2 + 1):
            found = self.at(half / 2)
            serials = [record.serial for record in found.translations]
            if found.result == FOUND:
                if half in truth:
                    self.assertEqual(serials, [truth[half]])
            elif found.result == NOBODY:
                self.assertNotIn(half, truth)
            else:
                self.assertIsNotNone(found.gap)
        if size >= len(steps) * 2:
            self.assertTrue(all(self.at(half / 2).result == FOUND for half in truth))


class HistoryTests(RecentCase):
    def test_translations_are_in_the_order_of_their_registration(self) -> None:
        first = self.register()
        self.execute()
        self.table.fail(first.client_address, first.command, 100, Outcome.ERROR, 3)
        self.table.remove(first, Outcome.COMPLETED)
        self.register()
        found = self.history()
        self.assertEqual([record.serial for record in found], [1, 2, 3, 4])
        self.assertEqual([record.seq for record in found], [1, 2, 5, 7])
        states = [record.state for record in found]
        self.assertEqual(states, ["removed", "removed", "failed", "registered"])
        self.assertEqual({record.event for record in found}, {None})

    def test_interval_filter_and_limit(self) -> None:
        for _ in range(6):
            self.execute(b"GET a")
            self.execute(b"LIST")
            self.clock.advance(10)
        found = self.history(since=START + 15 * SECOND, until=START + 40 * SECOND)
        self.assertEqual([record.serial for record in found], [5, 6, 7, 8])
        found = self.history(filter="verb LIST", limit=2)
        self.assertEqual([record.serial for record in found], [10, 12])

    def test_entry_whose_registration_is_evicted_is_shown(self) -> None:
        self.size = 6
        self.setUp()
        self.register()
        for _ in range(3):
            self.execute()
        self.assertEqual([record.serial for record in self.history()], [1, 3, 4])

    def test_search_that_is_not_continued_ends(self) -> None:
        for _ in range(1000):
            self.execute()
        assert self.observed.history is not None
        pages = self.observed.history.pages(HistoryQuery())
        next(pages)
        pages.close()  # type: ignore[attr-defined]
        self.turns()
        self.assertEqual(self.clock.calls, [])

    def test_there_are_no_events_but_those_of_the_ring(self) -> None:
        assert self.observed.history is not None
        (page,) = self.observed.history.events(EventsQuery())
        self.assertEqual(self.successResultOf(page), [])


class WallTests(RecentCase):
    def test_start_of_the_ring_is_the_wall_clocks(self) -> None:
        self.assertEqual(self.ring.complete_from, round(WALL * SECOND))
