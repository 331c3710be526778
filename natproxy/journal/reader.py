"""A segment that is open for reading, and a limited number of them."""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from natproxy.journal.directory import JournalError
from natproxy.journal.rows import SELECT, Action, Row
from natproxy.journal.schema import VERSION
from natproxy.journal.summary import Summary
from natproxy.journal.validity import actions_of, rows_of
from natproxy.protocol import printable

CACHE = 512
"""KiB that SQLite keeps of each open segment."""

OPEN = 64
"""Sealed segments that stay open."""

BUSY = 2.0
"""Seconds to wait for a lock, such as that of a segment that is sealed at this moment."""

PIECE = 32 << 10
"""Rows of a segment at most that one statement scans.

A reader that holds its transaction for long keeps a live segment's WAL from being checkpointed.
"""


class UnreadableSegment(JournalError):
    """A segment cannot be read.

    :ivar name: its file name.
    :ivar reason: why.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot read the segment {name}: {reason}")
        self.name = name
        self.reason = reason


class SegmentRemoved(JournalError):
    """A segment no longer exists: retention has deleted it."""


class SegmentReader:
    """A segment, open for reading.

    :param directory: of the journal.
    :param name: of the file.
    :ivar connection: to the segment; read-only.
    :ivar summary: what it contains.
    :ivar final: whether the file never changes again. One that is sealed may still be in WAL mode,
        if it was read at that moment.
    :raises SegmentRemoved: if there is no such file.
    :raises UnreadableSegment: if it is damaged, its schema is newer, or access is denied.
    """

    def __init__(self, directory: str, name: str) -> None:
        self._name = name
        path = Path(directory, name).absolute()
        with self.errors(path):
            self.connection, self.summary, self.final = self._open(path)

    @property
    def sealed(self) -> bool:
        """Whether no row changes any more, and the rows are indexed."""
        return self.summary.sealed is not None

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def errors(self, path: Path | None = None) -> Iterator[None]:
        """Raise `UnreadableSegment` in place of an exception of SQLite; see `DAMAGE`."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if "interrupted" in str(error):
                raise
            if path is not None and not path.exists():
                raise SegmentRemoved(f"the segment {self._name} has been deleted") from None
            raise UnreadableSegment(self._name, _reason(error, path)) from error

    def _open(self, path: Path) -> tuple[sqlite3.Connection, Summary, bool]:
        # A file that is being written has a WAL. Its header is not read: closing a file that SQLite
        # has open in this process would release SQLite's locks.
        wal = Path(f"{path}-wal")
        if not wal.exists():
            opened = self._attempt(path, "immutable=1")
            # Sealing begins and ends without a WAL.
            if opened[1].sealed is not None and not wal.exists():
                return *opened, True
            opened[0].close()
        try:
            return *self._attempt(path, "mode=ro"), False
        except sqlite3.OperationalError:
            # Without write access to the directory, or space in it, SQLite cannot create the WAL's
            # index. If there is nothing in a WAL, none is needed.
            if not path.exists() or (wal.exists() and wal.stat().st_size):
                raise
            return *self._attempt(path, "immutable=1"), False

    def _attempt(self, path: Path, mode: str) -> tuple[sqlite3.Connection, Summary]:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?{mode}",
            uri=True,
            timeout=BUSY,
            isolation_level=None,
            check_same_thread=False,
        )
        # Text may be damaged, too.
        connection.text_factory = _text
        try:
            connection.execute(f"pragma cache_size = -{CACHE}")
            return connection, self._summary(connection)
        except BaseException:
            connection.close()
            raise

    def _summary(self, connection: sqlite3.Connection) -> Summary:
        (version,) = connection.execute("pragma user_version").fetchone()
        if version > VERSION:
            raise UnreadableSegment(
                self._name,
                f"its schema has version {version}, and this program reads up to version"
                f" {VERSION}; use a newer natproxy",
            )
        try:
            return Summary.read(connection, self._name)
        except KeyError as error:
            raise UnreadableSegment(self._name, f"its table meta lacks {error}") from None

    def select(self, where: str, values: Sequence[Any]) -> list[Row]:
        """Return the rows for which a condition holds, with what follows it, such as a limit.

        :param where: SQL on the aliases e, c, n, u of the view.
        :raises UnreadableSegment: if the file is damaged.
        """
        with self.errors():
            found = self.connection.execute(f"{SELECT} where {where}", values)
            return rows_of(found)

    def actions(self) -> list[Action]:
        """Return the rows of the table ``actions``."""
        with self.errors():
            return actions_of(
                self.connection.execute(
                    "select seq, event, time, serial, uid, pid, reason from actions order by seq"
                )
            )

    def serials(self) -> tuple[int, int]:
        """Return the first and the last serial; (1, 0) if there are no rows."""
        with self.errors():
            # Two statements: one with both does not use the tree for either.
            (first,) = self.connection.execute("select min(serial) from entries").fetchone()
            (last,) = self.connection.execute("select max(serial) from entries").fetchone()
        return (1, 0) if first is None else (first, last)

    def nearest(self, serial: int, *, backward: bool = False) -> int | None:
        """Return a serial, or the one of the row that follows it, or that precedes it."""
        statement = (
            "select max(serial) from entries where serial <= ?"
            if backward
            else "select min(serial) from entries where serial >= ?"
        )
        with self.errors():
            found: int | None = self.connection.execute(statement, (serial,)).fetchone()[0]
        return found


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _reason(error: Exception, path: Path | None) -> str:
    if path is not None and not os.access(path, os.R_OK):
        return "access is denied; use its owner's account"
    # It may have names from the damaged file.
    return printable(str(error).encode("utf-8", "surrogateescape"))


class Readers:
    """Open segments of a directory, a limited number of them.

    Only final ones stay open: the connection to another one keeps its writer from sealing it.

    :param directory: of the journal.
    :param most: number of segments that stay open at most.
    """

    def __init__(self, directory: str, most: int = OPEN) -> None:
        self._directory = directory
        self._most = most
        # The one that was used last is at the end. A segment that was replaced has another inode.
        self._open: OrderedDict[str, tuple[object, SegmentReader]] = OrderedDict()

    @contextmanager
    def use(self, name: str, identity: object = None) -> Iterator[SegmentReader]:
        """Open a segment for the length of a block, unless it is open.

        :param identity: changes if the file is replaced.
        :raises SegmentRemoved: if there is no such file.
        :raises UnreadableSegment: if it cannot be read.
        """
        known = self._open.pop(name, None)
        if known is not None and known[0] != identity:
            known[1].close()
            known = None
        reader = SegmentReader(self._directory, name) if known is None else known[1]
        try:
            yield reader
        except BaseException:
            # A cancelled or damaged one is opened again.
            reader.close()
            raise
        if not reader.final:
            reader.close()
            return
        self._open[name] = identity, reader
        while len(self._open) > self._most:
            self._open.popitem(last=False)[1][1].close()

    def keep(self, names: Iterable[str]) -> None:
        """Close the segments that are not among these: they have been deleted."""
        for name in self._open.keys() - set(names):
            self._open.pop(name)[1].close()

    def close(self) -> None:
        """Close all of them."""
        self.keep(())
