"""A daemon's journal without a daemon: a written directory, and what really happened."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.catalogue import Catalogue, connect
from natproxy.journal.recovery import recover
from natproxy.journal.segment import seal
from natproxy.journal.summary import SegmentInfo
from natproxy.journal.writer import Batch, Writer
from natproxy.records.event_rows import Lost, Route, Row
from natproxy.records.record import Origin
from tests.support.journals import MEMORY

SECOND = 1_000_000

PATIENCE = 30.0
"""Seconds for which another process may read a segment that is to be sealed."""

START = 1_790_000_000 * SECOND
"""The wall clock's time at the beginning, in microseconds since the epoch."""

CLIENT = "10.0.0.5"
NAT = "10.1.0.1"
UPSTREAM = "10.2.0.9"
UPSTREAM_PORT = 9001


class Translation(NamedTuple):
    """What really happened, in microseconds of the time that has really passed.

    :ivar ended: ``None`` while it lasts.
    """

    serial: int
    port: int
    client: str
    started: int
    ended: int | None


class Translations:
    """A daemon that writes a journal, as far as the journal sees it.

    :ivar true: microseconds that have really passed.
    :ivar offset: what the wall clock shows at 0.
    :ivar past: the translations of all runs.
    :ivar clock: pairs of a true time and the offset from then on.
    :ivar proxy: the daemon's name.
    :ivar worker: number of the process.
    :ivar boots: number of runs so far.
    :ivar writer: of this run; ``None`` if the daemon does not run.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = str(directory)
        self.true = 0
        self.offset = START
        self.past: list[Translation] = []
        self.clock = [(0, START)]
        self.writer: Writer | None = None
        self.proxy = "proxy-9000"
        self.worker = 0
        self.boots = 0
        self._open: dict[int, tuple[Translation, Route]] = {}
        self._started: dict[int, int] = {}
        self._registered: dict[int, Row] = {}
        self._rows: list[Row] = []
        self._lost: Lost | None = None
        self._seq = 0
        self._serial = 0
        self._seals = 0

    @property
    def now(self) -> int:
        """What the wall clock shows."""
        return self.true + self.offset

    def wait(self, microseconds: int) -> None:
        """Let time pass."""
        self.true += microseconds

    def step(self, microseconds: int) -> None:
        """Set the wall clock."""
        self.wait(1)
        self.offset += microseconds
        self.clock.append((self.true, self.offset))

    def start(self) -> None:
        """Start the daemon, which recovers what an earlier run has left."""
        self.boots += 1
        origin = Origin(self.proxy, self.worker, f"b{self.boots:07x}")
        self.writer = Writer(self.directory, origin, self.now, names=True)
        recover(self.directory, origin.boot, self.now)
        self._open, self._rows, self._lost = {}, [], None
        self._seq = self._serial = 0
        self.flush()

    def register(
        self,
        port: int,
        client: str = CLIENT,
        upstream: str = UPSTREAM,
        name: str = "a.txt",
        nat: str = NAT,
        upstream_port: int = UPSTREAM_PORT,
        earlier: tuple[int, int, int] | None = None,
    ) -> int:
        """Register a translation; return its serial."""
        self._serial += 1
        route = client, 40_000, nat, port, upstream, upstream_port, "GET", name, None, earlier
        translation = Translation(self._serial, port, client, self.true, None)
        self._open[self._serial] = translation, route
        self._started[self._serial] = self.now
        self._add("registered", self._serial, route)
        self._registered[self._serial] = self._rows[-1]
        return self._serial

    def relay(self, serial: int, promised: int = 1000) -> None:
        """Note that the header has been received."""
        self._add("relaying", serial, self._open[serial][1], promised)

    def remove(self, serial: int, outcome: str = "completed") -> None:
        """Remove a translation."""
        translation, route = self._open.pop(serial)
        self.past.append(translation._replace(ended=self.true))
        self._add("removed", serial, route, 1000, outcome)

    def fail(self, client: str = CLIENT, name: str = "b.txt") -> int:
        """Add a command that never had an upstream connection; return its serial."""
        self._serial += 1
        self._started[self._serial] = self.now
        self._add(
            "failed",
            self._serial,
            (client, 40_000, None, None, None, None, "GET", name, None, None),
        )
        return self._serial

    def act(self, event: str, reason: str | None = None) -> None:
        """Add an administrator's action."""
        self._seq += 1
        none = (None,) * 5
        self._rows.append((self._seq, event, None, self.now, *none, reason, 0.0, 1000, 77))

    def lose(self) -> None:
        """Lose the events that have not been written."""
        if self._rows:
            first = self._rows[0][0] if self._lost is None else self._lost.first
            self._lost = Lost(first, self._rows[-1][0])
            self._rows = []

    def flush(self, *, stopped: bool = False) -> None:
        """Write what has happened."""
        assert self.writer is not None
        alive = [] if self._lost is None else [self._registered[serial] for serial in self._open]
        self.writer.write(
            Batch(
                self._rows,
                self._lost,
                alive,
                self.now,
                self.true / SECOND,
                stopped,
            )
        )
        self._rows, self._lost = [], None

    def seal(self) -> None:
        """Begin the next segment, if the live one has an entry, and seal the former one."""
        assert self.writer is not None
        # A segment's name is the time at which it was opened.
        self.wait(1)
        self.flush()
        self._seals += 1
        former = self.writer.roll(self.true / SECOND + 1e6 * self._seals)
        if former is not None:
            Catalogue(self.directory).add(_seal_when_unread(former, self.now))

    def stop(self) -> None:
        """End all translations and stop the daemon in order."""
        assert self.writer is not None
        for serial in list(self._open):
            self.remove(serial, "drained")
        self.flush(stopped=True)
        self.writer.close()
        self.writer = None

    def kill(self) -> None:
        """Kill the daemon: what was not written is lost, and so is what lasts."""
        assert self.writer is not None
        self.past += [
            translation._replace(ended=self.true) for translation, _ in self._open.values()
        ]
        self._open = {}
        # Closing the segment changes only where SQLite has the same content.
        self.writer.close()
        self.writer = None

    def close(self) -> None:
        """Close the live segment, as the end of the process does."""
        if self.writer is not None:
            self.writer.close()

    def holders(self, port: int, wall: int) -> list[list[Translation]]:
        """Return who held a port at a time of the wall clock.

        :return: a list for each moment at which the clock showed this time, or skipped it.
        """
        moments = []
        for place, (since, offset) in enumerate(self.clock):
            until = self.clock[place + 1][0] if place + 1 < len(self.clock) else None
            true = wall - offset
            if since <= true <= self.true and (until is None or true < until):
                moments.append(true)
            elif place and self.clock[place - 1][1] + since < wall < offset + since:
                # The clock skipped it.
                moments.append(since)
        everything = [*self.past, *(translation for translation, _ in self._open.values())]
        return [
            [
                translation
                for translation in everything
                if translation.port == port
                and translation.started <= moment
                and (translation.ended is None or moment <= translation.ended)
            ]
            for moment in moments
        ]

    def _add(
        self,
        event: str,
        serial: int,
        route: Route,
        promised: int | None = None,
        outcome: str | None = None,
    ) -> None:
        self._seq += 1
        started = self._started[serial]
        ended = event in ("removed", "failed")
        self._rows.append(
            (
                self._seq,
                event,
                serial,
                self.now,
                started,
                route,
                promised,
                1000 if ended else 0,
                (outcome or "error") if ended else None,
                None,
                0.001,
                None,
                None,
            )
        )


def query(path: str, statement: str) -> list[tuple[object, ...]]:
    """Return the rows of a statement on a segment."""
    with closing(connect(path)) as connection:
        return connection.execute(statement).fetchall()


class RunsCase(SynchronousTestCase):
    """A daemon that writes its journal to a directory of its own, in memory.

    :ivar directory: of the journal.
    :ivar daemon: which has not been started.
    """

    def setUp(self) -> None:
        directory = TemporaryDirectory(dir=MEMORY)
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.daemon = Translations(self.directory)
        self.addCleanup(self.daemon.close)


def _seal_when_unread(path: str, now: int) -> SegmentInfo:
    """Seal a segment; as a daemon does, try again while another process reads it."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return seal(path, now, moved=True)
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
