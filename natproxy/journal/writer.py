"""The writer of the journal: folds events into entries, and appends them to segments.

All of it runs in one thread at a time, and uses neither Twisted nor a clock.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import NamedTuple

from natproxy.journal.ports import LivePorts
from natproxy.journal.rows import Action, Entry, GapRow, Step
from natproxy.journal.segment import Addition, Segment, append
from natproxy.journal.space import Unwritable, check_space, reason_of
from natproxy.records.event_rows import PROMISED, ROUTE, SENT, SEQ, SERIAL, STARTED, Lost, Row
from natproxy.records.record import Origin

ROWS = 1_000_000
"""Entries after which a segment is sealed."""

AGE = 3600.0
"""Seconds after which a segment is sealed, if a translation in it has ended."""

STEP = 100_000
"""Microseconds by which the wall clock must step to be recorded."""


class Batch(NamedTuple):
    """What the reactor's thread has taken from the ring: everything since the last batch.

    :ivar rows: the events.
    :ivar lost: events before them that the ring no longer had.
    :ivar alive: if some were lost, the registrations of what is in the table at this moment.
    :ivar wall: the moment, in microseconds since the epoch.
    :ivar monotonic: the same moment in seconds of the monotonic clock.
    :ivar stopped: whether the daemon stops in order, and no batch follows.
    :ivar last: number of the last event so far; 0 if there was none.
    """

    rows: list[Row]
    lost: Lost | None
    alive: list[Row]
    wall: int
    monotonic: float
    stopped: bool = False
    last: int = 0


# A named tuple takes three times as long to make.
Open = tuple[
    "int | None",  # 0 seq of its event registered; None if that was lost
    "int | None",  # 1 likewise, of relaying
    "int | None",  # 2 microseconds from its start to relaying
    Row,  # 3 its last event
]
"""A translation that has not ended."""

End = tuple["int | None", "int | None", "str | None", "str | None", "int | None"]
"""Number of the event removed, time, outcome, reason and duration in microseconds."""


class Writer:
    """Writes the events of one worker and boot into segments.

    :param directory: of the journal.
    :param boot_started: when the daemon started, in microseconds since the epoch.
    :param names: whether the names of files are written.
    :ivar beside: boots of other processes with the worker's number that ran at the start.
    :ivar ports: of the entries of the live segment.
    :ivar segment: the live one; ``None`` until something is written, and after an error.
    :ivar complete_to: until when the journal is complete, in microseconds since the epoch.
    :ivar rows: translations and failed commands written.
    :ivar gaps: gaps recorded.
    """

    def __init__(self, directory: str, origin: Origin, boot_started: int, *, names: bool) -> None:
        self.beside: tuple[str, ...] = ()
        self.ports = LivePorts()
        self.segment: Segment | None = None
        self.complete_to = boot_started
        self.rows = 0
        self.gaps = 0
        self._directory = directory
        self._origin = origin
        self._boot_started = boot_started
        self._names = names
        self._part = 0
        self._path: str | None = None
        self._opened = boot_started
        self._opened_at = 0.0
        self._open: dict[int, Open] = {}
        self._pending_gaps: list[GapRow] = []
        self._pending_steps: list[Step] = []
        # When the clocks were read before: by the wall clock, and by the monotonic one.
        self._read: tuple[int, int] | None = None
        self._disk_failed = False

    def add_gap(self, gap: GapRow) -> None:
        """Record a gap with the next batch."""
        self._pending_gaps.append(gap)

    def write(self, batch: Batch) -> None:
        """Append a batch to the live segment; it is durable when this returns.

        :raises Unwritable: if it cannot be written. Nothing has changed then, and the next batch
            has to begin with the same events.
        """
        self._compare_clocks(batch)
        try:
            check_space(self._directory)
            segment = self._live_segment(batch)
            fold = Fold(self._open, names=self._names)
            fold.add(batch.rows)
            # The reactor's thread may add to them.
            pending = len(self._pending_gaps)
            gaps = self._pending_gaps[:pending]
            if batch.lost is not None:
                fold.reconcile(batch.alive)
                gaps.append(self._gap_of(batch, batch.lost))
            addition = Addition(
                batch.wall,
                fold.entries(),
                fold.replaced,
                fold.actions,
                gaps,
                self._pending_steps,
                batch.stopped,
                batch.last,
            )
            # First here: a reader may see them as soon as they are written.
            self.ports.add(addition.entries)
            append(segment, addition)
        except (sqlite3.Error, OSError) as error:
            self._disk_failed = True
            self._release(damaged=not isinstance(error, (sqlite3.OperationalError, OSError)))
            raise Unwritable(reason_of(error)) from error
        except Unwritable:
            self._disk_failed = True
            raise
        fold.apply(self._open)
        self.rows += fold.finished
        self.gaps += len(gaps)
        del self._pending_gaps[:pending]
        self._pending_steps.clear()
        self._disk_failed = False
        self.complete_to = batch.wall

    def roll(self, monotonic: float) -> str | None:
        """Begin the next segment if the live one is full, or old and not empty.

        :param monotonic: seconds of the monotonic clock.
        :return: the path of the former segment, which is to be sealed as ``moved``; ``None`` if the
            live segment remains, because the next one cannot be created yet as well.
        """
        segment = self.segment
        if segment is None or not (
            segment.rows >= ROWS
            or (monotonic - self._opened_at >= AGE and segment.rows > len(self._open))
        ):
            return None
        try:
            check_space(self._directory)
            # First into the new segment; those in the old one are deleted when it is sealed.
            successor = self._create(monotonic)
        except (sqlite3.Error, OSError, Unwritable):
            return None
        self.segment = successor
        segment.close()
        return segment.path

    def close(self) -> None:
        """Close the live segment."""
        self._release(damaged=False)

    def _live_segment(self, batch: Batch) -> Segment:
        if self.segment is None:
            if self._path is not None and os.path.exists(self._path):
                self.segment = Segment.open(self._path)
            else:
                self.segment = self._create(batch.monotonic)
        elif not self.segment.exists:
            # What is written to it from now on would be lost.
            raise sqlite3.DatabaseError(f"{self.segment.path} was deleted or replaced")
        return self.segment

    def _create(self, monotonic: float) -> Segment:
        entries = [open_entry(serial, state, self._names) for serial, state in self._open.items()]
        segment = Segment.create(
            self._directory,
            self._origin,
            self._boot_started,
            self.complete_to,
            self._part + 1,
            entries,
            self.beside,
        )
        self.ports.begin(os.path.basename(segment.path), entries)
        self._part += 1
        self._path = segment.path
        self._opened = self.complete_to
        self._opened_at = monotonic
        return segment

    def _release(self, *, damaged: bool) -> None:
        """Close the live segment; one that is damaged is not opened again."""
        segment, self.segment = self.segment, None
        if damaged and self._path is not None:
            if segment is not None and not segment.exists:
                self._pending_gaps.append(
                    GapRow(self._opened, self.complete_to, None, None, "unreadable")
                )
            self._path = None
        if segment is not None:
            # If that fails, its WAL remains, and is read when it is opened again.
            with suppress(sqlite3.Error):
                segment.close()

    def _gap_of(self, batch: Batch, lost: Lost) -> GapRow:
        until = batch.rows[0][3] if batch.rows else batch.wall
        since, until = sorted((self.complete_to, until))
        return GapRow(
            since, until, lost.first, lost.last, "disk" if self._disk_failed else "overrun"
        )

    def _compare_clocks(self, batch: Batch) -> None:
        """Note a step of the wall clock, even if the batch cannot be written."""
        monotonic = round(batch.monotonic * 1e6)
        if self._read is not None:
            elapsed = monotonic - self._read[1]
            step = batch.wall - self._read[0] - elapsed
            if abs(step) > STEP:
                self._pending_steps.append(Step(batch.wall, step, elapsed))
        self._read = batch.wall, monotonic


class Fold:
    """Folds the events of a batch into entries.

    A translation that begins and ends in the batch is one entry; one that does not end is an open
    entry, which a later batch replaces.

    :param before: the translations that were open before; they are not changed.
    :ivar actions: of administrators.
    """

    def __init__(self, before: dict[int, Open], *, names: bool) -> None:
        self.actions: list[Action] = []
        self._before = before
        self._names = names
        self._ended: list[Entry] = []
        # A translation that has ended is None.
        self._changed: dict[int, Open | None] = {}

    def add(self, rows: list[Row]) -> None:
        """Add events, in their order."""
        changed, before, ended, names = self._changed, self._before, self._ended, self._names
        for row in rows:
            seq, event, serial, time, started, route, _, _, outcome, reason, duration, uid, pid = (
                row
            )
            if serial is None or started is None or route is None:
                self.actions.append(Action(seq, event, time, serial, uid, pid, reason))
                continue
            if event == "registered":
                changed[serial] = (seq, None, None, row)
                continue
            if event == "failed":
                state: Open = (seq, None, None, row)
                removed = None
            else:
                state = changed.get(serial) or before.get(serial) or (None, None, None, row)
                if event == "relaying":
                    changed[serial] = (state[0], seq, time - started, row)
                    continue
                removed = seq
                changed[serial] = None
            end = (removed, time, outcome, reason, int(duration * 1e6 + 0.5))
            ended.append(_entry(serial, row, state, end, names))

    def reconcile(self, alive: list[Row]) -> None:
        """Correct what is open after a loss of events.

        :param alive: the registrations of what is in the table after the last event.
        """
        serials = set()
        for row in alive:
            serial = row[SERIAL]
            assert serial is not None
            serials.add(serial)
            first = row[SEQ] or None
            if serial not in self._before:
                state = self._changed.get(serial) or (first, None, None, row)
                self._changed[serial] = (first, *state[1:])
        for serial, state in self._before.items():
            if serial not in serials and serial not in self._changed:
                self._ended.append(open_entry(serial, state, self._names, "lost"))
                self._changed[serial] = None

    def entries(self) -> list[Entry]:
        """Return the entries to write."""
        return self._ended + [
            open_entry(serial, state, self._names)
            for serial, state in self._changed.items()
            if state is not None
        ]

    @property
    def replaced(self) -> int:
        """Number of entries that replace an open one."""
        return len(self._changed.keys() & self._before.keys())

    @property
    def finished(self) -> int:
        """Number of entries that have ended."""
        return len(self._ended)

    def apply(self, open_translations: dict[int, Open]) -> None:
        """Change what is open as this batch has changed it."""
        for serial, state in self._changed.items():
            if state is None:
                open_translations.pop(serial, None)
            else:
                open_translations[serial] = state


def open_entry(serial: int, state: Open, names: bool, outcome: str | None = None) -> Entry:
    """Return the entry of a translation whose end is not known.

    :param names: whether it has the name of the file.
    """
    return _entry(serial, state[3], state, (None, None, outcome, None, None), names)


def _entry(serial: int, row: Row, state: Open, end: End, names: bool) -> Entry:
    """Return an entry.

    :param row: its last event.
    """
    started, route = row[STARTED], row[ROUTE]
    assert started is not None
    assert route is not None
    client, client_port, nat, nat_port, upstream, upstream_port, verb, name, identity, earlier = (
        route
    )
    removed, ended, outcome, reason, duration = end
    return (
        serial,
        state[0],
        state[1],
        removed,
        started,
        state[2],
        ended,
        client,
        client_port,
        identity,
        nat,
        nat_port,
        upstream,
        upstream_port,
        verb,
        name if names else "",
        row[PROMISED],
        row[SENT] or 0,
        outcome,
        reason,
        duration,
        None if earlier is None else (earlier[0], earlier[1] + 1),
    )
