"""The translations in a directory of segments, oldest first, read in pieces."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from itertools import islice
from typing import NamedTuple

from natproxy.journal.contents import Contents, Directory, Identity
from natproxy.journal.coverage import Coverage
from natproxy.journal.reader import PIECE, Readers, SegmentReader, SegmentRemoved, UnreadableSegment
from natproxy.journal.rows import Row
from natproxy.journal.summary import BEGINNING, END, Summary
from natproxy.records.filter import Filter, parse
from natproxy.records.queries import HistoryQuery
from natproxy.records.record import Record

PAGE = 500
"""Rows that are read at once."""


class Selection(NamedTuple):
    """Which translations.

    :ivar filter: the condition.
    :ivar since: first microsecond of the interval in which they were open.
    :ivar until: its last one.
    :ivar now: the time of the query, likewise.
    """

    filter: Filter
    since: int
    until: int
    now: int

    @classmethod
    def of(cls, text: str, since: int | None, until: int | None) -> Selection:
        """Return the selection of a query.

        :raises FilterError: if the filter is malformed.
        """
        now = time.time_ns() // 1000
        return cls(
            parse(text, now),
            BEGINNING if since is None else since,
            END if until is None else until - 1,
            now,
        )


class Stream:
    """The selected rows of one segment, in the order of their serials, or against it.

    :param where: SQL on the aliases of the view, and its parameters.
    :param span: the serials that are wanted; ``None`` for all.
    :ivar rows: those that have been read.
    :ivar place: of the first of them in the order of `merged`; without one, a bound for it.
    :ivar emptied: whether everything has been read.
    """

    def __init__(
        self,
        segment: Summary,
        identity: Identity,
        where: tuple[str, list[int | str]],
        order: Order,
        span: tuple[int, int] | None = None,
    ) -> None:
        self.segment = segment
        self.rows: deque[Row] = deque()
        self.place = order.place(segment)
        self.emptied = False
        self._identity = identity
        self._where = where
        self._order = order
        self._span = span

    def take(self) -> Row:
        """Return the first row, and remove it."""
        row = self.rows.popleft()
        self.place = self._order.place_of(self.rows[0] if self.rows else row)
        return row

    def read(self, readers: Readers) -> None:
        """Read a piece of the segment."""
        try:
            with readers.use(self.segment.name, self._identity) as reader:
                self._read(reader)
        except (SegmentRemoved, UnreadableSegment):
            # It is a gap; see `Coverage`.
            self.emptied = True
        if self.rows:
            self.place = self._order.place_of(self.rows[0])

    def _read(self, reader: SegmentReader) -> None:
        backward = self._order.backward
        first, last = reader.serials() if self._span is None else self._span
        # What has been deleted, or has moved, leaves long ranges of serials without rows.
        nearest = reader.nearest(last if backward else first, backward=backward)
        if nearest is None or not first <= nearest <= last:
            self.emptied = True
            return
        lower, upper = (
            (max(first, nearest - PIECE + 1), nearest)
            if backward
            else (nearest, min(last, nearest + PIECE - 1))
        )
        where, values = self._where
        self.rows += reader.select(
            f"e.serial between ? and ? and {where}"
            f" order by e.serial {'desc' if backward else 'asc'} limit {PAGE}",
            (lower, upper, *values),
        )
        if len(self.rows) == PAGE:
            lower = upper = self.rows[-1].serial
        self._span = (first, lower - 1) if backward else (upper + 1, last)


class Order(NamedTuple):
    """An order of rows.

    :ivar backward: whether the newest are first.
    :ivar by_serial: whether it is that of the serials of one worker and boot, or of the starts.
    """

    backward: bool = False
    by_serial: bool = False

    def place_of(self, row: Row) -> tuple[int, int]:
        """Return where a row is."""
        started, serial = 0 if self.by_serial else row.started, row.serial
        return (-started, -serial) if self.backward else (started, serial)

    def place(self, segment: Summary) -> tuple[int, int]:
        """Return where the first row of a segment is at the earliest."""
        if self.by_serial:
            return 0, BEGINNING
        return -segment.latest if self.backward else segment.earliest, BEGINNING


def merged(
    streams: Iterable[Stream], readers: Readers, check: Callable[[], object]
) -> Iterator[tuple[Row, Summary]]:
    """Return the rows of several streams in their common order.

    :param check: called before each piece is read.
    """
    heap = [(stream.place, number, stream) for number, stream in enumerate(streams)]
    heapq.heapify(heap)
    while heap:
        _, number, stream = heapq.heappop(heap)
        limit = heap[0][0] if heap else (END, END)
        while stream.rows and stream.place <= limit:
            yield stream.take(), stream.segment
        if not stream.rows and not stream.emptied and stream.place <= limit:
            check()
            stream.read(readers)
        if stream.rows or not stream.emptied:
            heapq.heappush(heap, (stream.place, number, stream))


def history(
    directory: Directory, query: HistoryQuery, check: Callable[[], object]
) -> Iterator[Record]:
    """Return the records of translations, oldest first.

    :param check: called before each piece is read; what it raises ends the search.
    :raises JournalError: if the directory cannot be read.
    :raises FilterError: if the filter is malformed.
    """
    return _History(directory, query, check).records()


class _History:
    """One search for translations."""

    def __init__(
        self, directory: Directory, query: HistoryQuery, check: Callable[[], object]
    ) -> None:
        self._directory = directory
        self._limit = query.limit
        self._check = check
        self._selection = Selection.of(query.filter, query.since, query.until)
        where, values, self._exact = self._selection.filter.sql(self._selection.now)
        self._contents = directory.contents()
        self._coverage = Coverage(self._contents)
        since, until = self._selection.since, self._selection.until
        zones = self._coverage.twice(since, until)
        self._lower = min([since, *(zone.first for zone in zones)])
        self._upper = max([until, *(zone.last for zone in zones)])
        self._where = (
            f"({where}) and (e.ended >= ? or e.ended is null) and e.started <= ?",
            [*values, self._lower, self._upper],
        )

    def records(self) -> Iterator[Record]:
        """Return the records, oldest first."""
        segments = self._segments(self._contents)
        # What is registered from now on is not wanted.
        spans = {
            segment.name: self._span(segment) for segment in segments if segment.sealed is None
        }
        if self._limit is not None:
            spans = self._newest(segments, spans, self._limit)
            segments = [segment for segment in segments if segment.name in spans]
        # The open ones of segments that may be sealed before this ends.
        seen: set[tuple[int, str, int]] = set()
        for row, segment in self._rows(segments, spans, Order()):
            if segment.sealed is None and row.outcome is None:
                seen.add((segment.worker, segment.boot, row.serial))
            yield row.record(segment.origin)
        yield from self._moved(seen, spans)

    def _segments(self, contents: Contents) -> list[Summary]:
        """Return the segments in which selected rows can be."""
        return [
            segment
            for segment in contents.segments
            if self._coverage.earliest(segment) <= self._upper
            and self._coverage.latest(segment) >= self._lower
        ]

    def _span(self, segment: Summary) -> tuple[int, int]:
        with suppress(SegmentRemoved, UnreadableSegment), self._use(segment) as reader:
            return reader.serials()
        return 1, 0

    def _rows(
        self, segments: list[Summary], spans: dict[str, tuple[int, int]], order: Order
    ) -> Iterator[tuple[Row, Summary]]:
        streams = [
            Stream(
                segment,
                self._contents.files[segment.name],
                self._where,
                order,
                spans.get(segment.name),
            )
            for segment in segments
        ]
        for row, segment in merged(streams, self._directory.readers, self._check):
            if row.ended is None:
                held = self._coverage.held(row, segment)
                if held is None:
                    continue
                # One that is open is so until now.
                if (held.certain if row.outcome == "lost" else held.possible) < self._lower:
                    continue
            if self._exact or self._selection.filter.matches(
                row.record(segment.origin), self._selection.now
            ):
                yield row, segment

    def _newest(
        self, segments: list[Summary], spans: dict[str, tuple[int, int]], limit: int
    ) -> dict[str, tuple[int, int]]:
        """Return the serials of the newest rows, by their segments."""
        newest: dict[str, tuple[int, int]] = {}
        for row, segment in islice(self._rows(segments, spans, Order(backward=True)), limit):
            _, last = newest.get(segment.name, (0, row.serial))
            newest[segment.name] = row.serial, last
        return newest

    def _moved(
        self, seen: set[tuple[int, str, int]], spans: dict[str, tuple[int, int]]
    ) -> Iterator[Record]:
        """Return the rows that have moved to a new segment before they were read."""
        former = self._contents
        if self._limit is not None or self._directory.files().keys() <= former.files.keys():
            return
        # By worker and boot, the last serial that is wanted.
        live: dict[tuple[int, str], int] = {}
        for segment in former.segments:
            if segment.sealed is None:
                run = segment.worker, segment.boot
                live[run] = max(live.get(run, 0), spans.get(segment.name, (0, 0))[1])
        self._contents = self._directory.contents()
        self._coverage = Coverage(self._contents)
        added = [
            segment
            for segment in self._segments(self._contents)
            if segment.name not in former.files and (segment.worker, segment.boot) in live
        ]
        spans = {segment.name: (0, live[segment.worker, segment.boot]) for segment in added}
        for row, segment in self._rows(added, spans, Order()):
            if (segment.worker, segment.boot, row.serial) not in seen:
                yield row.record(segment.origin)

    def _use(self, segment: Summary) -> AbstractContextManager[SegmentReader]:
        return self._directory.readers.use(segment.name, self._contents.files[segment.name])
