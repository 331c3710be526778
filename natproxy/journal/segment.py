"""Segments: SQLite files with the translations of one worker and boot.

One thread appends to a live segment, in batches. Nothing here uses Twisted.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

from natproxy.journal.files import file_name, remove, segment_files
from natproxy.journal.rows import (
    CLIENT,
    COLUMNS,
    IDENTITY,
    NAT,
    REASON,
    SELECT,
    SERIAL,
    UPSTREAM,
    Action,
    Entry,
    GapRow,
    Row,
    Step,
)
from natproxy.journal.schema import INDEX, TABLES, VERSION
from natproxy.journal.summary import SegmentInfo, describe
from natproxy.journal.validity import rows_of
from natproxy.records.record import Origin

BUSY = 5.0
"""Seconds to wait for another connection's lock."""

ROWS_PER_STATEMENT = (128 if sqlite3.sqlite_version_info >= (3, 32) else 32, 16, 1)
"""Rows of one INSERT.

``executemany`` releases the interpreter's lock for each row, and waits for it again; beside a busy
reactor that takes three times as long, and costs the reactor twice as much. Before version 3.32,
SQLite accepts 999 values in a statement.
"""


class Addition(NamedTuple):
    """What one transaction adds to a segment.

    :ivar complete_to: until when the segment is complete with it.
    :ivar entries: each is inserted, or replaces the one with the same serial.
    :ivar replaced: number of those that replace one.
    :ivar last: number of the last event that the segment, or one before it, has then.
    """

    complete_to: int
    entries: Sequence[Entry] = ()
    replaced: int = 0
    actions: Sequence[Action] = ()
    gaps: Sequence[GapRow] = ()
    steps: Sequence[Step] = ()
    stopped: bool = False
    last: int = 0


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
        self._identity = _identity(path)

    @property
    def exists(self) -> bool:
        """Whether the file is still there, and is the same."""
        return self._identity is not None and _identity(self.path) == self._identity

    @classmethod
    def create(
        cls,
        directory: str,
        origin: Origin,
        boot_started: int,
        opened: int,
        part: int = 1,
        entries: Sequence[Entry] = (),
        beside: Sequence[str] = (),
    ) -> Segment:
        """Create a segment, with the translations that are open now.

        :param boot_started: when the daemon started, in microseconds since the epoch.
        :param opened: from when on it is complete, likewise.
        :param part: its number in the worker and boot.
        :param beside: boots of other processes with the worker's number that run as well.
        """
        former = max(segment_files(directory, origin.worker), default=None)
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
                            *([] if former is None else [("former", former)]),
                            *([("beside", " ".join(beside))] if beside else []),
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
        attempts: list[tuple[int, int, int]] = []
        for entry in addition.entries:
            client, nat, upstream = entry[CLIENT], entry[NAT], entry[UPSTREAM]
            values += entry
            earlier = values.pop()
            if earlier is not None:
                attempts.append((*earlier, entry[SERIAL]))
            place = len(values) - COLUMNS
            values[place + CLIENT] = hosts.setdefault(client, len(hosts) + 1)
            if nat is not None:
                values[place + NAT] = hosts.setdefault(nat, len(hosts) + 1)
            if upstream is not None:
                values[place + UPSTREAM] = hosts.setdefault(upstream, len(hosts) + 1)
            if entry[IDENTITY] is None:
                values[place + IDENTITY] = ""
            if entry[REASON] is None:
                values[place + REASON] = ""
        connection.executemany(
            "insert into hosts (host, id) values (?, ?)", _last(hosts, len(hosts) - known)
        )
        _insert(connection, values)
        connection.executemany(
            "update entries set command = ?, attempt = ? where serial = ?", attempts
        )
        connection.executemany(
            "insert or replace into actions values (?, ?, ?, ?, ?, ?, ?)", addition.actions
        )
        connection.executemany("insert into gaps values (?, ?, ?, ?, ?)", addition.gaps)
        connection.executemany("insert into steps values (?, ?, ?)", addition.steps)
        _set(connection, "complete_to", addition.complete_to)
        if addition.last:
            _set(connection, "last_seq", addition.last)
        if addition.stopped:
            _set(connection, "stopped", addition.complete_to)

    def open_entries(self) -> list[Row]:
        """Return the translations that have not ended."""
        return rows_of(self._connection.execute(f"{SELECT} where e.outcome is null"))

    def close(self) -> None:
        """Close the file; SQLite moves what is in the WAL into it."""
        self._connection.close()


def append(segment: Segment, addition: Addition) -> None:
    """Append to a segment, also what SQLite cannot store as it is."""
    try:
        segment.append(addition)
    except (OverflowError, UnicodeError):
        segment.append(
            addition._replace(
                entries=[_storable(entry) for entry in addition.entries],
                actions=[Action(*_storable(action)) for action in addition.actions],
            )
        )


def _storable(row: tuple[Any, ...]) -> Any:
    """Return a row with values that SQLite can store.

    A text may have a lone surrogate, such as that of an administrator's filter.
    """
    values: list[Any] = []
    for value in row:
        if isinstance(value, str):
            values.append(value.encode("utf-8", "backslashreplace").decode())
        elif isinstance(value, int):
            values.append(max(-(2**63), min(value, 2**63 - 1)))
        else:
            values.append(value)
    return tuple(values)


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


def connect(path: str) -> sqlite3.Connection:
    """Open a segment to write to it, by one thread after the other."""
    # Not one that was deleted meanwhile: SQLite would create it.
    connection = sqlite3.connect(
        f"file:{quote(os.path.abspath(path))}?mode=rw",
        BUSY,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
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


def _insert(connection: sqlite3.Connection, values: list[Any]) -> None:
    """Insert entries, or replace them."""
    start, stop = 0, len(values)
    for rows in ROWS_PER_STATEMENT:
        size = rows * COLUMNS
        while stop - start >= size:
            connection.execute(_INSERT[rows], values[start : start + size])
            start += size


def _identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of a file; ``None`` if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _set(connection: sqlite3.Connection, key: str, value: int) -> None:
    connection.execute("insert or replace into meta values (?, ?)", (key, value))


def _last(hosts: dict[str, int], number: int) -> Iterable[tuple[str, int]]:
    """Return the items that were inserted last."""
    newest = reversed(hosts.items())
    return [next(newest) for _ in range(number)]


# The sqlite3 module takes ten times as long to bind None as a number or a text: a row with four
# of them takes twice as long. So the columns that are always null are part of the statement, and
# the identity and the reason, which few rows have, are bound as empty texts.
_ROW = (
    "(?, ?, ?, ?, null, null, ?, ?, ?, ?, ?, nullif(?, ''),"
    " ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''), ?)"
)

_INSERT = {
    rows: f"insert or replace into entries values {', '.join([_ROW] * rows)}"  # noqa: S608
    for rows in ROWS_PER_STATEMENT
}
