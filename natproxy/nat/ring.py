"""The last events of a NAT table, numbered, for readers that come back for what is new.

Watchers and the journal are cursors: each remembers the number of the last event that it has
read. A reader that is too slow loses events and learns which; nothing else depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from natproxy.nat.entry import NATEntry
from natproxy.nat.events import Failed
from natproxy.nat.rows import ENDS, EVENT, ROUTE, SEQ, STARTED, TIME, Row, record_of, verb_and_name
from natproxy.nat.table import NATTable
from natproxy.protocol import Command
from natproxy.records.record import Origin, Record, microseconds_of

EVENTS = 65_536
"""Events that a ring holds."""

NAMES = 32 << 20
"""Characters of long names that a ring holds; with more of them it holds fewer events."""

LONG_NAME = 256
"""Characters of a name from which on it is counted: shorter ones need 16 MiB at most."""

CACHED = 1024
"""Commands of which verb and name are cached, if they are no longer than `LONG_NAME`."""


class Lost(NamedTuple):
    """Events that a reader has missed.

    :ivar first: number of the first one.
    :ivar last: number of the last one.
    """

    first: int
    last: int


class EventRing:
    """The last events of a NAT table.

    :param table: whose recorder it becomes, and whose entries it can describe.
    :param origin: for the records of the events.
    :param size: events to hold.
    :param names: characters of long names to hold; see `LONG_NAME`.
    :param wall_clock: returns seconds since the epoch.
    :ivar first: number of the oldest event held; equals `next` if none is held.
    :ivar next: number of the next event; the first event has 1.
    :ivar watchers: clients that follow the events; counted by those who serve them.
    :ivar complete_from: microseconds since the epoch from which on the ring has every event.
    """

    def __init__(
        self,
        table: NATTable,
        origin: Origin,
        size: int = EVENTS,
        names: int = NAMES,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.origin = origin
        self.first = 1
        self.next = 1
        self.watchers = 0
        self.complete_from = microseconds_of(wall_clock())
        self._table = table
        self._size = size
        self._names = names
        self._names_left = names
        self._rows: list[Row | None] = [None] * size
        self._texts: dict[bytes, tuple[str, str]] = {}
        self._waiting: list[Callable[[], object]] = []
        table.record(self)

    def close(self) -> None:
        """Stop recording; what the ring holds can still be read."""
        self._table.record(None)

    def read(self, after: int, limit: int) -> tuple[list[Row], Lost | None]:
        """Return the events that follow one, oldest first.

        :param after: number of the last event that was read; 0 for all.
        :param limit: number of events at most.
        :return: the events, and those before them that the ring no longer has.
        """
        lost = None
        if after + 1 < self.first:
            lost = Lost(after + 1, self.first - 1)
            after = self.first - 1
        start, stop = after + 1, min(after + 1 + limit, self.next)
        if start >= stop:
            return [], lost
        low, high = start % self._size, stop % self._size
        rows = self._rows
        found = rows[low:high] if low < high else rows[low:] + rows[:high]
        return [row for row in found if row is not None], lost

    def open_rows(self, wall: float, now: float) -> list[Row]:
        """Return the row of the registration of every entry in the table, as `first_row` does."""
        return [self.first_row(entry, wall, now) for entry in self._table]

    def wake(self, callback: Callable[[], object]) -> None:
        """Call back once, at the next event.

        The callback is called in the path of a command: it schedules the reading.
        """
        self._waiting.append(callback)

    def cancel_wake(self, callback: Callable[[], object]) -> None:
        """Cancel a call of `wake`, if it is pending."""
        if callback in self._waiting:
            self._waiting.remove(callback)

    def act(
        self,
        event: str,
        time: float,
        uid: int | None,
        pid: int | None,
        reason: str | None = None,
        serial: int | None = None,
    ) -> None:
        """Add an administrator's action: ``kill`` or ``drain``.

        :param time: seconds since the epoch.
        :param reason: the request, such as the text of a filter.
        """
        moment = microseconds_of(time)
        self._add(
            (
                self.next,
                event,
                serial,
                moment,
                None,
                None,
                None,
                None,
                None,
                reason,
                0.0,
                uid,
                pid,
            )
        )

    def record_of(self, row: Row) -> Record:
        """Return the record of an event."""
        return record_of(row, self.origin)

    def first_row(self, entry: NATEntry, wall: float, now: float) -> Row:
        """Return the row of an entry's registration, whether or not the ring still holds it.

        Of an entry that was registered before the ring existed, it has the number 0.

        :param wall: seconds since the epoch, now.
        :param now: seconds of the table's clock, now.
        """
        if entry.recorded is None:
            started = microseconds_of(wall - (now - entry.registered_at))
            verb, name = self.verb_and_name(entry.command)
            route = (*entry.client_address, *entry.key.local, *entry.key.upstream, verb, name)
            self._count(name)
            duration = entry.registered_at - entry.started_at
            entry.recorded = (
                0,
                "registered",
                entry.serial,
                started,
                started,
                route,
                None,
                0,
                None,
                None,
                duration,
                None,
                None,
            )
        return entry.recorded

    def verb_and_name(self, command: Command) -> tuple[str, str]:
        """Return verb and file name of a command as records have them."""
        found = self._texts.get(command.line)
        if found is None:
            found = verb_and_name(command)
            if len(command.line) <= LONG_NAME:
                if len(self._texts) >= CACHED:
                    self._texts.clear()
                self._texts[command.line] = found
        return found

    # What the table calls, in the path of a command.

    def registered(self, entry: NATEntry, wall: float) -> None:
        """Add the registration of an entry."""
        command = entry.command
        (nat, nat_port), (upstream, upstream_port) = entry.key
        client, client_port = entry.client_address
        verb, name = self._texts.get(command.line) or self.verb_and_name(command)
        started = int(wall * 1e6 + 0.5)
        entry.recorded = row = (
            self.next,
            "registered",
            entry.serial,
            started,
            started,
            (client, client_port, nat, nat_port, upstream, upstream_port, verb, name),
            None,
            0,
            None,
            None,
            entry.registered_at - entry.started_at,
            None,
            None,
        )
        if len(name) > LONG_NAME:
            self._names_left -= len(name)
        self._add(row)

    def relaying(self, entry: NATEntry, wall: float, now: float) -> None:
        """Add that the header of an entry's reply has been received."""
        first = entry.recorded or self.first_row(entry, wall, now)
        self._add(
            (
                self.next,
                "relaying",
                entry.serial,
                int(wall * 1e6 + 0.5),
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

    def removed(self, entry: NATEntry, reason: str | None, wall: float, now: float) -> None:
        """Add that an entry has been removed."""
        first = entry.recorded or self.first_row(entry, wall, now)
        outcome = entry.outcome
        self._add(
            (
                self.next,
                "removed",
                entry.serial,
                int(wall * 1e6 + 0.5),
                first[STARTED],
                first[ROUTE],
                entry.promised,
                entry.relayed,
                None if outcome is None else outcome._value_,
                reason,
                now - entry.started_at,
                None,
                None,
            )
        )

    def failed(self, event: Failed) -> None:
        """Add a command that never had an upstream connection."""
        duration = event.monotonic - event.started_at
        verb, name = self.verb_and_name(event.command)
        self._count(name)
        client, client_port = event.client
        self._add(
            (
                self.next,
                "failed",
                event.serial,
                microseconds_of(event.time),
                microseconds_of(event.time - duration),
                (client, client_port, None, None, None, None, verb, name),
                None,
                event.sent,
                event.outcome.value,
                event.reason,
                duration,
                None,
                None,
            )
        )

    def _count(self, name: str) -> None:
        if len(name) > LONG_NAME:
            self._names_left -= len(name)

    def _add(self, row: Row) -> None:
        seq = row[SEQ]
        rows, place = self._rows, seq % self._size
        old = rows[place]
        if self._names_left < self._names:
            # Some names are long.
            self._evict()
        elif old is not None:
            # The wall clock may have been set back: the times need not increase.
            if old[TIME] >= self.complete_from:
                self.complete_from = old[TIME] + 1
            self.first += 1
        rows[place] = row
        self.next = seq + 1
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for callback in waiting:
                callback()

    def _evict(self) -> None:
        """Remove the oldest events until one more fits, and the names do."""
        while self.first < self.next and (
            self.next - self.first >= self._size or self._names_left < 0
        ):
            place = self.first % self._size
            row, self._rows[place] = self._rows[place], None
            self.first += 1
            if row is not None:
                # The wall clock may have been set back: the times need not increase.
                if row[TIME] >= self.complete_from:
                    self.complete_from = row[TIME] + 1
                # With the last event of a translation, its name is gone.
                route = row[ROUTE]
                if route is not None and row[EVENT] in ENDS:
                    length = len(route[-1])
                    if length > LONG_NAME:
                        self._names_left += length
