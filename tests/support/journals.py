"""Traffic of a NAT table with clocks that a test sets, and what a journal has of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from twisted.internet.task import Clock

from natproxy.address import Address
from natproxy.journal.files import segment_files
from natproxy.journal.rows import GapRow, Step
from natproxy.journal.writer import Batch
from natproxy.nat import Earlier, NATEntry, NATTable, Outcome, TranslationKey
from natproxy.nat.ring import EventRing
from natproxy.protocol import Command
from natproxy.records.record import Origin
from tests.support.doubles import Wire

WALL = 1_700_000_000
"""Seconds since the epoch at which the traffic begins."""

NOW = WALL * 1_000_000
"""The same moment in microseconds."""

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where the files are: on a disk, most of the time would be waiting for it."""

UPSTREAM = Address("10.0.0.9", 9001)
COMMAND = Command(b"GET", b"a%20b", b"GET a%20b")


class Traffic:
    """A NAT table, its ring, and what happens in them.

    :param boot: of the daemon's run.
    :param size: events that the ring holds.
    :param worker: number of the process.
    :ivar wall: seconds since the epoch; `advance` moves both clocks, a test may move this one.
    """

    def __init__(
        self, boot: str = "0a", size: int = 1000, wall: float = WALL, worker: int = 0
    ) -> None:
        self.clock = Clock()
        self.clock.advance(50)
        self.wall: float = wall
        self.origin = Origin("proxy-9000", worker, boot)
        self.table = NATTable(self.clock.seconds, lambda: self.wall)
        self.ring = EventRing(self.table, self.origin, size, wall_clock=lambda: self.wall)
        self.cursor = 0

    @property
    def now(self) -> int:
        """Microseconds since the epoch."""
        return round(self.wall * 1e6)

    def advance(self, seconds: float) -> None:
        """Let time pass; delayed calls run."""
        self.wall += seconds
        self.clock.advance(seconds)

    def register(
        self,
        port: int,
        client: str = "10.0.0.5",
        command: Command = COMMAND,
        earlier: Earlier | None = None,
    ) -> NATEntry:
        """Enter a translation of a local port."""
        return self.table.register(
            TranslationKey(Address("10.0.0.1", port), UPSTREAM),
            Wire(1, 2),
            Address(client, 43_210),
            command,
            self.clock.seconds(),
            lambda: None,
            earlier=earlier,
        )

    def retry(self, entry: NATEntry, port: int) -> NATEntry:
        """End an attempt of a command, and begin the next one at another port."""
        self.table.remove(entry, Outcome.RETRIED, "the server is gone")
        before = entry.earlier or Earlier(entry.serial, 0, 0)
        earlier = Earlier(before.command, before.attempts + 1, before.bytes + entry.relayed)
        return self.register(port, earlier=earlier)

    def relay(self, entry: NATEntry, promised: int = 100) -> None:
        """Receive the header of the reply."""
        self.table.relaying(entry, promised)
        entry.count(promised + 10)

    def remove(self, entry: NATEntry) -> None:
        """End a command."""
        self.table.remove(entry, Outcome.COMPLETED)

    def command(self, port: int, client: str = "10.0.0.5") -> None:
        """Carry out a whole command."""
        entry = self.register(port, client)
        self.relay(entry)
        self.remove(entry)

    def fail(self, reason: str = "proxy error: refused") -> None:
        """Fail to connect to the upstream."""
        self.table.fail(
            Address("10.0.0.6", 43_211),
            COMMAND,
            self.clock.seconds(),
            Outcome.ERROR,
            7,
            reason,
        )

    def batch(self, stopped: bool = False) -> Batch:
        """Take what is new from the ring; `taken` confirms that it was written."""
        rows, lost = self.ring.read(self.cursor, self.ring.next)
        seconds = self.clock.seconds()
        alive = [] if lost is None else self.ring.open_rows(self.wall, seconds)
        last = self.ring.next - 1
        return Batch(rows, lost, alive, self.now, seconds, stopped, last)

    def taken(self) -> None:
        """Read on from here."""
        self.cursor = self.ring.next - 1


def rows_of(path: str, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query of a segment."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def paths_of(directory: str) -> list[str]:
    """Return the paths of the segments, those that were opened first first."""
    return [os.path.join(directory, file) for file in segment_files(directory)]


def entries_of(directory: str) -> Iterator[dict[str, Any]]:
    """Return the entries of a journal as the rule for readers has it: each translation once.

    An entry that ended is preferred to one that did not.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for path in paths_of(directory):
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            for row in connection.execute("select * from translations order by serial"):
                key = row["boot"], row["serial"]
                if key not in found or found[key]["outcome"] is None:
                    found[key] = dict(row)
    yield from found.values()


def gaps_of(directory: str) -> list[GapRow]:
    """Return the gaps of a journal."""
    return [
        GapRow(*row)
        for path in paths_of(directory)
        for row in rows_of(path, "select * from gaps order by rowid")
    ]


def steps_of(directory: str) -> list[Step]:
    """Return the steps of the clock that a journal has."""
    return [
        Step(*row)
        for path in paths_of(directory)
        for row in rows_of(path, "select * from steps order by rowid")
    ]


def meta_of(path: str) -> dict[str, Any]:
    """Return the table ``meta`` of a segment."""
    return dict(rows_of(path, "select key, value from meta"))
