"""Rates, latencies, clients and errors of the last minutes, for the page.

They are summed from the ring of events once a second, so that a page that is opened shows the past,
and so that the cost does not depend on the number of open pages.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from heapq import nlargest
from operator import attrgetter
from typing import Any, NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from natproxy.control.interfaces import TableSource
from natproxy.nat.ring import EventRing
from natproxy.nat.translation import Outcome
from natproxy.records.event_rows import (
    DURATION,
    ENDS,
    EVENT,
    OUTCOME,
    RETRIED,
    ROUTE,
    SENT,
    SEQ,
    SERIAL,
    Row,
)
from natproxy.records.record import format_time, microseconds_of

SECONDS = 900
"""Seconds that are kept."""

CLIENT_SECONDS = 60
"""Seconds over which the commands of a client are summed."""

CLIENTS = 200
"""Clients that are summed apart in one second; the others are summed together."""

TOP = 10
"""Clients that are shown, for each of their sums."""

ERRORS = 50
"""Commands with an error that are kept."""

SAMPLES = 2000
"""Times of one second from which its quantiles are taken."""

WORK = 500
"""Events, and entries of the table, that are read in one turn."""

COMPLETED = Outcome.COMPLETED.value


class Second(NamedTuple):
    """The sums of one second. Its fields have the names and the order of the page.

    :ivar tick: its number, from 1.
    :ivar time: its end, in milliseconds since the epoch.
    :ivar commands: commands that ended, per second.
    :ivar errors: those of them that did not complete, per second.
    :ivar bytes: bytes passed to clients, per second.
    :ivar entries: entries of the table at the end.
    :ivar first_byte: median of the seconds from the start of a command to the header of its reply;
        ``None`` if no header was received.
    :ivar first_byte_p99: the 99th percentile of the same.
    :ivar duration: median of the seconds from the start of a command to its end.
    :ivar duration_p99: the 99th percentile of the same.
    """

    tick: int
    time: int
    commands: float
    errors: float
    bytes: float
    entries: int
    first_byte: float | None
    first_byte_p99: float | None
    duration: float | None
    duration_p99: float | None


@dataclass
class Sums:
    """Sums over some time, of one client or of all.

    :ivar commands: commands that ended.
    :ivar bytes: bytes passed to the clients.
    :ivar errors: commands that did not complete.
    """

    commands: int = 0
    bytes: int = 0
    errors: int = 0

    def add(self, other: Sums) -> None:
        """Add the sums of another client, or of another time."""
        self.commands += other.commands
        self.bytes += other.bytes
        self.errors += other.errors


SUMS = ("commands", "bytes", "errors")
"""The fields of `Sums`, by each of which clients are ranked."""

OTHERS = ""
"""In place of their hosts: the clients in excess of `CLIENTS`, as one."""


class Sample:
    """What is gathered until the second ends.

    :ivar total: sums of all clients.
    :ivar clients: sums by the client's host.
    :ivar first_bytes: seconds from the starts of commands to the headers of their replies.
    :ivar durations: seconds from the starts of commands to their ends.
    """

    def __init__(self) -> None:
        self.total = Sums()
        self.clients: dict[str, Sums] = {}
        self.first_bytes: list[float] = []
        self.durations: list[float] = []

    def add(self, host: str, sums: Sums) -> None:
        """Add to the sums of a client, and of all."""
        if host not in self.clients and len(self.clients) >= CLIENTS:
            host = OTHERS
        self.clients.setdefault(host, Sums()).add(sums)
        self.total.add(sums)


class Rates:
    """The sums of the last `SECONDS`, for any number of pages.

    :param table: of the daemon.
    :param ring: its events.
    :param reactor: for the time.
    :param wall_clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        table: TableSource,
        ring: EventRing,
        reactor: IReactorTime,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._ring = ring
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._seconds: deque[Second] = deque(maxlen=SECONDS)
        self._clients: deque[dict[str, Sums]] = deque(maxlen=CLIENT_SECONDS)
        self._errors: deque[Row] = deque(maxlen=ERRORS)
        self._top: list[dict[str, Any]] | None = None
        self._sample = Sample()
        self._after = 0
        self._lost = 0
        self._tick = 0
        self._begun = 0.0
        # Bytes of each entry that exists which are in the sums already, by serial.
        self._counted: dict[int, int] = {}
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to sum; events before now are left out, except errors that the ring has."""
        self._begun = self._reactor.seconds()
        self._after = max(self._ring.first, self._ring.next - 1 - WORK) - 1
        rows, _ = self._ring.read(self._after, WORK)
        self._errors.extend(row for row in rows if is_error(row))
        self._after = self._ring.next - 1
        self._call = self._reactor.callLater(1.0, self._read)

    def stop(self) -> None:
        """Sum no longer."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _read(self) -> None:
        """Read the events since the last call, in turns."""
        rows, lost = self._ring.read(self._after, WORK)
        if lost is not None:
            self._lost += lost.last - lost.first + 1
            self._after = lost.last
        for row in rows:
            self._add(row)
        self._after += len(rows)
        if len(rows) == WORK:
            self._call = self._reactor.callLater(0, self._read)
            return
        # In the same turn: an entry that the table has now has no event of its end that was read.
        self._count_entries()
        self._finish()

    def _add(self, row: Row) -> None:
        event, serial, route, duration = row[EVENT], row[SERIAL], row[ROUTE], row[DURATION]
        sample = self._sample
        if event == "relaying":
            if len(sample.first_bytes) < SAMPLES:
                sample.first_bytes.append(duration)
            return
        if event not in ENDS or route is None:
            return
        counted = 0 if serial is None else self._counted.pop(serial, 0)
        if row[OUTCOME] == RETRIED:
            sample.add(route[0], Sums(bytes=max(0, (row[SENT] or 0) - counted)))
            return
        failed = is_error(row)
        sample.add(route[0], Sums(1, max(0, (row[SENT] or 0) - counted), int(failed)))
        if len(sample.durations) < SAMPLES:
            sample.durations.append(duration)
        if failed:
            self._errors.append(row)

    def _count_entries(self) -> None:
        """Add the bytes that the oldest entries have passed on so far: long downloads."""
        counted: dict[int, int] = {}
        for number, record in enumerate(self._table.records()):
            if number == WORK:
                break
            if record.serial is None or record.bytes is None:
                continue
            moved = record.bytes - self._counted.get(record.serial, 0)
            if record.bytes:
                counted[record.serial] = record.bytes
            if moved > 0:
                self._sample.add(record.client or OTHERS, Sums(bytes=moved))
        self._counted = counted

    def _finish(self) -> None:
        """Keep what was gathered, and begin the next second."""
        now = self._reactor.seconds()
        elapsed = max(now - self._begun, 1e-3)
        sample, self._sample, self._begun = self._sample, Sample(), now
        total = sample.total
        self._tick += 1
        self._seconds.append(
            Second(
                self._tick,
                round(self._wall_clock() * 1000),
                round(total.commands / elapsed, 2),
                round(total.errors / elapsed, 2),
                round(total.bytes / elapsed),
                len(self._table),
                *quantiles(sample.first_bytes),
                *quantiles(sample.durations),
            )
        )
        self._clients.append(sample.clients)
        self._top = None
        self._call = self._reactor.callLater(1.0, self._read)

    def json(self, after: int = 0, error: int = 0) -> dict[str, Any]:
        """Return the object for the page.

        :param after: number of the last second that the page has.
        :param error: number of the event of the newest error that it has; if there is no newer one,
            the errors are ``None``.
        """
        errors = None
        if not self._errors or self._errors[-1][SEQ] != error:
            errors = [self._ring.record_of(row).json() for row in reversed(self._errors)]
        if self._top is None:
            self._top = self._top_clients()
        return {
            "boot": self._ring.origin.boot,
            "now": format_time(microseconds_of(self._wall_clock())),
            "fields": list(Second._fields),
            "seconds": [list(second) for second in self._seconds if second.tick > after],
            "clients": self._top,
            "errors": errors,
            "lost": self._lost,
        }

    def _top_clients(self) -> list[dict[str, Any]]:
        """Return the clients that are among the `TOP` by one of their sums, and the rest as one."""
        total: dict[str, Sums] = {}
        for clients in self._clients:
            for host, sums in clients.items():
                total.setdefault(host, Sums()).add(sums)
        others = total.pop(OTHERS, Sums())
        top: dict[str, Sums] = {}
        for name in SUMS:
            by_name = attrgetter(name)
            most = nlargest(TOP, total.items(), key=lambda item: by_name(item[1]))
            top.update((host, sums) for host, sums in most if by_name(sums))
        for host, sums in total.items():
            if host not in top:
                others.add(sums)
        shown: list[dict[str, Any]] = [{"client": host, **asdict(top[host])} for host in top]
        if others != Sums():
            shown.append({"client": None, **asdict(others)})
        return shown


def is_error(row: Row) -> bool:
    """Return whether an event is the end of a command that did not complete."""
    return row[EVENT] in ENDS and row[OUTCOME] not in (COMPLETED, RETRIED)


def quantiles(samples: list[float]) -> tuple[float | None, float | None]:
    """Return the median and the 99th percentile, in microsecond steps; ``None`` without samples."""
    if not samples:
        return None, None
    samples.sort()
    last = len(samples) - 1
    return round(samples[last // 2], 6), round(samples[-(-last * 99 // 100)], 6)
