"""The last events of a NAT table, numbered, for readers that come back for what is new.

Watchers and the journal are cursors: each remembers the number of the last event that it has
read. A reader that is too slow loses events and learns which; nothing else depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from natproxy.nat.entry import NATEntry
from natproxy.nat.events import Failed
from natproxy.nat.recorder import Spool
from natproxy.nat.rows import RowRing
from natproxy.nat.table import NATTable
from natproxy.records.command_texts import LONG_NAME, CommandTexts
from natproxy.records.event_rows import ROUTE, STARTED, Lost, Row, action_row, record_of
from natproxy.records.record import Origin, Record, microseconds_of

EVENTS = 65_536
"""Events that a ring holds."""

NAMES = 32 << 20
"""Characters of long names that a ring holds; with more of them it holds fewer events."""

BATCH = 96
"""Events of which the rows are made at once, at the latest.

In the path of a command an event is only noted. To make many rows, one after the other, takes a
fraction of the time that it takes between two commands, when neither code nor data are in the CPU's
cache. The entries of the events that are noted remain in memory.
"""


class EventRing:
    """The last events of a NAT table.

    :param table: whose recorder it becomes, and whose entries it can describe.
    :param origin: for the records of the events.
    :param size: events to hold.
    :param names: characters of long names to hold; see `natproxy.records.command_texts.LONG_NAME`.
    :param wall_clock: returns seconds since the epoch.
    :param every_name: whether an event has all files of a command that names several.
    :ivar every_name: likewise.
    :ivar verb_and_name: returns verb and file name of a command as records have them.
    :ivar watchers: clients that follow the events; counted by those who serve them.
    """

    _log = Logger()

    def __init__(
        self,
        table: NATTable,
        origin: Origin,
        size: int = EVENTS,
        names: int = NAMES,
        wall_clock: Callable[[], float] = time.time,
        every_name: bool = False,
    ) -> None:
        self.origin = origin
        self.watchers = 0
        self._table = table
        self.every_name = every_name
        self.verb_and_name = CommandTexts(every_name, LONG_NAME).find
        self._rows = RowRing(size, names, microseconds_of(wall_clock()))
        self._spool: Spool | None = None
        self._waiting: list[Callable[[], object]] = []
        # What makes the row of an event, and its arguments.
        self._noted: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        # Events that are noted before something is to be done.
        self._most = BATCH
        table.record(self)

    @property
    def first(self) -> int:
        """Number of the oldest event held; equals `next` if none is held."""
        self._make_rows()
        return self._rows.first

    @property
    def next(self) -> int:
        """Number of the next event; the first event has 1."""
        return self._rows.next + len(self._noted)

    @property
    def complete_from(self) -> int:
        """Microseconds since the epoch from which on the ring has every event."""
        self._make_rows()
        return self._rows.complete_from

    def close(self) -> None:
        """Stop recording; what the ring holds can still be read."""
        self._table.record(None)
        self._make_rows()

    def spool_to(self, spool: Spool | None) -> None:
        """Pass the events that are held, and each later one, to a spool; ``None`` ends that."""
        held, _ = self.read(0, self._rows.size)
        self._spool = spool
        if spool is not None:
            for row in held:
                spool.row(row)

    def read(self, after: int, limit: int) -> tuple[list[Row], Lost | None]:
        """Return the events that follow one, oldest first.

        :param after: number of the last event that was read; 0 for all.
        :param limit: number of events at most.
        :return: the events, and those before them that the ring no longer has.
        """
        self._make_rows()
        return self._rows.read(after, limit)

    def open_rows(self, wall: float, now: float) -> list[Row]:
        """Return the row of the registration of every entry in the table, as `first_row` does."""
        return [self.first_row(entry, wall, now) for entry in self._table]

    def wake(self, callback: Callable[[], object]) -> None:
        """Call back once, at the next event.

        The callback is called in the path of a command: it schedules the reading.
        """
        self._waiting.append(callback)
        self._most = 1

    def cancel_wake(self, callback: Callable[[], object]) -> None:
        """Cancel a call of `wake`, if it is pending."""
        if callback in self._waiting:
            self._waiting.remove(callback)
            if not self._waiting:
                self._most = BATCH

    def act(
        self,
        event: str,
        time: float,
        uid: int | None,
        pid: int | None,
        reason: str | None = None,
        serial: int | None = None,
    ) -> None:
        """Add an administrator's action, such as ``kill``, or a change of an upstream's health.

        :param time: seconds since the epoch.
        :param uid: of the administrator; ``None`` if there is none.
        :param pid: likewise.
        :param reason: the request, such as the text of a filter, or what has happened.
        """
        self._note(self._act, event, time, uid, pid, reason, serial)

    def record_of(self, row: Row) -> Record:
        """Return the record of an event."""
        return record_of(row, self.origin)

    def first_row(self, entry: NATEntry, wall: float, now: float) -> Row:
        """Return the row of an entry's registration, whether or not the ring still holds it.

        Of an entry that was registered before the ring existed, it has the number 0.

        :param wall: seconds since the epoch, now.
        :param now: seconds of the table's clock, now.
        """
        self._make_rows()
        return entry.recorded or self._earlier_row(entry, wall, now)

    # What the table calls, in the path of a command: without `_note`, which would be one more call.
    # What an entry has when its row is made is what it had at the event, but for its state.

    def registered(self, entry: NATEntry, wall: float) -> None:
        """Add the registration of an entry."""
        noted = self._noted
        noted.append((self._registered, (entry, wall)))
        if self._spool is not None:
            self._spool.registered(self._rows.next + len(noted) - 1, entry, wall)
        if len(noted) >= self._most:
            self._noted_many()

    def relaying(self, entry: NATEntry, wall: float, now: float) -> None:
        """Add that the header of an entry's reply has been received."""
        noted = self._noted
        noted.append((self._relaying, (entry, wall, now)))
        if self._spool is not None:
            self._spool.relaying(self._rows.next + len(noted) - 1, entry, wall, now)
        if len(noted) >= self._most:
            self._noted_many()

    def removed(self, entry: NATEntry, wall: float, now: float) -> None:
        """Add that an entry has been removed."""
        noted = self._noted
        noted.append((self._removed, (entry, wall, now)))
        if self._spool is not None:
            self._spool.removed(self._rows.next + len(noted) - 1, entry, wall, now)
        if len(noted) >= self._most:
            self._noted_many()

    def failed(self, event: Failed) -> None:
        """Add a command that never had an upstream connection."""
        self._note(self._failed, event)

    def _note(self, make_row: Callable[..., None], *arguments: Any) -> None:
        self._noted.append((make_row, arguments))
        many = len(self._noted) >= self._most
        if self._spool is not None:
            # These events are rare.
            for row in self.read(self.next - 2, 1)[0]:
                self._spool.row(row)
        if many:
            # What is called may add events.
            self._noted_many()

    def _noted_many(self) -> None:
        """Make the rows if they are many; wake those that wait for an event."""
        if len(self._noted) >= BATCH:
            self._make_rows()
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._most = BATCH
            for callback in waiting:
                callback()

    def _make_rows(self) -> None:
        """Make the rows of the events that are noted."""
        noted = self._noted
        if not noted:
            return
        self._noted = []
        for make_row, arguments in noted:
            try:
                make_row(*arguments)
            except Exception:
                self._log.failure("cannot record an event")
                if self._spool is not None:
                    # The numbers of those that follow differ.
                    self._spool.close(remove=True)

    def _act(
        self,
        event: str,
        time: float,
        uid: int | None,
        pid: int | None,
        reason: str | None,
        serial: int | None,
    ) -> None:
        self._rows.add(action_row(self._rows.next, event, time, uid, pid, reason, serial))

    def _earlier_row(self, entry: NATEntry, wall: float, now: float) -> Row:
        """Return the row of an entry that was registered before the ring existed."""
        return self._begin(entry, 0, wall - (now - entry.registered_at))

    def _begin(self, entry: NATEntry, seq: int, wall: float) -> Row:
        """Make the row of an entry's registration, and keep it with the entry."""
        started = microseconds_of(wall)
        verb, name = self.verb_and_name(entry.command)
        self._rows.count(name)
        entry.recorded = row = (
            seq,
            "registered",
            entry.serial,
            started,
            started,
            (
                *entry.client_address,
                *entry.key.local,
                *entry.key.upstream,
                verb,
                name,
                entry.identity,
                None if entry.earlier is None else entry.earlier.plain(),
            ),
            None,
            0,
            None,
            None,
            entry.registered_at - entry.started_at,
            None,
            None,
        )
        return row

    def _registered(self, entry: NATEntry, wall: float) -> None:
        self._rows.add(self._begin(entry, self._rows.next, wall))

    def _relaying(self, entry: NATEntry, wall: float, now: float) -> None:
        first = entry.recorded or self._earlier_row(entry, wall, now)
        self._rows.add(
            (
                self._rows.next,
                "relaying",
                entry.serial,
                microseconds_of(wall),
                first[STARTED],
                first[ROUTE],
                entry.promised,
                0,
                None,
                None,
                now - entry.started_at,
                None,
                None,
            )
        )

    def _removed(self, entry: NATEntry, wall: float, now: float) -> None:
        first = entry.recorded or self._earlier_row(entry, wall, now)
        outcome = entry.outcome
        self._rows.add(
            (
                self._rows.next,
                "removed",
                entry.serial,
                microseconds_of(wall),
                first[STARTED],
                first[ROUTE],
                entry.promised,
                entry.relayed,
                None if outcome is None else outcome._value_,
                entry.reason,
                now - entry.started_at,
                None,
                None,
            )
        )

    def _failed(self, event: Failed) -> None:
        verb, name = self.verb_and_name(event.command)
        self._rows.count(name)
        self._rows.add(_failed_row(self._rows.next, event, verb, name))


def _failed_row(seq: int, event: Failed, verb: str, name: str) -> Row:
    """Return the row of a command that never had an upstream connection.

    :param name: of the file, as records have it.
    """
    duration = event.monotonic - event.started_at
    client, client_port = event.client
    earlier = None if event.earlier is None else event.earlier.plain()
    return (
        seq,
        "failed",
        event.serial,
        microseconds_of(event.time),
        microseconds_of(event.time - duration),
        (client, client_port, None, None, None, None, verb, name, event.identity, earlier),
        None,
        event.sent,
        event.outcome.value,
        event.reason,
        duration,
        None,
        None,
    )
