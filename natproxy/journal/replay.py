"""The events of translations, reconstructed from the rows of segments, by worker and ``seq``."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress

from natproxy.journal.contents import Directory, Identity
from natproxy.journal.coverage import MISSING
from natproxy.journal.files import segment_files
from natproxy.journal.reader import Readers, SegmentReader, SegmentRemoved, UnreadableSegment
from natproxy.journal.rows import Row
from natproxy.journal.schema import CAUSES
from natproxy.journal.summary import END, Summary
from natproxy.journal.translations import Order, Selection, Stream, merged
from natproxy.records.queries import EventsQuery
from natproxy.records.record import Record

LOST = "lost"
"""The event of a record of events that are not in the journal."""


def events(
    directory: Directory, query: EventsQuery, check: Callable[[], object]
) -> Iterator[Record]:
    """Return the records of events, by boot, worker and ``seq``.

    Events that the journal does not have are one record ``lost`` with the ``seq`` of the last of
    them. ``after`` and ``before`` are about one boot, the newest if the query names none; with
    ``after``, no other is searched.

    :param check: called before each piece is read; what it raises ends the search.
    :raises JournalError: if the directory cannot be read.
    :raises FilterError: if the filter is malformed.
    """
    chains: dict[tuple[str, int], list[Summary]] = {}
    contents = directory.contents()
    for segment in contents.segments:
        chains.setdefault((segment.boot, segment.worker), []).append(segment)
    newest = query.boot or (contents.segments[-1].boot if contents.segments else "")
    for (boot, _), chain in chains.items():
        if boot == newest or query.after is None:
            yield from _Replay(directory, contents.files, chain, query, boot == newest).records(
                check
            )


class _Moved(Exception):
    """The newest segment was sealed: entries that are open are in a later one now."""


class _NewestStream(Stream):
    """The rows of the newest segment, from which open entries may move.

    :param moved: whether there is a later segment now.
    """

    def __init__(
        self,
        segment: Summary,
        identity: Identity,
        where: tuple[str, list[int | str]],
        order: Order,
        moved: Callable[[], bool],
    ) -> None:
        super().__init__(segment, identity, where, order)
        self._moved = moved

    def read(self, readers: Readers) -> None:
        """Read a piece of the segment.

        :raises _Moved: if it may be incomplete.
        """
        super().read(readers)
        if self._moved():
            raise _Moved


class _Replay:
    """The events of one worker and boot.

    :param numbered: whether ``after`` and ``before`` are about this boot.
    """

    def __init__(
        self,
        directory: Directory,
        files: dict[str, Identity],
        chain: list[Summary],
        query: EventsQuery,
        numbered: bool,
    ) -> None:
        self._directory = directory
        self._files = files
        self._chain = sorted(chain, key=lambda segment: segment.part)
        self._selection = Selection.of(query.filter, query.since, query.until)
        self._after = query.after if numbered and query.after is not None else 0
        self._before = query.before if numbered and query.before is not None else END
        # The number of the last event that was read.
        self._position = 0
        # The number of the next event; None until the first one that is wanted.
        self._expected = self._after + 1 if self._after else None

    def records(self, check: Callable[[], object]) -> Iterator[Record]:
        """Return the selected records."""
        while True:
            try:
                yield from self._records(check)
            except _Moved:
                contents = self._directory.contents()
                self._files = contents.files
                self._after = max(self._after, self._position)
                origin = self._chain[0].boot, self._chain[0].worker
                chain = [one for one in contents.segments if (one.boot, one.worker) == origin]
                if not chain:
                    return
                self._chain = sorted(chain, key=lambda segment: segment.part)
            else:
                return

    def _records(self, check: Callable[[], object]) -> Iterator[Record]:
        """Return the selected records that follow the position."""
        selection = self._selection
        # Otherwise not every event is read.
        counted = self._steady and not selection.filter
        for record in self._ordered(check):
            seq, time = record.seq, record.time
            assert seq is not None
            assert time is not None
            if not self._after < seq < self._before:
                continue
            if time > selection.until and self._steady:
                return
            inside = selection.since <= time <= selection.until
            expected, self._position = self._expected, seq
            if expected is not None or inside:
                self._expected = seq + 1
            if expected is not None and seq > expected and counted:
                yield self._lost(expected, seq - 1)
            if inside and (record.event == LOST or selection.filter.matches(record, selection.now)):
                yield record
        expected = self._expected
        if expected is not None and expected < self._before < END and counted:
            yield self._lost(expected, self._before - 1)

    @property
    def _steady(self) -> bool:
        """Whether the order of events is that of their times."""
        return not any(segment.steps for segment in self._chain)

    def _ordered(self, check: Callable[[], object]) -> Iterator[Record]:
        """Return all records that may be selected, by their ``seq``."""
        segments = self._segments()
        # Events that wait for those of rows which have not been read yet.
        waiting: list[tuple[int, Record]] = []
        for segment in segments:
            waiting += self._actions(segment)
            if self._selection.filter:
                waiting += self._gaps(segment)
        heapq.heapify(waiting)
        where, order = self._where(), Order(by_serial=True)
        streams = [
            (
                _NewestStream(segment, self._files[segment.name], where, order, self._moved)
                if segment is self._chain[-1]
                else Stream(segment, self._files[segment.name], where, order)
            )
            for segment in segments
        ]
        parts = {segment.part for segment in self._chain}
        for row, segment in merged(streams, self._directory.readers, check):
            if row.outcome is None and segment.part + 1 in parts:
                # It has moved.
                continue
            # Events of later rows have greater numbers.
            while row.seq is not None and waiting and waiting[0][0] < row.seq:
                yield heapq.heappop(waiting)[1]
            for record in _events_of(row, segment):
                assert record.seq is not None
                heapq.heappush(waiting, (record.seq, record))
        while waiting:
            yield heapq.heappop(waiting)[1]

    def _moved(self) -> bool:
        """Return whether there is a segment of this worker and boot that was not there before."""
        origin = self._chain[0].name.partition("-")[2]
        return any(
            name.endswith(origin) and name not in self._files
            for name in segment_files(self._directory.path)
        )

    def _where(self) -> tuple[str, list[int | str]]:
        where, values, _ = self._selection.filter.sql(self._selection.now, events=True)
        where = f"({where})"
        if self._after:
            where += " and coalesce(e.removed_seq, e.relaying_seq, e.seq) > ?"
            values = [*values, self._after]
        if self._before < END:
            where += " and coalesce(e.seq, e.relaying_seq, e.removed_seq) < ?"
            values = [*values, self._before]
        if self._steady:
            where += " and (e.ended >= ? or e.ended is null) and e.started <= ?"
            values = [*values, self._selection.since, self._selection.until]
        return where, values

    def _segments(self) -> list[Summary]:
        """Return the segments that may have selected events."""
        found: list[Summary] = []
        for segment in reversed(self._chain):
            if self._steady and (
                segment.complete_to < self._selection.since
                or segment.earliest > self._selection.until
            ):
                continue
            found.insert(0, segment)
            if self._after and self._begins_before(segment, self._after):
                # The events in older segments have smaller numbers.
                break
        return found

    def _begins_before(self, segment: Summary, seq: int) -> bool:
        """Return whether the first event since a segment was opened is not after another one."""
        with suppress(SegmentRemoved, UnreadableSegment), self._use(segment) as reader:
            rows = reader.select(
                "e.started >= ? and e.seq is not null order by e.serial limit 1", (segment.opened,)
            )
            return any(row.seq is not None and row.seq <= seq + 1 for row in rows)
        return False

    def _actions(self, segment: Summary) -> list[tuple[int, Record]]:
        with suppress(SegmentRemoved, UnreadableSegment), self._use(segment) as reader:
            return [
                (
                    seq,
                    Record(
                        event,
                        time,
                        segment.proxy,
                        segment.worker,
                        segment.boot,
                        seq,
                        serial,
                        reason=reason,
                        uid=uid,
                        pid=pid,
                    ),
                )
                for seq, event, time, serial, uid, pid, reason in reader.actions()
            ]
        return []

    def _gaps(self, segment: Summary) -> list[tuple[int, Record]]:
        """Return the gaps of a segment as records ``lost``."""
        found = []
        for gap in segment.gaps:
            if gap.first_seq is not None and gap.last_seq is not None:
                record = self._lost(gap.first_seq, gap.last_seq)
                time = gap.until if gap.since is None else gap.since
                if time is not None:
                    found.append((gap.last_seq, record._replace(time=time)))
        return found

    def _lost(self, first: int, last: int) -> Record:
        segment = self._chain[-1]
        cause = next(
            (
                CAUSES.get(gap.cause, gap.cause)
                for segment in self._chain
                for gap in segment.gaps
                if gap.first_seq is not None
                and gap.last_seq is not None
                and gap.first_seq <= last
                and gap.last_seq >= first
            ),
            MISSING,
        )
        return Record(
            LOST,
            proxy=segment.proxy,
            worker=segment.worker,
            boot=segment.boot,
            seq=last,
            reason=f"events {first} to {last} are not in the journal: {cause}",
        )

    def _use(self, segment: Summary) -> AbstractContextManager[SegmentReader]:
        return self._directory.readers.use(segment.name, self._files[segment.name])


def _events_of(row: Row, segment: Summary) -> Iterator[Record]:
    """Return the records of the events of a translation, or of a failed command."""
    record = row.record(segment.origin)
    if row.nat_port is None:
        if row.seq is not None and row.ended is not None:
            yield record._replace(event="failed", time=row.ended, state="failed")
        return
    if row.removed_seq is not None and row.ended is not None:
        yield record._replace(event="removed", time=row.ended, seq=row.removed_seq, state="removed")
    # Before its end nothing of it was to be seen.
    record = record._replace(ended=None, bytes=0, outcome=None, reason=None, duration=None)
    if row.relaying_seq is not None and row.relaying is not None:
        yield record._replace(
            event="relaying",
            time=row.started + row.relaying,
            seq=row.relaying_seq,
            state="relaying",
        )
    if row.seq is not None:
        yield record._replace(
            event="registered",
            time=row.started,
            promised=None,
            state="registered",
        )
