"""A segment that is open for reading, and a limited number of them."""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from natproxy.journal.directory import JournalError
from natproxy.journal.schema import VERSION
from natproxy.journal.segment import GapRow, SegmentInfo, Step
from natproxy.records.record import Record

BEGINNING, END = -(1 << 62), 1 << 62
"""Before and after every time."""

ERASED = "erased"
"""The host of a client that was erased, and the cause of the gap that marks it."""

CACHE = 512
"""KiB that SQLite keeps of each open segment."""

OPEN = 64
"""Sealed segments that stay open."""

BUSY = 2.0
"""Seconds to wait for a lock, such as that of a segment that is sealed at this moment."""

ORDER = 60_000_000
"""Microseconds by which the order of times may differ from that of serials.

The clock may be set by less than what is noted, and a failed command has its serial at its end.
"""

PIECE = 32 << 10
"""Rows of a segment at most that one statement scans.

A reader that holds its transaction for long keeps a live segment's WAL from being checkpointed.
"""

COLUMNS = (
    "e.serial, e.seq, e.relaying_seq, e.removed_seq, e.command, e.attempt, e.started, e.relaying,"
    " e.ended, c.host, e.client_port, e.identity, n.host, e.nat_port, u.host, e.upstream_port,"
    " e.verb, e.name, e.promised, e.bytes, e.outcome, e.reason, e.duration"
)

# The cross join keeps SQLite from starting with the hosts.
FROM = (
    " from entries e cross join hosts c on c.id = e.client"
    " left join hosts n on n.id = e.nat left join hosts u on u.id = e.upstream"
)

SELECT = f"select {COLUMNS}{FROM}"


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


class Summary(NamedTuple):
    """What a segment contains, without its rows. Times are microseconds since the epoch.

    :ivar name: its file name.
    :ivar proxy: the daemon's name.
    :ivar worker: number of the process.
    :ivar boot: one run of the daemon.
    :ivar part: number of the segment in its worker and boot, from 1.
    :ivar boot_started: when the daemon started.
    :ivar opened: from when on the segment is complete.
    :ivar complete_to: until when it is complete.
    :ivar sealed: when it was sealed; ``None`` while it is live.
    :ivar stopped: when the daemon stopped in order; ``None`` if it did not, or did so later.
    :ivar gaps: its incomplete times.
    :ivar steps: the steps of the wall clock.
    :ivar earliest: a time before which nothing in its entries is, if the clock was not set.
    :ivar latest: a time after which nothing in its entries is, likewise.
    :ivar listed: whether the two are from the catalogue, and hold if the clock was set, too.
    :ivar former: name of the newest segment that was there before; ``None`` if there was none.
    """

    name: str
    proxy: str
    worker: int
    boot: str
    part: int
    boot_started: int
    opened: int
    complete_to: int
    sealed: int | None
    stopped: int | None
    gaps: tuple[GapRow, ...] = ()
    steps: tuple[Step, ...] = ()
    earliest: int = BEGINNING
    latest: int = END
    listed: bool = False
    former: str | None = None

    @classmethod
    def of(cls, info: SegmentInfo) -> Summary:
        """Return the summary of what the catalogue has."""
        return cls(
            info.file,
            info.proxy,
            info.worker,
            info.boot,
            info.part,
            info.boot_started,
            info.opened,
            info.complete_to,
            info.sealed,
            info.stopped,
            info.gaps,
            info.steps,
            # Without entries, every time is after the latest one.
            END if info.min_started is None else info.min_started,
            BEGINNING if info.max_ended is None else info.max_ended,
            True,
            info.former,
        )


class Row(NamedTuple):
    """A row of the table ``entries`` with its hosts; see `natproxy.journal.schema`."""

    serial: int
    seq: int | None
    relaying_seq: int | None
    removed_seq: int | None
    command: int | None
    attempt: int | None
    started: int
    relaying: int | None
    ended: int | None
    client: str
    client_port: int
    identity: str | None
    nat: str | None
    nat_port: int | None
    upstream: str | None
    upstream_port: int | None
    verb: str
    name: str
    promised: int | None
    bytes: int
    outcome: str | None
    reason: str | None
    duration: int | None

    @property
    def erased(self) -> bool:
        """Whether the client was erased."""
        return self.client == ERASED

    @property
    def state(self) -> str:
        """The state, as the view ``translations`` has it."""
        if self.outcome == "lost":
            return "lost"
        if self.nat_port is None:
            return "failed"
        if self.outcome is not None:
            return "removed"
        return "registered" if self.relaying is None else "relaying"

    def record(self, segment: Summary) -> Record:
        """Return the record of the translation. That of an erased client has no client."""
        return Record(
            None,
            None,
            segment.proxy,
            segment.worker,
            segment.boot,
            self.seq,
            self.serial,
            self.serial if self.command is None else self.command,
            1 if self.attempt is None else self.attempt,
            self.started,
            self.ended,
            None if self.erased else self.client,
            None if self.erased else self.client_port,
            self.identity,
            self.nat,
            self.nat_port,
            self.upstream,
            self.upstream_port,
            self.verb,
            self.name,
            self.promised,
            self.bytes,
            self.state,
            self.outcome,
            ERASED if self.erased else self.reason,
            None if self.duration is None else self.duration / 1e6,
        )


class SegmentReader:
    """A segment, open for reading.

    :param directory: of the journal.
    :param name: of the file.
    :ivar connection: to the segment; read-only.
    :ivar summary: what it contains.
    :raises SegmentRemoved: if there is no such file.
    :raises UnreadableSegment: if it is damaged, its schema is newer, or access is denied.
    """

    def __init__(self, directory: str, name: str) -> None:
        self._name = name
        path = Path(directory, name).absolute()
        with self.errors(path):
            self.connection, self.summary = self._open(path)

    @property
    def sealed(self) -> bool:
        """Whether the file never changes again."""
        return self.summary.sealed is not None

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def errors(self, path: Path | None = None) -> Iterator[None]:
        """Raise `UnreadableSegment` in place of an exception of SQLite."""
        try:
            yield
        except sqlite3.Error as error:
            if "interrupted" in str(error):
                raise
            if path is not None and not path.exists():
                raise SegmentRemoved(f"the segment {self._name} has been deleted") from None
            raise UnreadableSegment(self._name, _reason(error, path)) from error

    def _open(self, path: Path) -> tuple[sqlite3.Connection, Summary]:
        # A file that is being written has a WAL. Its header is not read: closing a file that SQLite
        # has open in this process would release SQLite's locks.
        wal = Path(f"{path}-wal")
        if not wal.exists():
            opened = self._attempt(path, "immutable=1")
            # Sealing begins and ends without a WAL.
            if opened[1].sealed is not None and not wal.exists():
                return opened
            opened[0].close()
        try:
            return self._attempt(path, "mode=ro")
        except sqlite3.OperationalError:
            # Without write access to the directory, or space in it, SQLite cannot create the WAL's
            # index. If there is nothing in a WAL, none is needed.
            if not path.exists() or (wal.exists() and wal.stat().st_size):
                raise
            return self._attempt(path, "immutable=1")

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
        # One transaction, so that all of it is of one moment.
        connection.execute("begin")
        try:
            meta = dict(connection.execute("select key, value from meta"))
            gaps = connection.execute(
                "select since, until, first_seq, last_seq, cause from gaps order by rowid"
            ).fetchall()
            steps = connection.execute(
                "select time, step, elapsed from steps order by rowid"
            ).fetchall()
            # Serials are in the order of starts.
            first = connection.execute(
                "select started from entries order by serial limit 1"
            ).fetchone()
        finally:
            connection.execute("commit")
        try:
            return Summary(
                self._name,
                str(meta["proxy"]),
                int(meta["worker"]),
                str(meta["boot"]),
                int(meta["part"]),
                int(meta["boot_started"]),
                int(meta["opened"]),
                int(meta["complete_to"]),
                _optional(meta.get("sealed")),
                _optional(meta.get("stopped")),
                tuple(GapRow(*gap) for gap in gaps),
                tuple(Step(*step) for step in steps),
                min(int(meta["opened"]), END if first is None else first[0]) - ORDER,
                int(meta["complete_to"]) + ORDER,
                former=meta.get("former"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableSegment(
                self._name, f"its table meta is incomplete or malformed: {error}"
            ) from None

    def select(self, where: str, values: Sequence[Any]) -> list[Row]:
        """Return the rows for which a condition holds, with what follows it, such as a limit.

        :param where: SQL on the aliases e, c, n, u of the view.
        :raises UnreadableSegment: if the file is damaged.
        """
        with self.errors():
            found = self.connection.execute(f"{SELECT} where {where}", values)
            return list(map(Row._make, found))

    def actions(self) -> list[tuple[Any, ...]]:
        """Return the rows of the table ``actions``."""
        with self.errors():
            return self.connection.execute(
                "select seq, event, time, serial, uid, pid, reason from actions order by seq"
            ).fetchall()

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


def _optional(value: Any) -> int | None:
    return None if value is None else int(value)


def _reason(error: sqlite3.Error, path: Path | None) -> str:
    if path is not None and not os.access(path, os.R_OK):
        return "access is denied; use its owner's account"
    return str(error)


class Readers:
    """Open segments of a directory, a limited number of them.

    Only sealed segments stay open: the connection of a live one keeps its writer from sealing it.

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
        if not reader.sealed:
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
