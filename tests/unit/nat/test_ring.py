"""The ring of events: rows, cursors, eviction, and the record of each event."""

from __future__ import annotations

import gc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from natproxy.address import Address
from natproxy.nat import NATEntry, NATTable, Outcome, Registered, TranslationKey
from natproxy.nat.ring import BATCH, EventRing
from natproxy.protocol import Command, parse_command
from natproxy.records.command_texts import LONG_NAME, CommandTexts
from natproxy.records.event_rows import Lost, Row
from natproxy.records.record import Origin
from tests.support.doubles import Wire
from tests.support.logged_errors import LoggedErrorsCase

CLIENT = Address("10.0.0.5", 43_210)
UPSTREAM = Address("10.0.0.9", 9001)
ORIGIN = Origin("proxy-9000", 0, "0123abcd")
WALL = 1_700_000_000.25
MICROSECONDS = 1_700_000_000_250_000


def command_of(line: bytes) -> Command:
    command = parse_command(line)
    assert command is not None
    return command


GET = command_of(b"GET a%20b offset=3")


class RingCase(LoggedErrorsCase):
    """A table with two clocks, and its ring."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.wall = WALL
        self.table = NATTable(self.clock.seconds, lambda: self.wall)
        self.ring = self.make()
        self.port = 50_000

    def make(self, **sizes: int) -> EventRing:
        return EventRing(self.table, ORIGIN, wall_clock=lambda: self.wall, **sizes)

    def register(self, line: bytes = b"GET a%20b offset=3") -> NATEntry:
        self.port += 1
        key = TranslationKey(Address("10.0.0.1", self.port), UPSTREAM)
        wire = Wire(9000, 43_210)
        return self.table.register(key, wire, CLIENT, command_of(line), 99.5, lambda: None)

    def execute(self, line: bytes = b"GET a%20b offset=3") -> None:
        """Add the three events of one translation."""
        entry = self.register(line)
        self.table.relaying(entry, 3)
        self.table.remove(entry, Outcome.COMPLETED)

    def rows(self) -> list[Row]:
        return self.ring.read(self.ring.first - 1, 1000)[0]


class RecordTests(RingCase):
    def test_translation_is_three_events_with_one_serial_number(self) -> None:
        entry = self.register()
        self.clock.advance(1)
        self.wall += 1
        self.table.relaying(entry, 3)
        entry.write(b"OK 3\nabc")
        self.clock.advance(1)
        # The wall clock may be set while a command is under way.
        self.wall -= 3600
        self.table.remove(entry, Outcome.COMPLETED, "done")
        records = [self.ring.record_of(row) for row in self.rows()]
        begun = {
            "proxy": "proxy-9000",
            "worker": 0,
            "boot": "0123abcd",
            "serial": 1,
            "command": 1,
            "attempt": 1,
            "started": MICROSECONDS,
            "client": "10.0.0.5",
            "client_port": 43_210,
            "nat": "10.0.0.1",
            "nat_port": 50_001,
            "upstream": "10.0.0.9",
            "upstream_port": 9001,
            "verb": "GET",
            "name": "a%20b",
        }
        expected: list[dict[str, Any]] = [
            {
                "event": "registered",
                "seq": 1,
                "time": MICROSECONDS,
                "state": "registered",
                "bytes": 0,
                "duration": 0.5,
            },
            {
                "event": "relaying",
                "seq": 2,
                "time": MICROSECONDS + 1_000_000,
                "state": "relaying",
                "promised": 3,
                "bytes": 0,
                "duration": 1.5,
            },
            {
                "event": "removed",
                "seq": 3,
                "time": MICROSECONDS - 3599_000_000,
                "ended": MICROSECONDS - 3599_000_000,
                "state": "removed",
                "promised": 3,
                "bytes": 8,
                "outcome": "completed",
                "reason": "done",
                "duration": 2.5,
            },
        ]
        for record, event in zip(records, expected, strict=True):
            members = {key: value for key, value in record._asdict().items() if value is not None}
            self.assertEqual(members, {**begun, **event})

    def test_command_without_a_connection_is_one_event(self) -> None:
        self.table.fail(CLIENT, GET, 98, Outcome.TIMEOUT, 12, "no reply")
        (row,) = self.rows()
        record = self.ring.record_of(row)
        self.assertEqual((record.event, record.state, record.serial), ("failed", "failed", 1))
        self.assertEqual((record.started, record.ended), (MICROSECONDS - 2_000_000, MICROSECONDS))
        self.assertEqual((record.nat, record.nat_port, record.upstream), (None, None, None))
        self.assertEqual((record.outcome, record.reason), ("timeout", "no reply"))
        self.assertEqual((record.bytes, record.duration), (12, 2.0))

    def test_action_has_the_administrator_and_no_translation(self) -> None:
        self.ring.act("kill", WALL, 1000, 4321, "verb GET", 7)
        (row,) = self.rows()
        members = self.ring.record_of(row)._asdict()
        self.assertEqual(
            {key: value for key, value in members.items() if value is not None},
            {
                "event": "kill",
                "time": MICROSECONDS,
                "proxy": "proxy-9000",
                "worker": 0,
                "boot": "0123abcd",
                "seq": 1,
                "serial": 7,
                "reason": "verb GET",
                "uid": 1000,
                "pid": 4321,
            },
        )

    def test_no_record_contains_a_secret(self) -> None:
        self.execute(b"AUTH hunter2")
        self.table.fail(CLIENT, command_of(b"AUTH hunter2"), 0, Outcome.ERROR, 0)
        self.assertNotIn("hunter2", repr(self.rows()))

    def test_every_way_to_end_is_recorded(self) -> None:
        self.table.cancel(self.register(), Outcome.KILLED, "by uid 0")
        entry = self.register()
        self.table.cancel_client(entry.client, Outcome.CLIENT_GONE)
        ended = [row[8:10] for row in self.rows() if row[1] == "removed"]
        self.assertEqual(ended, [("killed", "by uid 0"), ("client-gone", None)])

    def test_entry_from_before_the_ring_has_its_route_and_start(self) -> None:
        self.ring.close()
        entry = self.register()
        ignored = self.register()
        self.clock.advance(10)
        self.wall += 10
        self.ring = self.make()
        self.table.relaying(entry, 3)
        self.table.remove(entry, Outcome.COMPLETED)
        self.table.remove(ignored, Outcome.COMPLETED)
        records = [self.ring.record_of(row) for row in self.rows()]
        self.assertEqual([record.event for record in records], ["relaying", "removed", "removed"])
        self.assertEqual([record.seq for record in records], [1, 2, 3])
        for record in records:
            self.assertEqual((record.started, record.name), (MICROSECONDS, "a%20b"))

    def test_events_precede_what_a_subscriber_causes(self) -> None:
        removed: list[NATEntry] = []

        def remove(_: object) -> None:
            (entry,) = self.table
            removed.append(entry)
            self.table.cancel(entry, Outcome.KILLED)

        end = self.table.subscribe(remove, (Registered,))
        self.addCleanup(end)
        self.register()
        self.assertEqual([row[1] for row in self.rows()], ["registered", "removed"])

    def test_closed_ring_records_nothing_more(self) -> None:
        entry = self.register()
        self.ring.close()
        self.table.remove(entry, Outcome.COMPLETED)
        self.table.fail(CLIENT, GET, 0, Outcome.ERROR, 0)
        self.assertEqual([row[1] for row in self.rows()], ["registered"])

    def test_failure_to_record_stops_no_command(self) -> None:
        self.ring._rows.add = None  # type: ignore[method-assign, assignment]
        self.execute()
        self.table.fail(CLIENT, GET, 0, Outcome.ERROR, 0)
        self.rows()
        self.assertEqual(self.flush(TypeError), 4)
        self.assertEqual(len(self.table), 0)


class CursorTests(RingCase):
    def test_reader_receives_each_event_once_in_any_portions(self) -> None:
        for _ in range(10):
            self.execute()
        seen: list[int] = []
        while True:
            rows, lost = self.ring.read(seen[-1] if seen else 0, 7)
            self.assertIsNone(lost)
            if not rows:
                break
            seen += [row[0] for row in rows]
        self.assertEqual(seen, list(range(1, 31)))

    def test_reader_learns_which_events_it_lost(self) -> None:
        self.ring = self.make(size=4)
        for _ in range(3):
            self.execute()
        rows, lost = self.ring.read(2, 100)
        self.assertEqual(lost, Lost(3, 5))
        self.assertEqual([row[0] for row in rows], [6, 7, 8, 9])
        self.assertEqual(self.ring.read(9, 100), ([], None))

    def test_wake_calls_back_once(self) -> None:
        calls: list[str] = []
        self.ring.wake(lambda: calls.append("first"))
        second = lambda: calls.append("second")  # noqa: E731
        self.ring.wake(second)
        self.ring.cancel_wake(second)
        self.ring.cancel_wake(second)
        self.execute()
        self.assertEqual(calls, ["first"])

    @given(
        st.lists(st.one_of(st.integers(1, 9), st.tuples(st.integers(0, 30), st.integers(1, 9)))),
        st.integers(1, 9),
    )
    def test_every_read_is_a_gapless_part_of_what_was_added(self, steps: Any, size: int) -> None:
        table = NATTable(lambda: 100.0, lambda: WALL)
        ring = EventRing(table, ORIGIN, size=size, wall_clock=lambda: WALL)
        added = 0
        for step in steps:
            if isinstance(step, int):
                for _ in range(step):
                    ring.act("drain", WALL, 0, added)
                    added += 1
                continue
            after, limit = step
            rows, lost = ring.read(after, limit)
            oldest = max(1, added - size + 1)
            first = max(after + 1, oldest)
            expected = list(range(first, min(first + limit, added + 1)))
            self.assertEqual([row[0] for row in rows], expected)
            self.assertEqual([row[12] for row in rows], [seq - 1 for seq in expected])
            self.assertEqual(lost, Lost(after + 1, oldest - 1) if after + 1 < oldest else None)
        self.assertEqual((ring.first, ring.next), (max(1, added - size + 1), added + 1))


class EvictionTests(RingCase):
    def test_complete_from_is_after_everything_that_was_evicted(self) -> None:
        self.ring = self.make(size=2)
        self.assertEqual(self.ring.complete_from, MICROSECONDS)
        for wall in (WALL + 5, WALL + 1, WALL + 2):
            self.ring.act("drain", wall, 0, 0)
        self.assertEqual(self.ring.complete_from, MICROSECONDS + 5_000_001)
        self.ring.act("drain", WALL + 3, 0, 0)
        self.assertEqual(self.ring.complete_from, MICROSECONDS + 5_000_001)

    def test_complete_from_is_after_what_was_evicted_for_long_names(self) -> None:
        self.ring = self.make(names=1500)
        self.execute(b"GET " + b"n" * 1000)
        self.wall += 5
        self.execute(b"GET " + b"n" * 1000)
        self.assertEqual(self.ring.first, 4)
        self.assertEqual(self.ring.complete_from, MICROSECONDS + 1)

    def test_long_names_have_a_budget(self) -> None:
        long = b"GET " + b"n" * 1000
        self.ring = self.make(names=3000)
        for _ in range(10):
            self.execute(long)
            held = {row[2] for row in self.rows() if row[1] == "registered"}
            self.assertLessEqual(len(held), 3)
        # The newest events are held, without a gap, from the oldest one that fits.
        self.assertEqual([row[0] for row in self.rows()], list(range(22, 31)))

    def test_names_of_usual_length_are_not_counted(self) -> None:
        self.ring = self.make(names=3000)
        for _ in range(100):
            self.execute(b"GET " + b"n" * LONG_NAME)
        self.assertEqual(len(self.rows()), 300)

    def test_budget_is_free_again_when_the_names_are_gone(self) -> None:
        self.ring = self.make(size=6, names=3000)
        for _ in range(3):
            self.execute(b"GET " + b"n" * 1000)
        for _ in range(3):
            self.execute()
        self.assertEqual(len(self.rows()), 6)
        self.assertEqual(self.ring._rows._names_left, 3000)

    def test_name_longer_than_the_budget_leaves_its_events(self) -> None:
        self.ring = self.make(names=300)
        entry = self.register(b"GET " + b"n" * 1000)
        self.assertEqual([row[1] for row in self.rows()], ["registered"])
        self.table.remove(entry, Outcome.COMPLETED)
        self.assertEqual(self.rows()[-1][1], "removed")

    def test_collector_does_not_track_old_rows(self) -> None:
        for _ in range(10):
            self.execute()
        self.table.fail(CLIENT, GET, 0, Outcome.ERROR, 0, "text")
        self.ring.act("kill", WALL, 0, 1)
        rows = self.rows()
        gc.collect()
        gc.collect()
        self.assertEqual(len(rows), 32)
        self.assertEqual([row for row in rows if gc.is_tracked(row)], [])
        self.assertEqual([row[5] for row in rows if gc.is_tracked(row[5])], [])

    def test_few_entries_remain_in_memory_until_their_rows_are_made(self) -> None:
        for number in range(1, BATCH):
            self.table.fail(CLIENT, GET, 0, Outcome.ERROR, 0)
            self.assertEqual((self.ring.next, len(self.ring._noted)), (number + 1, number))
        self.table.fail(CLIENT, GET, 0, Outcome.ERROR, 0)
        self.assertEqual((self.ring.next, self.ring._noted), (BATCH + 1, []))
        self.assertEqual([row[0] for row in self.rows()], list(range(1, BATCH + 1)))

    def test_few_commands_are_cached(self) -> None:
        texts = CommandTexts(every=False, longest=LONG_NAME)
        for number in range(3000):
            self.assertEqual(texts.find(command_of(b"GET %d" % number)), ("GET", str(number)))
        texts.find(command_of(b"GET " + b"n" * 5000))
        self.assertLessEqual(len(texts._texts), 1024)
        self.assertLessEqual(max(map(len, texts._texts)), LONG_NAME)
