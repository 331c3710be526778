"""The writer: what each event becomes, gaps, steps of the clock, rolls, and faults."""

from __future__ import annotations

import os
import shutil
import sqlite3
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal import writer as writers
from natproxy.journal.rows import GapRow, Step
from natproxy.journal.segment import Addition, Segment, seal
from natproxy.journal.space import Unwritable
from natproxy.journal.writer import Writer
from tests.support.journals import (
    NOW,
    Traffic,
    entries_of,
    gaps_of,
    meta_of,
    paths_of,
    rows_of,
    steps_of,
)


class WriterCase(SynchronousTestCase):
    names = True

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.traffic = Traffic()
        self.writer = self.make(self.traffic)

    def make(self, traffic: Traffic) -> Writer:
        writer = Writer(self.directory, traffic.origin, traffic.now, names=self.names)
        self.addCleanup(writer.close)
        return writer

    def flush(self, stopped: bool = False) -> None:
        """Write what is new."""
        self.writer.write(self.traffic.batch(stopped))
        self.traffic.taken()

    def states(self) -> list[tuple[int, str]]:
        return [(entry["nat_port"], entry["state"]) for entry in entries_of(self.directory)]

    def attempts(self) -> list[tuple[int, int, int, str | None]]:
        """Return port, command, attempt and outcome of each translation."""
        return [
            (entry["nat_port"], entry["command"], entry["attempt"], entry["outcome"])
            for entry in entries_of(self.directory)
        ]


class EntriesTests(WriterCase):
    def test_command_that_begins_and_ends_in_a_batch_is_one_insert(self) -> None:
        self.traffic.command(50_001)
        self.flush()
        self.assertEqual(self.states(), [(50_001, "removed")])
        self.assertEqual((self.writer.rows, len(entries_of_live(self.writer))), (1, 1))

    def test_columns_of_a_command(self) -> None:
        traffic = self.traffic
        traffic.advance(1)
        entry = traffic.register(50_001)
        traffic.advance(0.25)
        traffic.relay(entry)
        traffic.advance(0.5)
        traffic.remove(entry)
        self.flush()
        (found,) = entries_of(self.directory)
        self.assertEqual(
            found,
            {
                "proxy": "proxy-9000",
                "worker": 0,
                "boot": "0a",
                "seq": 1,
                "serial": 1,
                "command": 1,
                "attempt": 1,
                "started": "2023-11-14T22:13:21.000000Z",
                "ended": "2023-11-14T22:13:21.750000Z",
                "client": "10.0.0.5",
                "client_port": 43_210,
                "identity": None,
                "nat": "10.0.0.1",
                "nat_port": 50_001,
                "upstream": "10.0.0.9",
                "upstream_port": 9001,
                "verb": "GET",
                "name": "a%20b",
                "promised": 100,
                "bytes": 110,
                "state": "removed",
                "outcome": "completed",
                "reason": None,
                "duration": 0.75,
            },
        )
        path = paths_of(self.directory)[0]
        self.assertEqual(
            rows_of(path, "select seq, relaying_seq, removed_seq, relaying from entries"),
            [(1, 2, 3, 250_000)],
        )

    def test_open_translation_is_written_at_once_and_replaced(self) -> None:
        entry = self.traffic.register(50_001)
        self.flush()
        self.assertEqual(self.states(), [(50_001, "registered")])
        self.traffic.relay(entry)
        self.flush()
        self.assertEqual(self.states(), [(50_001, "relaying")])
        self.assertEqual(self.writer.rows, 0)
        self.traffic.remove(entry)
        self.flush()
        self.assertEqual(self.states(), [(50_001, "removed")])
        self.assertEqual((self.writer.rows, len(entries_of_live(self.writer))), (1, 1))
        path = paths_of(self.directory)[0]
        self.assertEqual(
            rows_of(path, "select seq, relaying_seq, removed_seq from entries"), [(1, 2, 3)]
        )

    def test_attempts_of_a_command_in_one_batch(self) -> None:
        traffic = self.traffic
        traffic.command(50_000)
        second = traffic.retry(traffic.register(50_001), 50_002)
        traffic.remove(traffic.retry(second, 50_003))
        self.flush()
        self.assertEqual(
            self.attempts(),
            [
                (50_000, 1, 1, "completed"),
                (50_001, 2, 1, "retried"),
                (50_002, 2, 2, "retried"),
                (50_003, 2, 3, "completed"),
            ],
        )

    def test_attempts_of_a_command_in_several_batches(self) -> None:
        traffic = self.traffic
        first = traffic.register(50_001)
        self.flush()
        second = traffic.retry(first, 50_002)
        self.flush()
        # It is inserted once for each event, and not updated.
        self.assertEqual(self.attempts()[1], (50_002, 1, 2, None))
        traffic.relay(second)
        self.flush()
        self.assertEqual(self.attempts()[1], (50_002, 1, 2, None))
        third = traffic.retry(second, 50_003)
        self.flush()
        traffic.remove(third)
        self.flush()
        self.assertEqual(
            self.attempts(),
            [(50_001, 1, 1, "retried"), (50_002, 1, 2, "retried"), (50_003, 1, 3, "completed")],
        )

    def test_attempt_that_is_open_keeps_its_number_in_the_next_segment(self) -> None:
        traffic = self.traffic
        second = traffic.retry(traffic.register(50_001), 50_002)
        self.flush()
        traffic.advance(100_000)
        former = self.writer.roll(traffic.clock.seconds())
        assert former is not None
        seal(former, traffic.now, moved=True)
        self.assertEqual(self.attempts()[-1], (50_002, 1, 2, None))
        traffic.remove(second)
        self.flush()
        self.assertEqual(self.attempts()[-1], (50_002, 1, 2, "completed"))

    def test_failed_command(self) -> None:
        self.traffic.fail("proxy error: refused")
        self.flush()
        (found,) = entries_of(self.directory)
        self.assertEqual(
            (found["state"], found["seq"], found["client"], found["nat_port"], found["reason"]),
            ("failed", 1, "10.0.0.6", None, "proxy error: refused"),
        )
        self.assertEqual(self.writer.rows, 1)

    def test_action_of_an_administrator(self) -> None:
        self.traffic.ring.act("kill", self.traffic.wall, 0, 99, "client 10.0.0.5", 4)
        self.flush()
        self.assertEqual(
            rows_of(paths_of(self.directory)[0], "select * from actions"),
            [(1, "kill", NOW, 4, 0, 99, "client 10.0.0.5")],
        )

    def test_text_that_is_not_unicode_is_escaped(self) -> None:
        self.traffic.ring.act("kill", self.traffic.wall, 0, 99, "name '\udcff'")
        self.traffic.fail("\udcfe")
        self.flush()
        path = paths_of(self.directory)[0]
        self.assertEqual(rows_of(path, "select reason from actions"), [("name '\\udcff'",)])
        self.assertEqual(rows_of(path, "select reason from entries"), [("\\udcfe",)])

    def test_complete_to_is_the_moment_of_the_batch(self) -> None:
        self.traffic.advance(3)
        self.flush()
        self.assertEqual(meta_of(paths_of(self.directory)[0])["complete_to"], NOW + 3_000_000)
        self.assertEqual(self.writer.complete_to, NOW + 3_000_000)

    def test_stop_in_order_is_recorded(self) -> None:
        self.traffic.advance(3)
        self.flush(stopped=True)
        self.assertEqual(meta_of(paths_of(self.directory)[0])["stopped"], NOW + 3_000_000)


class NamesTests(WriterCase):
    names = False

    def test_names_are_left_out(self) -> None:
        self.traffic.command(50_001)
        self.traffic.register(50_002)
        self.flush()
        found = [(entry["verb"], entry["name"]) for entry in entries_of(self.directory)]
        self.assertEqual(found, [("GET", ""), ("GET", "")])


class LossTests(WriterCase):
    def setUp(self) -> None:
        super().setUp()
        self.traffic = Traffic(size=6)
        self.writer = self.make(self.traffic)

    def test_events_that_the_ring_lost_are_a_gap(self) -> None:
        traffic = self.traffic
        self.flush()
        for port in range(50_001, 50_005):
            traffic.advance(1)
            traffic.command(port)
        self.flush()
        self.assertEqual(self.states(), [(50_003, "removed"), (50_004, "removed")])
        self.assertEqual(gaps_of(self.directory), [GapRow(NOW, NOW + 3_000_000, 1, 6, "overrun")])
        self.assertEqual(self.writer.gaps, 1)

    def test_translation_that_ended_in_a_gap_is_lost(self) -> None:
        traffic = self.traffic
        entry = traffic.register(50_001)
        kept = traffic.register(50_002)
        self.flush()
        traffic.remove(entry)
        for port in range(50_003, 50_006):
            traffic.command(port)
        self.flush()
        self.assertEqual(self.states()[:2], [(50_001, "lost"), (50_002, "registered")])
        traffic.remove(kept)
        self.flush()
        self.assertEqual(self.states()[:2], [(50_001, "lost"), (50_002, "removed")])

    def test_translation_that_began_in_a_gap_and_is_open_is_written(self) -> None:
        traffic = self.traffic
        self.flush()
        entry = traffic.register(50_001)
        for port in range(50_003, 50_006):
            traffic.command(port)
        self.flush()
        self.assertIn((50_001, "registered"), self.states())
        traffic.remove(entry)
        self.flush()
        (found,) = [found for found in entries_of(self.directory) if found["nat_port"] == 50_001]
        self.assertEqual((found["state"], found["seq"]), ("removed", 1))

    def test_translation_whose_beginning_is_lost_is_written_at_its_end(self) -> None:
        traffic = self.traffic
        self.flush()
        entry = traffic.register(50_001)
        traffic.relay(entry)
        for port in range(50_003, 50_005):
            traffic.command(port)
        traffic.remove(entry)
        self.flush()
        (found,) = [found for found in entries_of(self.directory) if found["nat_port"] == 50_001]
        self.assertEqual(
            (found["state"], found["seq"], found["client"]), ("removed", None, "10.0.0.5")
        )

    def test_relaying_after_a_gap_has_the_first_number_too(self) -> None:
        traffic = self.traffic
        self.flush()
        entry = traffic.register(50_001)
        for port in range(50_003, 50_005):
            traffic.command(port)
        traffic.relay(entry)
        self.flush()
        path = paths_of(self.directory)[0]
        self.assertEqual(
            rows_of(path, "select seq, relaying_seq from entries where serial = 1"), [(1, 8)]
        )


class ClockTests(WriterCase):
    def test_steps_are_recorded_and_complete_to_follows(self) -> None:
        self.flush()
        self.traffic.wall -= 60
        self.traffic.advance(1)
        self.flush()
        self.traffic.wall += 7
        self.traffic.advance(1)
        self.flush()
        self.assertEqual(
            steps_of(self.directory),
            [
                Step(NOW - 59_000_000, -60_000_000, 1_000_000),
                Step(NOW - 51_000_000, 7_000_000, 1_000_000),
            ],
        )
        self.assertEqual(meta_of(paths_of(self.directory)[0])["complete_to"], NOW - 51_000_000)

    def test_step_during_a_fault_has_its_own_time(self) -> None:
        self.flush()
        self.traffic.wall += 7
        with patch.object(Segment, "append", side_effect=sqlite3.OperationalError("full")):
            for _ in range(3):
                self.traffic.advance(1)
                self.assertRaises(Unwritable, self.writer.write, self.traffic.batch())
        self.flush()
        self.assertEqual(steps_of(self.directory), [Step(NOW + 8_000_000, 7_000_000, 1_000_000)])

    def test_small_corrections_are_not_steps(self) -> None:
        self.flush()
        for _ in range(20):
            self.traffic.wall += 0.05
            self.traffic.advance(1)
            self.flush()
        self.assertEqual(steps_of(self.directory), [])

    def test_gap_over_a_step_back_has_its_ends_in_order(self) -> None:
        self.traffic = Traffic(size=3)
        self.writer = self.make(self.traffic)
        self.flush()
        self.traffic.wall -= 60
        for port in range(50_001, 50_003):
            self.traffic.command(port)
        self.flush()
        self.assertEqual(gaps_of(self.directory), [GapRow(NOW - 60_000_000, NOW, 1, 3, "overrun")])


class RollTests(WriterCase):
    def roll(self) -> str | None:
        return self.writer.roll(self.traffic.clock.seconds())

    def test_nothing_to_roll_before_the_first_batch(self) -> None:
        self.assertIsNone(self.roll())

    def test_full_segment_is_followed(self) -> None:
        self.patch(writers, "ROWS", 2)
        self.traffic.command(50_001)
        self.flush()
        self.assertIsNone(self.roll())
        self.traffic.command(50_002)
        self.traffic.advance(1)
        self.flush()
        former = self.roll()
        first, second = paths_of(self.directory)
        self.assertEqual(former, first)
        self.assertEqual(meta_of(first)["complete_to"], meta_of(second)["opened"])
        self.assertEqual((meta_of(first)["part"], meta_of(second)["part"]), (1, 2))

    def test_old_segment_is_followed_if_something_in_it_ended(self) -> None:
        entry = self.traffic.register(50_001)
        self.flush()
        self.traffic.advance(writers.AGE)
        self.flush()
        self.assertIsNone(self.roll())
        self.traffic.remove(entry)
        self.flush()
        self.assertIsNotNone(self.roll())
        self.assertIsNone(self.roll())

    def test_open_translations_move(self) -> None:
        self.patch(writers, "ROWS", 2)
        entry = self.traffic.register(50_001)
        self.traffic.command(50_002)
        self.traffic.advance(1)
        self.flush()
        former = self.roll()
        assert former is not None
        self.assertEqual(
            [
                rows_of(path, "select serial from entries order by 1")
                for path in paths_of(self.directory)
            ],
            [[(1,), (2,)], [(1,)]],
        )
        seal(former, NOW, moved=True)
        self.traffic.remove(entry)
        self.flush()
        self.assertEqual(sorted(self.states()), [(50_001, "removed"), (50_002, "removed")])
        self.assertEqual(
            [rows_of(path, "select serial from entries") for path in paths_of(self.directory)],
            [[(2,)], [(1,)]],
        )

    def test_segment_remains_if_the_next_cannot_be_created(self) -> None:
        self.patch(writers, "ROWS", 1)
        self.traffic.command(50_001)
        self.flush()
        with patch.object(Segment, "create", side_effect=OSError(28, "No space left on device")):
            self.assertIsNone(self.roll())
        self.traffic.command(50_002)
        self.flush()
        self.assertEqual(len(paths_of(self.directory)), 1)
        self.assertIsNotNone(self.roll())


class FaultTests(WriterCase):
    def fault(self, error: Exception) -> None:
        """Fail to write what is new."""
        with patch.object(Segment, "append", side_effect=error):
            self.assertRaises(Unwritable, self.writer.write, self.traffic.batch())

    def test_nothing_is_lost_while_the_ring_has_it(self) -> None:
        entry = self.traffic.register(50_001)
        self.flush()
        self.traffic.relay(entry)
        self.fault(sqlite3.OperationalError("database or disk is full"))
        self.traffic.remove(entry)
        self.traffic.command(50_002)
        self.fault(sqlite3.OperationalError("disk I/O error"))
        self.flush()
        self.assertEqual(self.states(), [(50_001, "removed"), (50_002, "removed")])
        self.assertEqual(gaps_of(self.directory), [])
        self.assertEqual(len(paths_of(self.directory)), 1)
        self.assertEqual(self.writer.rows, 2)

    def test_what_the_ring_loses_meanwhile_is_a_gap_of_the_disk(self) -> None:
        self.traffic = Traffic(size=3)
        self.writer = self.make(self.traffic)
        self.flush()
        self.traffic.advance(1)
        self.traffic.command(50_001)
        self.fault(sqlite3.OperationalError("database or disk is full"))
        self.traffic.advance(1)
        self.traffic.command(50_002)
        self.fault(sqlite3.OperationalError("database or disk is full"))
        self.flush()
        self.assertEqual(gaps_of(self.directory), [GapRow(NOW, NOW + 2_000_000, 1, 3, "disk")])
        for port in range(50_003, 50_005):
            self.traffic.command(port)
        self.flush()
        self.assertEqual([gap.cause for gap in gaps_of(self.directory)], ["disk", "overrun"])

    def test_reserve_of_the_file_system_is_left(self) -> None:
        self.flush()
        self.traffic.command(50_001)
        self.patch(writers, "check_space", self.full)
        self.assertRaises(Unwritable, self.writer.write, self.traffic.batch())
        self.assertEqual(self.states(), [])

    def full(self, directory: str) -> None:
        raise Unwritable("full")

    def test_database_of_limited_size(self) -> None:
        self.flush()
        assert self.writer.segment is not None
        connection = self.writer.segment._connection
        pages = connection.execute("pragma page_count").fetchone()[0]
        connection.execute(f"pragma max_page_count = {pages}")
        for port in range(50_000, 50_300):
            self.traffic.command(port)
        error = self.assertRaises(Unwritable, self.writer.write, self.traffic.batch())
        self.assertIn("database or disk is full", str(error))
        self.assertIn("--journal-max-size", str(error))
        self.assertEqual(self.states(), [])
        # The limit is one of the connection, which has been closed.
        self.flush()
        self.assertEqual(len(self.states()), 300)

    def test_damaged_segment_is_followed_by_another(self) -> None:
        entry = self.traffic.register(50_001)
        self.traffic.command(50_002)
        self.traffic.advance(1)
        self.flush()
        self.traffic.advance(1)
        self.traffic.command(50_003)
        self.fault(sqlite3.DatabaseError("database disk image is malformed"))
        self.flush()
        first, second = paths_of(self.directory)
        self.assertEqual(meta_of(second)["opened"], meta_of(first)["complete_to"])
        self.assertEqual(rows_of(second, "select serial from entries order by 1"), [(1,), (3,)])
        self.traffic.remove(entry)
        self.flush()
        self.assertEqual(len(self.states()), 3)

    def test_deleted_segment_is_followed_by_another_and_is_a_gap(self) -> None:
        self.traffic.command(50_001)
        self.traffic.advance(1)
        self.flush()
        os.unlink(paths_of(self.directory)[0])
        self.traffic.command(50_002)
        self.assertRaises(Unwritable, self.writer.write, self.traffic.batch())
        self.flush()
        self.assertEqual(self.states(), [(50_002, "removed")])
        self.assertEqual(
            gaps_of(self.directory), [GapRow(NOW, NOW + 1_000_000, None, None, "unreadable")]
        )

    def test_directory_that_is_replaced_by_a_copy_has_a_new_segment(self) -> None:
        self.traffic.command(50_001)
        self.flush()
        shutil.move(self.directory, self.directory + ".old")
        shutil.copytree(self.directory + ".old", self.directory)
        self.traffic.command(50_002)
        self.assertRaises(Unwritable, self.writer.write, self.traffic.batch())
        self.flush()
        self.assertEqual(self.states(), [(50_001, "removed"), (50_002, "removed")])

    def test_directory_that_is_deleted_is_unwritable(self) -> None:
        self.flush()
        shutil.rmtree(self.directory)
        error = self.assertRaises(Unwritable, self.writer.write, self.traffic.batch())
        self.assertIn("No such file", str(error))


def entries_of_live(writer: Writer) -> list[tuple[object, ...]]:
    """Return the rows of the live segment's table."""
    assert writer.segment is not None
    assert writer.segment.rows == rows_of(writer.segment.path, "select count(*) from entries")[0][0]
    return rows_of(writer.segment.path, "select serial from entries")


class GapTests(WriterCase):
    def test_gap_from_elsewhere_is_recorded_once(self) -> None:
        gap = GapRow(1, 2, None, None, "unreadable")
        self.writer.add_gap(gap)
        with patch.object(Segment, "append", side_effect=sqlite3.OperationalError("locked")):
            self.assertRaises(Unwritable, self.writer.write, self.traffic.batch())
        self.flush()
        self.flush()
        self.assertEqual(gaps_of(self.directory), [gap])

    def test_gap_that_is_added_during_a_write_is_in_the_next(self) -> None:
        gap = GapRow(1, 2, None, None, "unreadable")
        append = Segment.append

        def slow(segment: Segment, addition: Addition) -> None:
            self.writer.add_gap(gap)
            append(segment, addition)

        with patch.object(Segment, "append", slow):
            self.flush()
        self.assertEqual(gaps_of(self.directory), [])
        self.flush()
        self.assertEqual(gaps_of(self.directory), [gap])
