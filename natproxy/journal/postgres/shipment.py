"""Ships the journal of one proxy: rows, with the position after them, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from natproxy.journal.contents import Contents, Directory
from natproxy.journal.postgres import holes
from natproxy.journal.postgres.completeness import Known
from natproxy.journal.postgres.connection import PostgresError
from natproxy.journal.postgres.copying import (
    Rows,
    entry_values,
    unended_values,
)
from natproxy.journal.postgres.partitions import AHEAD, day_of, make_partitions
from natproxy.journal.postgres.positions import (
    Positions,
    Registration,
    Routes,
    Taken,
    ends_of,
    store,
)
from natproxy.journal.postgres.reading import Piece, read_piece
from natproxy.journal.postgres.settling import Settlement
from natproxy.journal.reader import SegmentRemoved, UnreadableSegment
from natproxy.journal.rows import Row
from natproxy.journal.summary import BEGINNING, END, Summary
from natproxy.records.record import format_time

if TYPE_CHECKING:
    import psycopg

LOCKS = 0x6E7078
"""The first key of the advisory locks of proxies; the second one is the proxy's number."""


FAILURES = 3
"""Passes in a row in which a live segment cannot be read, before that is reported.

One that is being sealed cannot be read for a moment.
"""


class Superseded(PostgresError):
    """The position was changed by another process: it has to be read again."""


class AnotherShipper(PostgresError):
    """Another process ships the same proxy."""


class Look(NamedTuple):
    """A directory at one moment.

    :ivar directory: of a journal.
    :ivar contents: of it.
    :ivar checked: the moment before it was listed, in microseconds since the epoch.
    """

    directory: Directory
    contents: Contents
    checked: int


class Progress(NamedTuple):
    """What one pass over the journal of a proxy has done.

    :ivar rows: that were taken.
    :ivar refused: that were set aside.
    :ivar complete_to: until when the record is complete, in microseconds since the epoch;
        ``BEGINNING`` if nothing was taken.
    """

    rows: int
    refused: int
    complete_to: int


class Shipment:
    """The journal of one proxy on its way into the database.

    After an exception it is of no use: what was committed is known to the database alone.

    :param connection: of this process alone.
    :param clock: returns microseconds since the epoch.
    :param complain: called with a message for people.
    :raises AnotherShipper: see there.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        registration: Registration,
        clock: Callable[[], int],
        complain: Callable[[str], object],
    ) -> None:
        self._connection = connection
        self._name = registration.name
        self._clock = clock
        self._complain = complain
        self.positions = Positions(connection, registration, clock())
        locked = connection.execute(
            "select pg_try_advisory_lock(%s, %s)", [LOCKS, self.positions.proxy]
        ).fetchone()
        if locked != (True,):
            raise AnotherShipper(
                f"another process ships the proxy {self._name} to this database; if that is another"
                " proxy, each daemon needs a --name of its own"
            )
        self._settlement = Settlement()
        self._refusals = self._refused_times()
        self._made: set[int] = set()
        self._earliest: dict[int, int] = {}
        self._routes = Routes(connection, self.positions)
        self._rows = self._refused = 0
        self._passed = False
        # Passes in a row in which a live segment could not be read, by its name.
        self._failures: dict[str, int] = {}

    def ship(
        self, look: Look, segments: Sequence[Summary], stopping: Callable[[], bool]
    ) -> Progress:
        """Ship what is new.

        :param segments: those of the proxy, in the order in which they were written.
        :param stopping: whether to return soon.
        :raises Superseded: if the position has to be read again.
        """
        self._rows = self._refused = 0
        if self._passed:
            # What was done before this look, and is followed by nothing in it, has ended.
            self._end_runs(segments)
        self._passed = True
        today = day_of(self._clock())
        self._make_partitions(range(today, today + AHEAD))
        wanted = self._wanted(segments)
        # Runs of which a segment could not be read: the next one has to wait for it.
        waiting: set[tuple[int, str]] = set()
        for number, segment in enumerate(wanted):
            run = segment.worker, segment.boot
            if stopping():
                break
            if run in waiting:
                continue
            others = {(other.worker, other.boot) for other in wanted[number + 1 :]}
            try:
                self._take(look, segment, run not in others, stopping)
            except SegmentRemoved:
                continue
            except UnreadableSegment as error:
                if segment.sealed is None:
                    waiting.add(run)
                    self._wait_for(segment, error)
                else:
                    self._skip(segment, error)
            else:
                self._failures.pop(segment.name, None)
        return self._settle(look, self._wanted(segments))

    def _wanted(self, segments: Sequence[Summary]) -> list[Summary]:
        """Return the segments of which something may be left."""
        taken, retained = self.positions.segments, self.positions.retained
        return [
            segment
            for segment in segments
            if not (segment.name in taken and taken[segment.name].done)
            and (segment.sealed is None or segment.complete_to >= retained)
        ]

    def _take(self, look: Look, segment: Summary, last: bool, stopping: Callable[[], bool]) -> None:
        """Ship what is new in a segment, piece by piece.

        :param last: whether no segment of its run follows it.
        """
        run = self._run(segment)
        if segment.name not in self.positions.segments:
            newest = self.positions.newest(run)
            if newest is not None:
                self._note(holes.before(newest, segment), segment.opened)
        while True:
            taken = self.positions.segments.get(segment.name, Taken(run, _begun(segment)))
            known = self.positions.open.get(run, {})
            piece = read_piece(
                look.directory, look.contents, segment.name, taken.last_serial, known
            )
            if piece.rows:
                taken = taken._replace(last_serial=piece.rows[-1].serial)
            lost: frozenset[int] = frozenset()
            if piece.drained:
                if holes.follows(self.positions, taken):
                    lost = piece.missing
                done = piece.summary.sealed is not None or not last
                taken = taken._replace(summary=piece.summary, done=done)
            if taken != self.positions.segments.get(segment.name) or piece.changed or lost:
                self._commit(taken, piece, lost)
            if piece.drained or stopping():
                return

    def _commit(self, taken: Taken, piece: Piece, lost: frozenset[int]) -> None:
        """Write the rows of a piece, and the position after it, in one transaction.

        :param lost: serials of translations that ended in a hole.
        """
        positions, run, part = self.positions, taken.run, taken.summary.part
        before = positions.open.get(run, {})
        rows = [*piece.changed, *piece.rows]
        closed = [row.serial for row in rows if row.ended is not None and row.serial in before]
        ended = [row for row in rows if row.ended is not None and self._is_kept(row)]
        unended = [row for row in piece.rows if row.ended is None] + [
            row
            for row in piece.changed
            if row.ended is None
            and (row.outcome is not None or (row.relaying is not None) != before[row.serial])
        ]
        self._make_partitions(day_of(row.ended) for row in ended if isinstance(row.ended, int))
        with self._transaction():
            routes = self._routes.numbers(rows)
            writer = Rows(
                self._connection,
                run,
                (taken.summary.opened, piece.summary.complete_to),
                self._clock(),
            )
            writer.copy([entry_values(row, run, routes[ends_of(row)]) for row in ended])
            self._note_starts(ended)
            if closed:
                self._connection.execute(
                    "delete from unended where run = %s and serial = any(%s)", [run, closed]
                )
            writer.put([unended_values(row, run, routes[ends_of(row)], part) for row in unended])
            if lost:
                self._lose(run, lost, part - 1)
            store(self._connection, taken)
            if ended or writer.refused:
                self._connection.execute(
                    "update proxies set shipped = shipped + %s, refused = refused + %s"
                    " where id = %s",
                    [len(ended) - writer.refused, writer.refused, positions.proxy],
                )
        positions.segments[taken.summary.name] = taken
        still_open = {
            row.serial: row.relaying is not None for row in unended if row.outcome is None
        }
        gone = lost.union(closed, (row.serial for row in unended if row.outcome is not None))
        positions.open[run] = {
            serial: relays
            for serial, relays in {**before, **still_open}.items()
            if serial not in gone
        }
        if gone - set(closed):
            self._settlement.reset()
        self._rows += len(ended)
        self._refused += writer.refused

    def _wait_for(self, segment: Summary, error: UnreadableSegment) -> None:
        """Report that a live segment cannot be read, if that lasts."""
        failures = self._failures[segment.name] = self._failures.get(segment.name, 0) + 1
        if failures == FAILURES:
            self._complain(f"{self._name}: {error}; its worker's rows wait until it is sealed")

    def _skip(self, segment: Summary, error: UnreadableSegment) -> None:
        """Note that a segment which does not change any more cannot be read."""
        self._complain(f"{self._name}: {error}")
        run = self._run(segment)
        taken = self.positions.segments.get(segment.name, Taken(run, _begun(segment)))
        self._note([holes.lost(taken, segment.complete_to)], segment.complete_to)

    def _end_runs(self, segments: Sequence[Summary]) -> None:
        """Note which runs have ended in segments that were deleted before they were shipped."""
        names = {segment.name for segment in segments}
        for newest in list(holes.ends(self.positions, segments, names)):
            self._note([holes.lost(newest, None)], None)
            serials = frozenset(self.positions.open.pop(newest.run, {}))
            if serials:
                with self._transaction():
                    self._lose(newest.run, serials, newest.summary.part)
                self._settlement.reset()

    def _note(self, hole: list[Taken], end: int | None) -> None:
        """Write that segments are missing, and report it."""
        if not hole:
            return
        gap = hole[0].summary.gaps[-1]
        until = "the next run of the daemon" if end is None else format_time(end)
        assert gap.since is not None
        self._complain(
            f"{self._name}: segments were deleted or damaged before they were shipped; the record"
            f" has a gap from {format_time(gap.since)} to {until}"
        )
        with self._transaction():
            for taken in hole:
                store(self._connection, taken)
        for taken in hole:
            self.positions.segments[taken.summary.name] = taken

    def _lose(self, run: int, serials: frozenset[int], part: int) -> None:
        self._connection.execute(
            "update unended set outcome = 'lost', part = %s where run = %s and serial = any(%s)",
            [part, run, list(serials)],
        )

    def _settle(self, look: Look, wanted: list[Summary]) -> Progress:
        """Write until when the record is complete."""
        positions = self.positions
        waiting: dict[int, int] = {}
        for segment in wanted:
            if (segment.worker, segment.boot) not in positions.runs:
                other = waiting.get(segment.worker, segment.boot_started)
                waiting[segment.worker] = min(other, segment.boot_started)
        if self._refused:
            self._refusals = self._refused_times()
        known = Known(look.contents, look.checked, self._refusals)
        with self._transaction():
            report = self._settlement.write(self._connection, positions, known, waiting)
            self._connection.execute(
                "update proxies set checked = %s where id = %s", [look.checked, positions.proxy]
            )
        return Progress(
            self._rows, self._refused, min(report.complete_to.values(), default=BEGINNING)
        )

    def _run(self, segment: Summary) -> int:
        """Return the number of the run of a segment."""
        key = segment.worker, segment.boot
        if key not in self.positions.runs:
            row = self._connection.execute(
                "insert into runs (proxy, worker, boot) values (%s, %s, %s)"
                " on conflict (proxy, worker, boot) do update set boot = excluded.boot"
                " returning id",
                [self.positions.proxy, *key],
            ).fetchone()
            assert row is not None
            self.positions.runs[key] = row[0]
        return self.positions.runs[key]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit at the end, unless another process has changed the position.

        :raises Superseded: if one has.
        """
        positions = self.positions
        with self._connection.transaction():
            updated = self._connection.execute(
                "update proxies set revision = revision + 1, heartbeat = %s"
                " where id = %s and revision = %s",
                [self._clock(), positions.proxy, positions.revision],
            )
            if updated.rowcount != 1:
                raise Superseded(f"the position of {self._name} was changed by another process")
            yield
        positions.revision += 1

    def _make_partitions(self, days: Iterable[int]) -> None:
        missing = set(days) - self._made
        if missing:
            make_partitions(self._connection, missing)
            self._made |= missing

    def _note_starts(self, ended: list[Row]) -> None:
        """Note for each day when the first of its entries started."""
        earliest: dict[int, int] = {}
        for row in ended:
            if isinstance(row.ended, int) and isinstance(row.started, int):
                day = day_of(row.ended)
                earliest[day] = min(row.started, earliest.get(day, END))
        # In their order, so that no two shippers wait for each other.
        for day, start in sorted(earliest.items()):
            if start < self._earliest.get(day, END):
                self._earliest[day] = start
                self._connection.execute(
                    "update days set earliest = %(start)s"
                    " where day = %(day)s and earliest > %(start)s",
                    {"day": day, "start": start},
                )

    def _is_kept(self, row: Row) -> bool:
        return not isinstance(row.ended, int) or row.ended >= self.positions.retained

    def _refused_times(self) -> list[tuple[int, int]]:
        return self._connection.execute(
            "select first, last from refused join runs on runs.id = run where proxy = %s"
            " order by first",
            [self.positions.proxy],
        ).fetchall()


def _begun(segment: Summary) -> Summary:
    """Return the summary of a segment of which nothing was taken."""
    return segment._replace(
        complete_to=segment.opened, sealed=None, stopped=None, gaps=(), steps=()
    )
