"""Segments: what a file has after each step, its permissions, and a schema that is refused."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal import segment as segments
from natproxy.journal.rows import COLUMNS, Action, Entry, GapRow, Step
from natproxy.journal.schema import TABLES, VERSION
from natproxy.journal.segment import (
    Addition,
    NewerSchema,
    NotASegment,
    Segment,
    connect,
    seal,
    statements,
)
from natproxy.records.record import Origin
from tests.support.journals import NOW, meta_of, rows_of

ORIGIN = Origin("proxy-9000", 0, "0a1b")


def entry(
    serial: int, ended: bool = True, client: str = "10.0.0.5", identity: str | None = None
) -> Entry:
    """Return the entry of a translation that begins one second after the one before."""
    started = NOW + serial * 1_000_000
    return (
        serial,
        serial * 3,
        serial * 3 + 1,
        serial * 3 + 2 if ended else None,
        started,
        500,
        started + 900 if ended else None,
        client,
        43_210,
        identity,
        "10.0.0.1",
        50_000 + serial,
        "10.0.0.9",
        9001,
        "GET",
        "a%20b",
        100,
        110,
        "completed" if ended else None,
        None,
        1_500_000 if ended else None,
        None,
    )


class SegmentCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory, 0o700)

    def create(self, *entries: Entry, part: int = 1) -> Segment:
        segment = Segment.create(self.directory, ORIGIN, NOW - 5, NOW, part, entries)
        self.addCleanup(segment.close)
        return segment


class SegmentTests(SegmentCase):
    def test_name_that_exists_is_not_used_again(self) -> None:
        first, second = self.create(entry(1)), self.create(entry(2))
        self.assertNotEqual(first.path, second.path)
        self.assertEqual(meta_of(second.path)["opened"], NOW)

    def test_files_are_for_the_owner_alone(self) -> None:
        umask = os.umask(0)
        self.addCleanup(os.umask, umask)
        self.create(entry(1))
        modes = {
            os.stat(os.path.join(self.directory, file)).st_mode & 0o777
            for file in os.listdir(self.directory)
        }
        self.assertEqual((len(os.listdir(self.directory)), modes), (3, {0o600}))

    def test_meta_of_a_new_segment(self) -> None:
        segment = self.create(part=2)
        self.assertEqual(
            meta_of(segment.path),
            {
                "proxy": "proxy-9000",
                "worker": 0,
                "boot": "0a1b",
                "part": 2,
                "boot_started": NOW - 5,
                "opened": NOW,
                "complete_to": NOW,
            },
        )
        self.assertEqual(rows_of(segment.path, "pragma user_version"), [(VERSION,)])

    def test_number_of_columns_is_that_of_the_table(self) -> None:
        segment = self.create()
        columns = rows_of(segment.path, "select count(*) from pragma_table_info('entries')")
        # Two of them, those of a further attempt, are one value of an entry.
        self.assertEqual((columns, len(entry(1))), ([(COLUMNS + 2,)], COLUMNS + 1))

    def test_columns_of_a_first_attempt_and_missing_texts_are_null(self) -> None:
        second = entry(2, identity="alice")
        segment = self.create(
            entry(1), (*second[:19], "reset", *second[20:]), (*entry(3)[:-1], (1, 2))
        )
        self.assertEqual(
            rows_of(
                segment.path,
                "select serial, command, attempt, identity, verb, reason, duration from entries",
            ),
            [
                (1, None, None, None, "GET", None, 1_500_000),
                (2, None, None, "alice", "GET", "reset", 1_500_000),
                (3, 1, 2, None, "GET", None, 1_500_000),
            ],
        )

    def test_view_shows_times_and_hosts_as_text(self) -> None:
        segment = self.create(entry(1))
        (row,) = rows_of(
            segment.path,
            "select proxy, worker, boot, serial, command, attempt, started, ended, client, nat,"
            " nat_port, upstream, state, duration from translations",
        )
        self.assertEqual(
            row,
            (
                "proxy-9000",
                0,
                "0a1b",
                1,
                1,
                1,
                "2023-11-14T22:13:21.000000Z",
                "2023-11-14T22:13:21.000900Z",
                "10.0.0.5",
                "10.0.0.1",
                50_001,
                "10.0.0.9",
                "removed",
                1.5,
            ),
        )

    def test_every_number_of_entries_is_written(self) -> None:
        segment = self.create()
        serial = 0
        for number in (1, 15, 16, 17, 127, 128, 145, 300):
            batch = [entry(serial + place, client=f"10.0.1.{place % 3}") for place in range(number)]
            segment.append(Addition(NOW + serial, batch))
            serial += number
        found = rows_of(segment.path, "select serial, client from translations order by serial")
        self.assertEqual([row[0] for row in found], list(range(serial)))
        self.assertEqual({row[1] for row in found}, {"10.0.1.0", "10.0.1.1", "10.0.1.2"})
        self.assertEqual(segment.rows, serial)

    def test_entry_replaces_that_of_the_same_serial(self) -> None:
        segment = self.create(entry(1, ended=False))
        segment.append(Addition(NOW, [entry(1)], replaced=1))
        self.assertEqual(
            rows_of(segment.path, "select serial, outcome from entries"), [(1, "completed")]
        )
        self.assertEqual(segment.rows, 1)

    def test_everything_of_an_addition_is_written(self) -> None:
        segment = self.create()
        action = Action(7, "kill", NOW, 3, 0, 99, "serial 3")
        gap = GapRow(NOW, NOW + 1, 1, 6, "overrun")
        step = Step(NOW, -200_000, 250_000)
        segment.append(Addition(NOW + 9, [], 0, [action], [gap], [step], stopped=True))
        self.assertEqual(rows_of(segment.path, "select * from actions"), [action])
        self.assertEqual(rows_of(segment.path, "select * from gaps"), [gap])
        self.assertEqual(rows_of(segment.path, "select * from steps"), [step])
        meta = meta_of(segment.path)
        self.assertEqual((meta["complete_to"], meta["stopped"]), (NOW + 9, NOW + 9))

    def test_addition_that_fails_leaves_nothing(self) -> None:
        segment = self.create()
        with self.assertRaises(OverflowError):
            segment.append(Addition(2**63, [entry(1, client="10.9.9.9")]))
        self.assertEqual(rows_of(segment.path, "select * from hosts"), [])
        segment.append(Addition(NOW, [entry(2, client="10.8.8.8"), entry(3)]))
        self.assertEqual(
            rows_of(segment.path, "select client from translations order by serial"),
            [("10.8.8.8",), ("10.0.0.5",)],
        )

    def test_segment_that_is_opened_again_continues(self) -> None:
        segment = self.create(entry(1))
        segment.close()
        again = Segment.open(segment.path)
        self.addCleanup(again.close)
        again.append(Addition(NOW, [entry(2)]))
        self.assertEqual(again.rows, 2)
        self.assertEqual(
            rows_of(segment.path, "select serial, client from translations"),
            [(1, "10.0.0.5"), (2, "10.0.0.5")],
        )

    def test_segment_whose_creation_fails_leaves_no_file(self) -> None:
        self.patch(segments, "TABLES", "create nonsense;")
        self.assertRaises(sqlite3.OperationalError, self.create)
        self.assertEqual(os.listdir(self.directory), [])

    def test_statements_are_those_of_the_script(self) -> None:
        found = list(statements(TABLES))
        self.assertEqual(len(found), TABLES.count("create table") + 1)


class SealTests(SegmentCase):
    def test_sealed_segment_is_one_file_with_an_index(self) -> None:
        segment = self.create(entry(1), entry(2))
        segment.append(Addition(NOW + 10_000_000))
        segment.close()
        info = seal(segment.path, NOW + 20_000_000, moved=False)
        self.assertEqual(os.listdir(self.directory), [os.path.basename(segment.path)])
        with closing(sqlite3.connect(f"file:{segment.path}?immutable=1", uri=True)) as connection:
            (plan,) = connection.execute(
                "explain query plan select * from entries where nat_port = 1 and ended >= 2"
            )
        self.assertIn("by_port", plan[3])
        self.assertEqual(
            info[:13],
            (
                os.path.basename(segment.path),
                "proxy-9000",
                0,
                "0a1b",
                1,
                NOW - 5,
                NOW,
                NOW + 10_000_000,
                None,
                NOW + 20_000_000,
                NOW + 1_000_000,
                NOW + 2_000_900,
                2,
            ),
        )
        self.assertEqual(info.bytes, os.path.getsize(segment.path))

    def test_open_entries_that_moved_are_deleted(self) -> None:
        segment = self.create(entry(1), entry(2, ended=False))
        segment.close()
        seal(segment.path, NOW, moved=True)
        self.assertEqual(rows_of(segment.path, "select serial from entries"), [(1,)])

    def test_open_entries_that_did_not_move_are_lost(self) -> None:
        segment = self.create(entry(1), entry(2, ended=False))
        segment.close()
        seal(segment.path, NOW, moved=False)
        self.assertEqual(
            rows_of(segment.path, "select serial, state, ended from translations where serial = 2"),
            [(2, "lost", None)],
        )

    def test_times_that_go_back_widen_the_bounds(self) -> None:
        backwards = list(entry(1))
        backwards[6] = NOW - 7
        segment = self.create(entry(2), tuple(backwards))  # type: ignore[arg-type]
        segment.close()
        info = seal(segment.path, NOW, moved=False)
        self.assertEqual((info.min_started, info.max_ended), (NOW - 7, NOW + 2_000_900))

    def test_segment_that_is_read_is_sealed_later(self) -> None:
        self.patch(segments, "BUSY", 0.01)
        segment = self.create(entry(1))
        segment.close()
        with closing(sqlite3.connect(segment.path)) as reader:
            cursor = reader.execute("select * from meta")
            cursor.fetchone()
            error = self.assertRaises(
                sqlite3.OperationalError, seal, segment.path, NOW, moved=False
            )
            self.assertIn("locked", str(error))
            cursor.close()
        self.assertEqual(seal(segment.path, NOW + 1, moved=False).sealed, NOW)

    def test_newer_schema_is_refused_and_named(self) -> None:
        segment = self.create()
        segment.close()
        with closing(connect(segment.path)) as connection:
            connection.execute(f"pragma user_version = {VERSION + 1}")
        error = self.assertRaises(NewerSchema, seal, segment.path, NOW, moved=False)
        self.assertIn(f"{segment.path} has version {VERSION + 1}", str(error))

    def test_empty_file_is_not_a_segment(self) -> None:
        path = os.path.join(self.directory, "x.segment")
        with open(path, "wb"):
            pass
        self.assertRaises(NotASegment, seal, path, NOW, moved=False)

    def test_other_file_of_sqlite_is_refused(self) -> None:
        path = os.path.join(self.directory, "x.segment")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table other (a)")
        self.assertRaises(sqlite3.DatabaseError, seal, path, NOW, moved=False)
