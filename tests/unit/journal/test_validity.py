"""Values of the wrong type, and times that no date has, in files that SQLite takes for sound."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.catalogue import Catalogue, read_catalogue
from natproxy.journal.erase import erase_client
from natproxy.journal.files import DAMAGED
from natproxy.journal.recovery import recover
from natproxy.journal.rows import Row
from natproxy.journal.schema import CATALOGUE_FILE
from natproxy.journal.search import Journal
from natproxy.journal.validity import LAST, gaps_of, rows_of, steps_of
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.record import Record
from natproxy.records.whois import UNKNOWN, WhoisQuery
from tests.support.journal_runs import SECOND, RunsCase

PORT = 50_000
HUGE = (1 << 63) - 1
ROW = Row(1, 1, 2, 3, None, None, 0, 5, 9, "a", 1, "", "b", 2, "c", 3, "GET", "n", None, 0,
          "completed", "", 9)  # fmt: skip


class RowsTests(SynchronousTestCase):
    def test_sound_rows_are_returned(self) -> None:
        failed = ROW._replace(nat=None, nat_port=None, upstream=None, upstream_port=None)
        self.assertEqual(rows_of([tuple(ROW), tuple(failed)]), [ROW, failed])

    def test_each_column_has_its_type(self) -> None:
        for column in Row._fields:
            for value in (b"x", 0.5, "x" if type(getattr(ROW, column)) is int else 1):
                if value == 1 and getattr(ROW, column) is None:
                    continue
                with self.assertRaisesRegex(sqlite3.DatabaseError, "malformed value"):
                    rows_of([tuple(ROW._replace(**{column: value}))])

    def test_times_are_those_of_a_date(self) -> None:
        for wrong in ({"started": HUGE}, {"ended": -HUGE}, {"relaying": LAST + 1}):
            with self.assertRaisesRegex(sqlite3.DatabaseError, "malformed value"):
                rows_of([tuple(ROW._replace(**wrong))])
        with self.assertRaises(sqlite3.DatabaseError):
            gaps_of([(0, HUGE, None, None, "killed")])
        with self.assertRaises(sqlite3.DatabaseError):
            steps_of([(0, HUGE, 0)])


class DamageTests(RunsCase):
    """Two sealed segments, and a live one."""

    def setUp(self) -> None:
        super().setUp()
        self.daemon.start()
        for _ in range(2):
            self.daemon.remove(self.daemon.register(PORT))
            self.daemon.wait(SECOND)
            self.daemon.seal()
        self.first, self.second, self.live = sorted(self.directory.glob("*.segment"))

    def change(self, path: Path, statement: str) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(statement)
            connection.commit()
        # A reader waits for a file that may still be written.
        os.utime(path, (0, 0))

    def read(self) -> list[Record]:
        """Search in every manner; return the translations."""
        with Journal(str(self.directory)) as journal:
            journal.gaps()
            list(journal.events(EventsQuery(until=self.daemon.now)))
            return list(journal.history(HistoryQuery(until=self.daemon.now)))

    def problems(self) -> list[str]:
        with Journal(str(self.directory)) as journal:
            return [problem for check in journal.verify() for problem in check.problems]

    def test_segment_with_a_malformed_row_is_a_gap(self) -> None:
        self.assertEqual(len(self.read()), 2)
        content = self.first.read_bytes()
        for statement in (
            "update entries set started = 'x'",
            f"update entries set ended = {HUGE}",
            "update entries set name = x'ff'",
            "update hosts set host = x'ff' where id = 1",
        ):
            self.first.write_bytes(content)
            self.change(self.first, statement)
            self.assertEqual(len(self.read()), 1, statement)
            with Journal(str(self.directory)) as journal:
                query = WhoisQuery(PORT + 5, since=self.daemon.now - 2 * SECOND)
                self.assertEqual(journal.whois(query).result, UNKNOWN)

    def test_malformed_meta_is_reported_and_set_aside(self) -> None:
        for statement in (
            "update meta set value = 9e999 where key = 'opened'",
            "update meta set value = 'x' where key = 'part'",
            "update meta set value = x'00' where key = 'boot'",
        ):
            self.change(self.second, statement)
            self.assertTrue(any("malformed value" in one for one in self.problems()), statement)
            self.read()
        self.daemon.close()
        Catalogue(str(self.directory)).remove(self.second.name)
        recovered = recover(str(self.directory), "other", self.daemon.now)
        self.assertTrue(any("is set aside" in message for message in recovered.messages))
        self.assertTrue(Path(f"{self.second}{DAMAGED}").exists())

    def test_catalogue_with_a_malformed_value_is_not_used(self) -> None:
        path = self.directory / CATALOGUE_FILE
        self.assertEqual(len(read_catalogue(str(self.directory))), 2)
        for column in ("opened", "worker", "bytes", "max_ended"):
            self.change(path, f"update segments set {column} = 'x'")
            self.assertEqual(read_catalogue(str(self.directory)), [], column)
            self.assertEqual(len(self.read()), 2)
            Catalogue(str(self.directory)).refresh()
            self.assertEqual(len(read_catalogue(str(self.directory))), 2)

    def test_message_of_sqlite_with_bytes_of_the_file(self) -> None:
        content = self.first.read_bytes()
        # The text of the schema is in the first page.
        place = content.index(b"CREATE TABLE hosts")
        self.first.write_bytes(content[:place] + b"\xeb\x1b\x07" + content[place + 3 :])
        os.utime(self.first, (0, 0))
        problems = self.problems()
        self.assertTrue(problems)
        self.assertTrue(all(problem.isprintable() for problem in problems), problems)
        self.assertEqual(len(self.read()), 1)
        (failure,) = [one for one in erase_client(str(self.directory), "10.9.9.9") if one.failure]
        self.assertEqual(failure.segment, self.first.name)
