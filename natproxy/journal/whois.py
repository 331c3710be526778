"""Which client was behind a port at a time, found in a directory of segments.

The result is `UNKNOWN` wherever the journal is not complete, and `NOBODY` only where it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from natproxy.journal.contents import Contents, Directory
from natproxy.journal.coverage import SET_BACK, Coverage, Held
from natproxy.journal.directory import JournalError
from natproxy.journal.ports import LivePorts
from natproxy.journal.reader import SegmentReader, SegmentRemoved, UnreadableSegment
from natproxy.journal.rows import ERASED, Row
from natproxy.journal.schema import CAUSES
from natproxy.journal.spans import Completeness, Span
from natproxy.journal.summary import Summary
from natproxy.records.record import Origin, Record
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, Ends, Gap, WhoisQuery, WhoisReply

ATTEMPTS = 5
"""Times that the segments are read anew because files have been replaced meanwhile."""

PORTS = 500
"""Ports in one statement."""

WITH_LAST = 10
"""More replies at once are without `WhoisReply.last`, each of which is a search of its own."""

BACK = 3
"""Segments that are searched for the last translation of a port."""

SMALL_STEP = 100_000
"""Microseconds of the largest step of the wall clock that is not noted."""

NOT_THERE = Gap(None, None, "")
"""In place of a reason: the entry did not hold its port."""


class Search(NamedTuple):
    """What is looked for.

    :ivar port: the proxy's port.
    :ivar ends: the hosts, and the upstream's port.
    :ivar first: first microsecond of the interval.
    :ivar last: its last one.
    """

    port: int
    ends: Ends
    first: int
    last: int

    @classmethod
    def of(cls, query: WhoisQuery, now: int) -> Search:
        """Return the search for a `WhoisQuery`.

        :param now: microseconds since the epoch.
        """
        until = now if query.until is None else query.until
        since = until if query.since is None else query.since
        return cls(query.port, Ends.of(query), since, max(since, until - 1))

    def selects(self, row: Row) -> bool:
        """Return whether the hosts of an entry are those that are looked for."""
        return self.ends.match(row.nat, row.upstream, row.upstream_port)


class Candidate(NamedTuple):
    """An entry, what it comes from, and how long it held its port."""

    row: Row
    origin: Origin
    held: Held


def whois(directory: Directory, queries: Sequence[WhoisQuery]) -> list[WhoisReply]:
    """Return a `WhoisReply` for each `WhoisQuery`, in their order.

    :raises JournalError: if the directory cannot be read.
    """
    now = time.time_ns() // 1000
    searches = [Search.of(query, now) for query in queries]
    contents = directory.contents()
    for _ in range(ATTEMPTS):
        coverage = Coverage(contents)
        try:
            found = _gather(directory, contents, coverage, searches)
        except UnreadableSegment as error:
            contents = directory.without(contents, error)
            continue
        except SegmentRemoved:
            contents = directory.contents()
            continue
        # Entries that are open move when a segment is sealed: from one that was not read yet to
        # one that did not exist yet.
        if directory.files().keys() <= contents.files.keys():
            replies = [
                decide(search, entries, coverage)
                for search, entries in zip(searches, found, strict=True)
            ]
            if len(replies) <= WITH_LAST:
                _add_last(directory, contents, coverage, searches, replies)
            return replies
        contents = directory.contents()
    raise JournalError(f"the segments in {directory.path} change too fast; try again")


def _gather(
    directory: Directory, contents: Contents, coverage: Coverage, searches: list[Search]
) -> list[list[Candidate]]:
    """Return the entries that may have held their ports in the intervals."""
    bounds = [bounds_of(search, coverage) for search in searches]
    # By worker, boot and serial: an entry that moves is in two segments.
    found: list[dict[tuple[int, str, int], Candidate]] = [{} for _ in searches]
    # The oldest segment is read first: entries move to newer ones.
    for segment in contents.segments:
        first, last = coverage.earliest(segment), coverage.latest(segment)
        wanted = [
            number
            for number, (lower, upper) in enumerate(bounds)
            if lower <= last and upper >= first
        ]
        if not wanted:
            continue
        with directory.readers.use(segment.name, contents.files[segment.name]) as reader:
            live = None if reader.sealed else directory.live
            for number, row in _entries(reader, wanted, searches, bounds, live):
                if searches[number].selects(row):
                    key = segment.worker, segment.boot, row.serial
                    other = found[number].get(key)
                    if other is None or other.row.outcome is None:
                        held = coverage.held(row, segment)
                        if held is not None:
                            found[number][key] = Candidate(row, segment.origin, held)
    return [list(candidates.values()) for candidates in found]


def bounds_of(search: Search, coverage: Completeness) -> tuple[int, int]:
    """Return the interval whose entries can matter: the clock may have been set back in it."""
    zones = coverage.twice(search.first, search.last)
    lower = min([search.first, *(zone.first for zone in zones)])
    upper = max([search.last, *(zone.last for zone in zones)])
    return lower - SMALL_STEP, upper + SMALL_STEP


def _entries(
    reader: SegmentReader,
    wanted: list[int],
    searches: list[Search],
    bounds: list[tuple[int, int]],
    live: LivePorts | None,
) -> Iterator[tuple[int, Row]]:
    """Return the entries of a segment that overlap the intervals of some searches."""
    if reader.sealed:
        for number in wanted:
            lower, upper = bounds[number]
            port = searches[number].port
            for condition, values in (
                ("e.ended >= ?", (port, lower, upper)),
                ("e.ended is null", (port, upper)),
            ):
                for row in reader.select(
                    f"e.nat_port = ? and {condition} and e.started <= ?", values
                ):
                    yield number, row
        return
    if live is not None and len(wanted) <= WITH_LAST:
        name = reader.summary.name
        known = [(number, live.serials(name, searches[number].port)) for number in wanted]
        if all(serials is not None for _, serials in known):
            for number, serials in known:
                lower, upper = bounds[number]
                for row in _listed(
                    reader,
                    serials or [],
                    "e.nat_port = ? and (e.ended >= ? or e.ended is null) and e.started <= ?",
                    (searches[number].port, lower, upper),
                ):
                    yield number, row
            return
    # There is no index: the entries are read once for all ports.
    numbers: dict[int, list[int]] = {}
    for number in wanted:
        numbers.setdefault(searches[number].port, []).append(number)
    ports = list(numbers)
    lower = min(bounds[number][0] for number in wanted)
    upper = max(bounds[number][1] for number in wanted)
    for start in range(0, len(ports), PORTS):
        some = ports[start : start + PORTS]
        for row in reader.select(
            f"e.nat_port in ({', '.join('?' * len(some))})"
            " and (e.ended >= ? or e.ended is null) and e.started <= ?",
            (*some, lower, upper),
        ):
            assert row.nat_port is not None
            for number in numbers[row.nat_port]:
                yield number, row


def _listed(
    reader: SegmentReader, serials: list[int], condition: str, values: tuple[int, ...]
) -> Iterator[Row]:
    """Return those of some entries for which a condition holds."""
    for start in range(0, len(serials), PORTS):
        some = serials[start : start + PORTS]
        yield from reader.select(
            f"e.serial in ({', '.join('?' * len(some))}) and {condition}", (*some, *values)
        )


def decide(search: Search, candidates: list[Candidate], coverage: Completeness) -> WhoisReply:
    """Return the `WhoisReply` to a search, from all entries that can matter."""
    zones = coverage.twice(search.first, search.last)
    pieces = list(_outside(search.first, search.last, zones))
    certain: list[Candidate] = []
    possible: list[Candidate] = []
    reasons: list[Gap] = []
    for candidate in candidates:
        gap = _doubt(candidate, pieces, zones)
        if gap is None:
            certain.append(candidate)
        elif gap is not NOT_THERE:
            possible.append(candidate)
            reasons.append(gap)
    gap = coverage.gap(search.first, search.last) or next(iter(reasons), None)
    if certain:
        nearer = _nearer_doubt(search, certain, possible, coverage)
        if nearer is None:
            return WhoisReply(FOUND, _records(certain, search), gap)
        return WhoisReply(UNKNOWN, _records([*certain, *possible], search), nearer)
    if gap is not None:
        return WhoisReply(UNKNOWN, _records(possible, search), gap)
    return WhoisReply(NOBODY)


def _nearer_doubt(
    search: Search, certain: list[Candidate], possible: list[Candidate], coverage: Completeness
) -> Gap | None:
    """Return a doubt that is nearer to the middle of the interval than what is certain.

    The time of a lookup is the middle of its interval. A translation beside it is not the one that
    was there, if another one may be in a gap between the two: ports are used again.

    :param certain: at least one.
    """
    middle = (search.first + search.last) // 2

    def distance(start: int, end: int) -> int:
        return max(start - middle, middle - end, 0)

    nearest = min(distance(each.row.started, each.held.certain) for each in certain)
    if not nearest:
        return None
    first, last = middle - nearest + 1, middle + nearest - 1
    gap = coverage.gap(max(first, search.first), min(last, search.last))
    if gap is not None:
        return gap
    return next(
        (
            each.held.gap
            for each in possible
            if distance(each.row.started, each.held.possible) < nearest
        ),
        None,
    )


def _doubt(candidate: Candidate, pieces: list[tuple[int, int]], zones: list[Span]) -> Gap | None:
    """Return why it is uncertain that an entry held its port in an interval.

    :param pieces: the interval without the times that the clock showed twice.
    :param zones: those times.
    :return: ``None`` if it is certain; `NOT_THERE` if the entry did not.
    """
    row, _, (end, possible, reason) = candidate
    start = row.started
    gap: Gap | None = NOT_THERE
    if any(start <= last and end >= first for first, last in pieces) or any(
        start < zone.first and end > zone.last for zone in zones
    ):
        gap = None
    elif zone := next(
        (zone for zone in zones if start <= zone.last and possible >= zone.first), None
    ):
        gap = zone.gap
    elif any(start <= last and possible >= first for first, last in pieces):
        gap = reason
    elif end < start and any(
        end - SMALL_STEP <= last and start + SMALL_STEP >= first for first, last in pieces
    ):
        # The clock was set back by less than what is noted as a step.
        gap = Gap(end, start, SET_BACK)
    if row.erased and gap is not NOT_THERE:
        return Gap(start, row.ended, CAUSES[ERASED])
    return gap


def _add_last(
    directory: Directory,
    contents: Contents,
    coverage: Coverage,
    searches: list[Search],
    replies: list[WhoisReply],
) -> None:
    """Add the last translation of the port before the interval where the result is `NOBODY`."""
    for number, search in enumerate(searches):
        if replies[number].result == NOBODY:
            # It helps people, and is left out if the segments are deleted or damaged meanwhile.
            with suppress(SegmentRemoved, UnreadableSegment):
                older = [
                    segment
                    for segment in reversed(contents.segments)
                    if coverage.earliest(segment) < search.first
                ]
                last = _last(directory, contents, older[:BACK], search)
                replies[number] = replies[number]._replace(last=last)


def _last(
    directory: Directory, contents: Contents, segments: list[Summary], search: Search
) -> Record | None:
    for segment in segments:
        with directory.readers.use(segment.name, contents.files[segment.name]) as reader:
            condition, values = "e.nat_port = ? and e.ended < ?", (search.port, search.first)
            live = None if reader.sealed else directory.live
            serials = None if live is None else live.serials(segment.name, search.port)
            if serials is not None:
                newest = serials[-PORTS:]
                rows = sorted(_listed(reader, newest, condition, values), reverse=True)
            else:
                # The newest entries of a live segment are at its end.
                order = "e.ended" if reader.sealed else "e.serial"
                rows = reader.select(f"{condition} order by {order} desc limit 20", values)
        row = next((row for row in rows if search.selects(row) and not row.erased), None)
        if row is not None:
            return row.record(segment.origin)
    return None


def _outside(first: int, last: int, zones: list[Span]) -> Iterator[tuple[int, int]]:
    """Return what remains of an interval without some times, which are in their order."""
    for zone in zones:
        if zone.first > first:
            yield first, min(last, zone.first - 1)
        first = max(first, zone.last + 1)
    if first <= last:
        yield first, last


def _records(candidates: list[Candidate], search: Search) -> tuple[Record, ...]:
    """Return the records, the nearest to the middle of the interval first."""
    middle = (search.first + search.last) / 2

    def distance(candidate: Candidate) -> tuple[float, float]:
        start, end = candidate.row.started, candidate.held.certain
        return max(start - middle, middle - end, 0), abs((start + end) / 2 - middle)

    return tuple(
        candidate.row.record(candidate.origin) for candidate in sorted(candidates, key=distance)
    )
