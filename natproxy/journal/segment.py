"""Segments: SQLite files with the translations of one worker and boot.

One thread appends to a live segment, in batches. Nothing here uses Twisted.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from natproxy.journal.schema import INDEX, SUFFIX, TABLES, VERSION
from natproxy.records.record import EPOCH, Origin

BUSY = 5.0
"""Seconds to wait for another connection's lock."""

ROWS_PER_STATEMENT = (128 if sqlite3.sqlite_version_info >= (3, 32) else 32, 16, 1)
"""Rows of one INSERT.

``executemany`` releases the interpreter's lock for each row, and waits for it again; beside a busy
reactor that takes three times as long, and costs the reactor twice as much. Before version 3.32,
SQLite accepts 999 values in a statement.
"""

Entry = tuple[
    int,  # serial
    "int | None",  # seq
    "int | None",  # relaying_seq
    "int | None",  # removed_seq
    "int | None",  # command
    "int | None",  # attempt
    int,  # started
    "int | None",  # relaying
    "int | None",  # ended
    str,  # client
    int,  # client_port
    "str | None",  # identity
    "str | None",  # nat
    "int | None",  # nat_port
    "str | None",  # upstream
    "int | None",  # upstream_port
    str,  # verb
    str,  # name
    "int | None",  # promised
    int,  # bytes
    "str | None",  # outcome
    "str | None",  # reason
    "int | None",  # duration
]
"""A row of the table ``entries``, with the hosts in place of their numbers."""

COLUMNS = 23
"""Of the table ``entries``."""


class GapRow(NamedTuple):
    """A row of the table ``gaps``; see `natproxy.journal.schema`."""

    since: int | None
    until: int | None
    first_seq: int | None
    last_seq: int | None
    cause: str


class Step(NamedTuple):
    """A row of the table ``steps``; see `natproxy.journal.schema`."""

    time: int
    step: int


class Action(NamedTuple):
    """A row of the table ``actions``; see `natproxy.journal.schema`."""

    seq: int
    event: str
    time: int
    serial: int | None
    uid: int | None
    pid: int | None
    reason: str | None


class Addition(NamedTuple):
    """What one transaction adds to a segment.

    :ivar complete_to: until when the segment is complete with it.
    :ivar entries: each is inserted, or replaces the one with the same serial.
    :ivar replaced: number of those that replace one.
    """

    complete_to: int
    entries: Sequence[Entry] = ()
    replaced: int = 0
    actions: Sequence[Action] = ()
    gaps: Sequence[GapRow] = ()
    steps: Sequence[Step] = ()
    stopped: bool = False


class SegmentInfo(NamedTuple):
    """What the catalogue has of a segment; see `natproxy.journal.schema`.

    :ivar sealed: ``None`` for a live segment.
    """

    file: str
    proxy: str
    worker: int
    boot: str
    part: int
    boot_started: int
    opened: int
    complete_to: int
    stopped: int | None
    sealed: int | None
    min_started: int | None
    max_ended: int | None
    rows: int
    bytes: int
    gaps: tuple[GapRow, ...] = ()
    steps: tuple[Step, ...] = ()


class NewerSchema(Exception):
    """A segment was written by a newer version of the program."""


class NotASegment(Exception):
    """A file has no tables: its creation was interrupted."""


class Segment:
    """A live segment.

    A method that raises leaves the file as it was. ``sqlite3.Error`` and ``OSError`` are raised as
    they come.

    :ivar path: of the file.
    :ivar rows: entries in it.
    """

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._hosts: dict[str, int] = dict(connection.execute("select host, id from hosts"))
        self.rows: int = connection.execute("select count(*) from entries").fetchone()[0]

    @classmethod
    def create(
        cls,
        directory: str,
        origin: Origin,
        boot_started: int,
        opened: int,
        part: int = 1,
        entries: Sequence[Entry] = (),
    ) -> Segment:
        """Create a segment, with the translations that are open now.

        :param boot_started: when the daemon started, in microseconds since the epoch.
        :param opened: from when on it is complete, likewise.
        :param part: its number in the worker and boot.
        """
        named = opened
        # The clock may have been set back.
        while os.path.lexists(path := os.path.join(directory, file_name(origin, named))):
            named += 1
        # Not by SQLite, which uses the umask.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            connection = connect(path)
            try:
                connection.execute("pragma journal_mode = wal")
                with transaction(connection):
                    for statement in statements(TABLES):
                        connection.execute(statement)
                    connection.execute(f"pragma user_version = {VERSION}")
                    connection.executemany(
                        "insert into meta values (?, ?)",
                        [
                            *origin._asdict().items(),
                            ("part", part),
                            ("boot_started", boot_started),
                            ("opened", opened),
                            ("complete_to", opened),
                        ],
                    )
                    segment = cls(path, connection)
                    # In one transaction: where the segment exists, its entries do.
                    segment._add(Addition(opened, entries))
                segment.rows = len(entries)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            remove(path)
            raise
        return segment

    @classmethod
    def open(cls, path: str) -> Segment:
        """Open a live segment of this boot again."""
        connection = connect(path)
        try:
            return cls(path, connection)
        except BaseException:
            connection.close()
            raise

    def append(self, addition: Addition) -> None:
        """Add entries and more in one transaction, which survives the end of the process."""
        known = len(self._hosts)
        try:
            with transaction(self._connection):
                self._add(addition)
        except BaseException:
            for host, _ in _last(self._hosts, len(self._hosts) - known):
                del self._hosts[host]
            raise
        self.rows += len(addition.entries) - addition.replaced

    def _add(self, addition: Addition) -> None:
        hosts, connection = self._hosts, self._connection
        known = len(hosts)
        values: list[Any] = []
        for entry in addition.entries:
            client, nat, upstream = entry[9], entry[12], entry[14]
            values += entry
            place = len(values) - COLUMNS
            values[place + 9] = hosts.setdefault(client, len(hosts) + 1)
            if nat is not None:
                values[place + 12] = hosts.setdefault(nat, len(hosts) + 1)
            if upstream is not None:
                values[place + 14] = hosts.setdefault(upstream, len(hosts) + 1)
        connection.executemany(
            "insert into hosts (host, id) values (?, ?)", _last(hosts, len(hosts) - known)
        )
        _insert(connection, values)
        connection.executemany(
            "insert or replace into actions values (?, ?, ?, ?, ?, ?, ?)", addition.actions
        )
        connection.executemany("insert into gaps values (?, ?, ?, ?, ?)", addition.gaps)
        connection.executemany("insert into steps values (?, ?)", addition.steps)
        _set(connection, "complete_to", addition.complete_to)
        if addition.stopped:
            _set(connection, "stopped", addition.complete_to)

    def close(self) -> None:
        """Close the file; SQLite moves what is in the WAL into it."""
        self._connection.close()


def seal(path: str, now: int, *, moved: bool) -> SegmentInfo:
    """Index a segment, and take it out of WAL mode.

    It is complete until its ``complete_to``, and entries that are open do not remain open.

    :param now: microseconds since the epoch.
    :param moved: whether its open entries are in the next segment.
    :raises sqlite3.Error: ``database is locked`` if it is being read: try again later.
    :raises NewerSchema: see there.
    :raises NotASegment: see there.
    """
    connection = connect(path)
    try:
        check_version(connection, path)
        with transaction(connection):
            if moved:
                connection.execute("delete from entries where outcome is null")
            else:
                connection.execute("update entries set outcome = 'lost' where outcome is null")
            connection.execute(INDEX)
            connection.execute("insert or ignore into meta values ('sealed', ?)", (now,))
        mode = connection.execute("pragma journal_mode = delete").fetchone()[0]
        if mode != "delete":
            raise sqlite3.OperationalError("database is locked")
        return describe(connection, os.path.basename(path))
    finally:
        connection.close()


def describe(connection: sqlite3.Connection, file: str) -> SegmentInfo:
    """Return what the catalogue has of a segment: reads all of its entries.

    :param connection: to the segment.
    :param file: its name in the directory.
    """
    meta = dict(connection.execute("select key, value from meta"))
    rows, min_started, min_ended, max_started, max_ended = connection.execute(
        "select count(*), min(started), min(ended), max(started), max(ended) from entries"
    ).fetchone()
    if min_ended is not None:
        # The clock may have been set back in between.
        min_started, max_ended = min(min_started, min_ended), max(max_started, max_ended)
    elif rows:
        max_ended = max_started
    pages, size = (
        connection.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    return SegmentInfo(
        file,
        meta["proxy"],
        meta["worker"],
        meta["boot"],
        meta["part"],
        meta["boot_started"],
        meta["opened"],
        meta["complete_to"],
        meta.get("stopped"),
        meta.get("sealed"),
        min_started,
        max_ended,
        rows,
        pages * size,
        tuple(
            GapRow(*row)
            for row in connection.execute(
                "select since, until, first_seq, last_seq, cause from gaps order by rowid"
            )
        ),
        tuple(
            Step(*row) for row in connection.execute("select time, step from steps order by rowid")
        ),
    )


def connect(path: str) -> sqlite3.Connection:
    """Open a segment to write to it, by one thread after the other."""
    connection = sqlite3.connect(path, BUSY, isolation_level=None, check_same_thread=False)
    # After a loss of power the last batches may be missing, as a whole; the file is consistent.
    connection.execute("pragma synchronous = normal")
    connection.execute("pragma journal_size_limit = 16777216")
    return connection


def check_version(connection: sqlite3.Connection, path: str) -> None:
    """Check that this program can read a segment.

    :raises NewerSchema: see there.
    :raises NotASegment: see there.
    """
    version = connection.execute("pragma user_version").fetchone()[0]
    if version > VERSION:
        raise NewerSchema(
            f"{path} has version {version} of the schema, and this program can read at most"
            f" {VERSION}: use a newer natproxy"
        )
    if version == 0:
        if connection.execute("select count(*) from sqlite_master").fetchone()[0]:
            raise sqlite3.DatabaseError("it is not a segment")
        raise NotASegment(f"{path} is empty")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end; roll back if there is an exception."""
    connection.execute("begin immediate")
    try:
        yield
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def statements(script: str) -> Iterator[str]:
    """Return the statements of a script, for a transaction: ``executescript`` commits."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def file_name(origin: Origin, opened: int) -> str:
    """Return the name of a segment's file."""
    moment = EPOCH + timedelta(microseconds=opened)
    return f"{moment:%Y%m%dT%H%M%S.%f}Z-w{origin.worker}-{origin.boot}{SUFFIX}"


def files_of(path: str) -> Iterator[str]:
    """Return the paths of all files that SQLite may have for one database."""
    for end in ("", "-wal", "-shm", "-journal"):
        yield path + end


def remove(path: str) -> None:
    """Delete a segment."""
    for file in files_of(path):
        if os.path.lexists(file):
            os.unlink(file)


def _insert(connection: sqlite3.Connection, values: list[Any]) -> None:
    """Insert entries, or replace them."""
    start, stop = 0, len(values)
    for rows in ROWS_PER_STATEMENT:
        size = rows * COLUMNS
        while stop - start >= size:
            connection.execute(_INSERT[rows], values[start : start + size])
            start += size


def _set(connection: sqlite3.Connection, key: str, value: int) -> None:
    connection.execute("insert or replace into meta values (?, ?)", (key, value))


def _last(hosts: dict[str, int], number: int) -> Iterable[tuple[str, int]]:
    """Return the items that were inserted last."""
    newest = reversed(hosts.items())
    return [next(newest) for _ in range(number)]


_ROW = f"({', '.join('?' * COLUMNS)})"

_INSERT = {
    rows: f"insert or replace into entries values {', '.join([_ROW] * rows)}"  # noqa: S608
    for rows in ROWS_PER_STATEMENT
}
