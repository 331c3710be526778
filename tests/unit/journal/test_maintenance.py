"""The maintenance: one run recovers, seals and deletes; what fails is due again."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal import maintenance as maintenances
from natproxy.journal import segment, writer
from natproxy.journal.catalogue import Catalogue
from natproxy.journal.maintenance import Maintenance, Report
from natproxy.journal.reader import Readers
from natproxy.journal.writer import Writer
from tests.support.journals import NOW, Traffic, meta_of, paths_of


class MaintenanceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.traffic = Traffic("0b")
        self.writer = self.make(self.traffic)
        self.maintenance = Maintenance(self.directory, "0b", NOW, 3600, 10**9)

    def make(self, traffic: Traffic) -> Writer:
        made = Writer(self.directory, traffic.origin, traffic.now, names=True)
        self.addCleanup(made.close)
        return made

    def earlier(self) -> None:
        """Leave a segment of an earlier run."""
        traffic = Traffic("0a")
        earlier = self.make(traffic)
        earlier.write(traffic.batch())
        earlier.close()

    def roll(self) -> str:
        """Write a segment that is to be sealed."""
        self.traffic.command(50_001)
        self.writer.write(self.traffic.batch())
        self.traffic.taken()
        with patch.object(writer, "ROWS", 1):
            former = self.writer.roll(0)
        assert former is not None
        self.maintenance.add(former)
        return former

    def sealed(self) -> list[str]:
        return [info.file for info in Catalogue(self.directory).infos()]

    def test_earlier_runs_are_recovered_once(self) -> None:
        self.earlier()
        report = self.maintenance.run(NOW)
        self.assertEqual((report.segments, report.gaps, report.messages), (1, (), ()))
        self.assertEqual(len(self.sealed()), 1)
        with patch.object(maintenances, "recover") as recover:
            self.maintenance.run(NOW)
        recover.assert_not_called()

    def test_unreadable_file_is_reported_once(self) -> None:
        name = "20231114T221320.000000Z-w0-0f.segment"
        with open(os.path.join(self.directory, name), "wb") as file:
            file.write(b"x" * 999)
        report = self.maintenance.run(NOW)
        self.assertEqual([gap.cause for gap in report.gaps], ["unreadable"])
        self.assertEqual(len(report.messages), 1)
        self.assertEqual(self.maintenance.run(NOW).gaps, ())

    def test_segment_that_was_deleted_before_it_is_sealed_is_reported_once(self) -> None:
        former = self.roll()
        os.unlink(former)
        report = self.maintenance.run(NOW + 5)
        self.assertEqual(
            report.messages, (f"the journal's segment {former} was deleted before it was sealed",)
        )
        self.assertEqual(self.maintenance.run(NOW + 6).messages, ())
        self.assertFalse(os.path.exists(former))

    def test_segment_is_sealed(self) -> None:
        former = self.roll()
        report = self.maintenance.run(NOW + 5)
        self.assertEqual(self.sealed(), [os.path.basename(former)])
        self.assertEqual(meta_of(former)["sealed"], NOW + 5)
        self.assertEqual(report.segments, 2)
        sizes = [
            os.path.getsize(os.path.join(self.directory, file))
            for file in os.listdir(self.directory)
        ]
        self.assertEqual(report.bytes, sum(sizes))

    def test_segment_that_is_read_is_sealed_by_a_later_run(self) -> None:
        self.patch(segment, "BUSY", 0.01)
        former = self.roll()
        with (
            closing(sqlite3.connect(former)) as reader,
            closing(reader.execute("select 1 from meta")),
        ):
            report = self.maintenance.run(NOW)
        self.assertEqual((report.messages, report.busy), ((), True))
        self.assertEqual(self.sealed(), [])
        self.assertFalse(self.maintenance.run(NOW).busy)
        self.assertEqual(len(self.sealed()), 1)

    def test_segment_that_was_read_while_it_was_sealed_is_not_kept_open_by_another_reader(
        self,
    ) -> None:
        self.patch(segment, "BUSY", 0.01)
        former = self.roll()
        readers = Readers(self.directory)
        self.addCleanup(readers.close)
        with (
            closing(sqlite3.connect(former)) as reader,
            closing(reader.execute("select 1 from meta")),
        ):
            self.maintenance.run(NOW)
            with readers.use(os.path.basename(former)) as found:
                # It is sealed, and still in WAL mode.
                self.assertTrue(found.sealed)
        self.assertFalse(self.maintenance.run(NOW).busy)
        self.assertEqual(len(self.sealed()), 1)
        with readers.use(os.path.basename(former)) as found:
            pass
        # Now it stays open.
        self.assertEqual(found.serials(), (1, 1))

    def test_segment_of_an_earlier_run_that_is_read_is_due_again(self) -> None:
        self.patch(segment, "BUSY", 0.01)
        self.earlier()
        (path,) = paths_of(self.directory)
        with (
            closing(sqlite3.connect(path)) as reader,
            closing(reader.execute("select 1 from meta")),
        ):
            self.assertTrue(self.maintenance.run(NOW).busy)
        self.assertFalse(self.maintenance.run(NOW).busy)
        self.assertEqual(len(self.sealed()), 1)

    def test_segment_that_is_damaged_does_not_stop_the_others(self) -> None:
        damaged, good = self.roll(), self.roll()
        with open(damaged, "wb") as file:
            file.write(b"x" * 999)
        (message,) = self.maintenance.run(NOW).messages
        self.assertIn(f"cannot seal the journal's segment {damaged}: ", message)
        self.assertEqual(self.sealed(), [os.path.basename(good)])
        self.assertEqual(self.maintenance.run(NOW).messages, ())

    def test_full_disk_is_reported_and_the_work_is_due_again(self) -> None:
        self.earlier()
        self.roll()
        error = sqlite3.OperationalError("database or disk is full")
        with patch.object(maintenances, "recover", side_effect=error):
            report = self.maintenance.run(NOW)
        (message,) = report.messages
        self.assertIn("cannot maintain the journal", message)
        self.assertEqual(report.segments, 3)
        self.maintenance.run(NOW)
        self.assertEqual(len(self.sealed()), 2)

    def test_old_segments_are_deleted_and_named(self) -> None:
        former = self.roll()
        self.maintenance.run(NOW)
        (message,) = self.maintenance.run(NOW + 3601 * 1_000_000).messages
        self.assertIn(f"deleted the oldest segments of the journal in {self.directory}: ", message)
        self.assertIn(os.path.basename(former), message)
        self.assertEqual(len(paths_of(self.directory)), 1)

    def test_report_of_nothing(self) -> None:
        report = self.maintenance.run(NOW)
        self.assertEqual(report, Report(0, report.bytes))
