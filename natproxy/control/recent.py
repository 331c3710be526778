"""The past as the ring of events and the table have it, for a daemon without a journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from natproxy.control.interfaces import TableSource
from natproxy.control.jobs import JobQueue
from natproxy.nat.ring import EventRing
from natproxy.records import filter as filters
from natproxy.records.event_rows import ENDS, EVENT, ROUTE, SEQ, SERIAL, TIME, Row
from natproxy.records.queries import EventsQuery, HistoryQuery
from natproxy.records.record import Record, microseconds_of
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, Ends, Gap, WhoisQuery, WhoisReply

PAGE = 500
"""Records in one page."""

STEP = 100
"""Events that are read from the ring at once."""

SMALL_STEP = 100_000
"""Microseconds by which the wall clock may be set back without a doubt about times."""


class _Past(NamedTuple):
    """What the ring and the table have of some ports.

    :ivar held: the translations that exist, by port.
    :ivar ended: those that have ended, by port, oldest end first.
    :ivar complete_from: microseconds since the epoch from which on they are all.
    :ivar set_back: the latest time that the clock showed before it was set back: that time, and
        those before it, may have occurred twice. ``None`` if it was not.
    """

    held: dict[int, tuple[Record, ...]]
    ended: dict[int, list[Record]]
    complete_from: int
    set_back: int | None


class RingHistory:
    """A `natproxy.control.interfaces.History` of what a process remembers.

    The ring is walked in portions: see `natproxy.control.jobs`.

    :param wall_clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        ring: EventRing,
        table: TableSource,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._jobs = JobQueue(reactor)
        self._ring = ring
        self._table = table
        self._wall_clock = wall_clock

    def whois(self, queries: list[WhoisQuery]) -> Deferred[list[WhoisReply]]:
        """Return who held ports; see `History`. The ring is walked once for all of them."""
        return self._jobs.walk(self._search(queries))

    def pages(self, query: HistoryQuery) -> Generator[Deferred[list[Record]], None, None]:
        """Return the translations in pages; see `History`."""
        found: list[Record] = []
        place = 0

        def page(_: object) -> list[Record]:
            nonlocal place
            place += PAGE
            return found[place - PAGE : place]

        collecting = self._jobs.walk(self._collect(query))
        collecting.addCallback(found.extend)
        try:
            yield collecting.addCallback(page)
            while True:
                yield succeed(page(None))
        finally:
            if not collecting.called:
                collecting.addErrback(lambda _: None)
                collecting.cancel()

    def events(self, query: EventsQuery) -> Generator[Deferred[list[Record]], None, None]:
        """Return no events: there are none but those of the ring, which the caller has read."""
        yield succeed([])

    # Whois.

    def _search(self, queries: list[WhoisQuery]) -> Generator[None, None, list[WhoisReply]]:
        ports = {query.port for query in queries}
        # First the table, then the ring: a translation that ends meanwhile is in both, or in one.
        held: dict[int, tuple[Record, ...]] = {}
        for port in ports:
            held[port] = self._table.holding(port)
            yield
        ended: dict[int, list[Record]] = {port: [] for port in ports}
        firsts: dict[int, int] = {}
        latest = 0
        set_back = None
        for row in self._rows():
            route, serial = row[ROUTE], row[SERIAL]
            if row[TIME] < latest - SMALL_STEP:
                set_back = latest
            latest = max(latest, row[TIME])
            if route is not None and route[3] in ended and serial is not None:
                if row[EVENT] == "registered":
                    firsts[serial] = row[SEQ]
                elif row[EVENT] == "removed":
                    ended[route[3]].append(self._ended(row, firsts.pop(serial, None)))
            yield
        if microseconds_of(self._wall_clock()) < latest - SMALL_STEP:
            set_back = latest
        past = _Past(held, ended, self._ring.complete_from, set_back)
        found: list[WhoisReply] = []
        for query in queries:
            found.append(self._reply(query, past))
            yield
        return found

    def _reply(self, query: WhoisQuery, past: _Past) -> WhoisReply:
        ends = Ends.of(query)

        def concerned(record: Record) -> bool:
            return ends.match(record.nat, record.upstream, record.upstream_port)

        held = list(filter(concerned, past.held[query.port]))
        ended = list(filter(concerned, past.ended[query.port]))
        if query.since is None:
            if held:
                return WhoisReply(FOUND, tuple(held))
            return WhoisReply(NOBODY, last=ended[-1] if ended else None)
        since = query.since
        until = microseconds_of(self._wall_clock()) if query.until is None else query.until
        serials = {record.serial for record in ended}
        alive = [record for record in held if record.serial not in serials]
        found = [record for record in (*ended, *alive) if _overlaps(record, since, until)]
        if past.set_back is not None and since <= past.set_back:
            # The times do not show who held the port when.
            possible = (*(record for record in found if record.ended is not None), *alive)
            return WhoisReply(UNKNOWN, possible, Gap(None, past.set_back, "the clock was set back"))
        gap = None
        if since < past.complete_from:
            cause = (
                "the daemon had not started"
                if self._ring.first == 1
                else "the daemon no longer holds the events, and has no journal"
            )
            gap = Gap(None, past.complete_from, cause)
        if found:
            middle = (since + until) // 2
            found.sort(key=lambda record: _distance(record, middle))
            # The one that held the port in the middle may be before all that the ring holds.
            nearest = _distance(found[0], middle)
            unknown = gap is not None and nearest and middle - nearest < past.complete_from
            return WhoisReply(UNKNOWN if unknown else FOUND, tuple(found), gap)
        if gap is not None:
            return WhoisReply(UNKNOWN, gap=gap)
        before = [record for record in ended if (record.ended or 0) < since]
        last = max(before, key=lambda record: record.ended or 0, default=None)
        return WhoisReply(NOBODY, last=last)

    # History.

    def _collect(self, query: HistoryQuery) -> Generator[None, None, list[Record]]:
        now = microseconds_of(self._wall_clock())
        selected = filters.parse(query.filter, now)
        since = query.since
        until = now + 1 if query.until is None else query.until

        def wanted(record: Record) -> bool:
            first, last = _span(record)
            return (
                first < until
                and (since is None or record.ended is None or last >= since)
                and selected.matches(record, now)
            )

        alive: dict[int | None, Record] = {}
        # In the order of their registration, which is that of the rows in the ring.
        found: dict[int | None, Record | None] = {}
        for record in self._table.records():
            alive[record.serial] = record
            if (record.seq is None or record.seq < self._ring.first) and wanted(record):
                found[record.serial] = record
            yield
        firsts: dict[int, int] = {}
        for row in self._rows():
            serial = row[SERIAL]
            if serial is not None and row[ROUTE] is not None:
                if row[EVENT] == "registered":
                    firsts[serial] = row[SEQ]
                    open_ = alive.get(serial)
                    found[serial] = open_ if open_ is not None and wanted(open_) else None
                elif row[EVENT] in ENDS:
                    first = row[SEQ] if row[EVENT] == "failed" else firsts.pop(serial, None)
                    record = self._ended(row, first)
                    found[serial] = record if wanted(record) else None
            yield
        records = [record for record in found.values() if record is not None]
        return records if query.limit is None else records[-query.limit :]

    # The ring.

    def _rows(self) -> Iterator[Row]:
        """Yield the events that the ring holds now, as long as it holds them."""
        cursor, end = self._ring.first - 1, self._ring.next
        while True:
            rows, _ = self._ring.read(cursor, STEP)
            for row in rows:
                if row[SEQ] >= end:
                    return
                yield row
            if not rows:
                return
            cursor = rows[-1][SEQ]

    def _ended(self, row: Row, first: int | None) -> Record:
        """Return the record of the translation that ended with an event."""
        return self._ring.record_of(row)._replace(event=None, time=None, seq=first)


def _span(record: Record) -> tuple[int, int]:
    """Return begin and end of a translation; the clock may have been set back between them."""
    started = record.started or 0
    ended = started if record.ended is None else record.ended
    return min(started, ended), max(started, ended)


def _overlaps(record: Record, since: int, until: int) -> bool:
    first, last = _span(record)
    begun = first <= until if since == until else first < until
    return begun and (record.ended is None or last >= since)


def _distance(record: Record, moment: int) -> int:
    """Return how far a translation is from a time, in microseconds."""
    first, last = _span(record)
    if moment < first:
        return first - moment
    return 0 if record.ended is None else max(0, moment - last)
