"""Recovery: what a start makes of the segments that earlier runs left."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal import recovery, segment
from natproxy.journal.catalogue import Catalogue
from natproxy.journal.files import DAMAGED
from natproxy.journal.recovery import Recovered, recover
from natproxy.journal.rows import GapRow
from natproxy.journal.schema import VERSION
from natproxy.journal.writer import Writer
from tests.support.journals import (
    NOW,
    Traffic,
    entries_of,
    gaps_of,
    meta_of,
    paths_of,
    rows_of,
)

LATER = NOW + 60_000_000


class RecoveryCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.traffic = Traffic()
        self.writer = Writer(self.directory, self.traffic.origin, self.traffic.now, names=True)
        self.addCleanup(self.writer.close)

    def flush(self, stopped: bool = False) -> None:
        self.writer.write(self.traffic.batch(stopped))
        self.traffic.taken()

    def recover(self, now: int = LATER) -> Recovered:
        return recover(self.directory, "0b", now)

    def states(self) -> list[tuple[int, str]]:
        return [(entry["nat_port"], entry["state"]) for entry in entries_of(self.directory)]


class RunTests(RecoveryCase):
    def test_nothing_is_recovered_in_an_empty_directory(self) -> None:
        self.assertEqual(self.recover(), Recovered([], [], [], busy=False))

    def test_killed_run_has_a_gap_and_lost_translations(self) -> None:
        self.traffic.register(50_001)
        self.traffic.command(50_002)
        self.traffic.advance(1)
        self.flush()
        self.writer.close()
        recovered = self.recover()
        (path,) = paths_of(self.directory)
        self.assertEqual(recovered, Recovered([os.path.basename(path)], [], [], busy=False))
        self.assertEqual(sorted(self.states()), [(50_001, "lost"), (50_002, "removed")])
        self.assertEqual(
            gaps_of(self.directory), [GapRow(NOW + 1_000_000, LATER, None, None, "killed")]
        )
        self.assertEqual(meta_of(path)["sealed"], LATER)
        (info,) = Catalogue(self.directory).infos()
        self.assertEqual((info.rows, len(info.gaps)), (2, 1))

    def test_run_that_stopped_in_order_has_none(self) -> None:
        self.traffic.command(50_002)
        self.flush(stopped=True)
        self.writer.close()
        self.recover()
        self.assertEqual(gaps_of(self.directory), [])
        self.assertEqual(len(Catalogue(self.directory).infos()), 1)

    def test_second_recovery_changes_nothing(self) -> None:
        self.flush()
        self.writer.close()
        self.recover()
        self.assertEqual(self.recover(LATER + 5), Recovered([], [], [], busy=False))
        self.assertEqual(gaps_of(self.directory), [GapRow(NOW, LATER, None, None, "killed")])

    def test_interrupted_recovery_is_repeated(self) -> None:
        self.traffic.register(50_001)
        self.flush()
        self.writer.close()
        with patch.object(recovery, "seal", side_effect=KeyboardInterrupt):
            self.assertRaises(KeyboardInterrupt, self.recover)
        self.recover(LATER + 5)
        self.assertEqual(gaps_of(self.directory), [GapRow(NOW, LATER + 5, None, None, "killed")])
        self.assertEqual(self.states(), [(50_001, "lost")])

    def test_segment_of_this_run_is_left_alone(self) -> None:
        self.traffic.register(50_001)
        self.flush()
        recover(self.directory, self.traffic.origin.boot, LATER)
        self.assertEqual(self.states(), [(50_001, "registered")])

    def test_clock_that_was_set_back_before_the_start(self) -> None:
        self.flush()
        self.writer.close()
        self.recover(NOW - 9)
        self.assertEqual(gaps_of(self.directory), [GapRow(NOW - 9, NOW, None, None, "killed")])

    def test_segment_that_is_read_is_recovered_later(self) -> None:
        self.patch(segment, "BUSY", 0.01)
        self.flush()
        self.writer.close()
        (path,) = paths_of(self.directory)
        with (
            closing(sqlite3.connect(path)) as reader,
            closing(reader.execute("select 1 from meta")),
        ):
            self.assertTrue(self.recover().busy)
        self.assertEqual(len(self.recover().segments), 1)


class PartsTests(RecoveryCase):
    def test_earlier_part_that_is_recovered_alone_is_not_the_last(self) -> None:
        self.patch(segment, "BUSY", 0.01)
        self.writer.close()
        first, second = paths_of(self.directory)
        with (
            closing(sqlite3.connect(first)) as reader,
            closing(reader.execute("select 1 from meta")),
        ):
            recovered = self.recover()
        self.assertEqual(recovered, Recovered([os.path.basename(second)], [], [], busy=True))
        self.recover(LATER + 5)
        self.assertEqual(rows_of(first, "select outcome from entries"), [("completed",)])
        self.assertEqual(gaps_of(self.directory), [GapRow(NOW, LATER, None, None, "killed")])

    def setUp(self) -> None:
        super().setUp()
        self.traffic.register(50_001)
        self.traffic.command(50_002)
        self.flush()
        with patch("natproxy.journal.writer.ROWS", 1):
            self.writer.roll(self.traffic.clock.seconds())

    def test_run_that_was_killed_before_a_segment_was_sealed(self) -> None:
        self.writer.close()
        self.recover()
        first, second = paths_of(self.directory)
        self.assertEqual(rows_of(first, "select serial, outcome from entries"), [(2, "completed")])
        self.assertEqual(rows_of(second, "select serial, outcome from entries"), [(1, "lost")])
        self.assertEqual(rows_of(first, "select * from gaps"), [])
        self.assertEqual(rows_of(second, "select since, cause from gaps"), [(NOW, "killed")])

    def test_first_part_is_the_last_if_the_second_cannot_be_read(self) -> None:
        self.writer.close()
        second = paths_of(self.directory)[1]
        with open(second, "wb") as file:
            file.write(b"SQLite format 3\0" + b"\xff" * 9000)
        recovered = self.recover()
        self.assertEqual(sorted(self.states()), [(50_001, "lost"), (50_002, "removed")])
        self.assertEqual(gaps_of(self.directory), [GapRow(NOW, LATER, None, None, "killed")])
        self.assertEqual(recovered.gaps, [GapRow(NOW + 1, LATER, None, None, "unreadable")])


class DamageTests(RecoveryCase):
    def damaged(self, data: bytes) -> str:
        path = os.path.join(self.directory, "20231114T221320.000007Z-w0-0c.segment")
        with open(path, "wb") as file:
            file.write(data)
        return path

    def test_file_that_cannot_be_read_is_set_aside(self) -> None:
        path = self.damaged(b"x" * 5000)
        with open(f"{path}-wal", "wb"):
            pass
        recovered = self.recover()
        self.assertEqual(recovered.gaps, [GapRow(NOW + 7, LATER, None, None, "unreadable")])
        (message,) = recovered.messages
        self.assertIn(f"cannot read the journal's segment {path}: ", message)
        self.assertIn(f"set aside as {os.path.basename(path)}{DAMAGED}", message)
        self.assertEqual(paths_of(self.directory), [])
        self.assertTrue(os.path.exists(path + DAMAGED))

    def test_file_of_another_kind_is_left_alone(self) -> None:
        path = os.path.join(self.directory, "notes.segment")
        with open(path, "wb") as file:
            file.write(b"x" * 5000)
        recovered = self.recover()
        self.assertEqual(recovered.gaps, [])
        self.assertEqual(
            recovered.messages, [f"{path} is not a segment of the journal: move it elsewhere"]
        )
        self.assertTrue(os.path.exists(path))

    def test_every_page_that_is_damaged_is_found(self) -> None:
        for port in range(50_000, 50_400):
            self.traffic.command(port)
        self.flush()
        self.writer.close()
        (path,) = paths_of(self.directory)
        with open(path, "rb") as file:
            good = file.read()
        for page in range(1, len(good) // 4096):
            with open(path, "wb") as file:
                file.write(good[: page * 4096] + b"\xa5" * 4096 + good[(page + 1) * 4096 :])
            recovered = self.recover()
            self.assertEqual((page, len(recovered.gaps)), (page, 1))
            os.unlink(path + DAMAGED)

    def test_file_whose_creation_was_interrupted_is_deleted(self) -> None:
        self.damaged(b"")
        gap = GapRow(NOW + 7, LATER, None, None, "unreadable")
        self.assertEqual(self.recover(), Recovered([], [gap], [], busy=False))
        self.assertEqual(paths_of(self.directory), [])

    def test_newer_segment_is_left_alone(self) -> None:
        self.flush()
        self.writer.close()
        (path,) = paths_of(self.directory)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"pragma user_version = {VERSION + 1}")
        (message,) = self.recover().messages
        self.assertIn("use a newer natproxy", message)
        self.assertEqual(paths_of(self.directory), [path])
        self.assertEqual(gaps_of(self.directory), [])

    def test_full_disk_is_raised(self) -> None:
        self.flush()
        self.writer.close()
        error = sqlite3.OperationalError("database or disk is full")
        with patch.object(recovery, "seal", side_effect=error):
            self.assertRaises(sqlite3.OperationalError, self.recover)
