"""The last events of a NAT table, numbered, for readers that come back for what is new.

Watchers and the journal are cursors: each remembers the number of the last event that it has
read. A reader that is too slow loses events and learns which; nothing else depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from natproxy.nat.events import Event, Failed, Registered, Relaying, Removed
from natproxy.nat.table import NATTable
from natproxy.nat.translation import EntryState
from natproxy.protocol import Command, encode_name, name_of, printable
from natproxy.records.record import Origin, Record

EVENTS = 65_536
"""Events that a ring holds."""

NAMES = 32 << 20
"""Characters of file names that a ring holds; with longer names it holds fewer events."""

Route = tuple[str, int, "str | None", "int | None", "str | None", "int | None", str, str]
"""Client, its port, the proxy's host and port, the upstream's host and port, verb, name."""

# Plain tuples of plain values: the garbage collector stops tracking them, so that 65,536 of them
# do not prolong its pauses.
Row = tuple[
    int,  # 0 seq
    str,  # 1 event
    "int | None",  # 2 serial
    int,  # 3 time, in microseconds since the epoch
    "int | None",  # 4 started, likewise
    "Route | None",  # 5 route; None for an administrator's action
    "int | None",  # 6 promised
    "int | None",  # 7 bytes
    "str | None",  # 8 outcome
    "str | None",  # 9 reason
    float,  # 10 duration in seconds since the start of the command
    "int | None",  # 11 uid
    "int | None",  # 12 pid
]


class Lost(NamedTuple):
    """Events that a reader has missed.

    :ivar first: number of the first one.
    :ivar last: number of the last one.
    """

    first: int
    last: int


class EventRing:
    """The last events of a NAT table.

    :param table: is subscribed to.
    :param origin: for the records of the events.
    :param size: events to hold.
    :param names: characters of names to hold.
    :ivar first: number of the oldest event held; equals `next` if none is held.
    :ivar next: number of the next event; the first event has 1.
    """

    def __init__(
        self, table: NATTable, origin: Origin, size: int = EVENTS, names: int = NAMES
    ) -> None:
        self.origin = origin
        self.first = 1
        self.next = 1
        self._size = size
        self._names_left = names
        self._rows: list[Row | None] = [None] * size
        # What the rows of a translation share, until it is removed: route, and time of its start.
        self._open: dict[int, tuple[Route, int]] = {}
        self._waiting: list[Callable[[], object]] = []
        ends = (
            table.subscribe(self._registered, (Registered,)),
            table.subscribe(self._relaying, (Relaying,)),
            table.subscribe(self._removed, (Removed,)),
            table.subscribe(self._failed, (Failed,)),
        )
        self._ends = ends

    def close(self) -> None:
        """End the subscriptions; what the ring holds can still be read."""
        for end in self._ends:
            end()

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

    def open_translations(self) -> list[tuple[int, Route, int]]:
        """Return serial, route and time of the start of every translation that is in the table."""
        return [(serial, route, started) for serial, (route, started) in self._open.items()]

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
        :param reason: what was asked, such as the text of a filter.
        """
        self._add(
            (
                self.next,
                event,
                serial,
                _microseconds(time),
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
        seq, event, serial, time, started, route, promised, sent, outcome, reason, duration = row[
            :11
        ]
        uid, pid = row[11:]
        ended = time if event in ("removed", "failed") else None
        acted = route is None
        client, client_port, nat, nat_port, upstream, upstream_port, verb, name = (
            (None,) * 8 if route is None else route
        )
        return Record(
            event,
            time,
            *self.origin,
            seq,
            serial,
            None if acted else serial,
            None if acted else 1,
            started,
            ended,
            client,
            client_port,
            None,
            nat,
            nat_port,
            upstream,
            upstream_port,
            verb,
            name,
            promised,
            sent,
            None if acted else _STATES[event],
            outcome,
            reason,
            None if acted else duration,
            uid,
            pid,
        )

    def _registered(self, event: Event) -> None:
        assert type(event) is Registered
        serial, time, monotonic, started_at, client, command, key = event
        local, upstream = key
        started = _microseconds(time)
        route = (*client, *local, *upstream, *shown(command))
        self._open[serial] = route, started
        self._names_left -= len(route[7])
        self._add(
            (
                self.next,
                "registered",
                serial,
                started,
                started,
                route,
                None,
                0,
                None,
                None,
                monotonic - started_at,
                None,
                None,
            )
        )

    def _relaying(self, event: Event) -> None:
        assert type(event) is Relaying
        serial = event.serial
        opened = self._open.get(serial)
        if opened is None:
            # It was registered before the ring existed.
            return
        route, started = opened
        self._add(
            (
                self.next,
                "relaying",
                serial,
                _microseconds(event.time),
                started,
                route,
                event.promised,
                0,
                None,
                None,
                event.monotonic - event.started_at,
                None,
                None,
            )
        )

    def _removed(self, event: Event) -> None:
        assert type(event) is Removed
        opened = self._open.pop(event.serial, None)
        if opened is None:
            return
        route, started = opened
        self._add(
            (
                self.next,
                "removed",
                event.serial,
                _microseconds(event.time),
                started,
                route,
                event.promised,
                event.sent,
                event.outcome.value,
                event.reason,
                event.monotonic - event.started_at,
                None,
                None,
            )
        )

    def _failed(self, event: Event) -> None:
        assert type(event) is Failed
        duration = event.monotonic - event.started_at
        route = (*event.client, None, None, None, None, *shown(event.command))
        self._names_left -= len(route[7])
        self._add(
            (
                self.next,
                "failed",
                event.serial,
                _microseconds(event.time),
                _microseconds(event.time - duration),
                route,
                None,
                event.sent,
                event.outcome.value,
                event.reason,
                duration,
                None,
                None,
            )
        )

    def _add(self, row: Row) -> None:
        seq = self.next
        if seq - self.first >= self._size or self._names_left < 0:
            self._evict()
        self._rows[seq % self._size] = row
        self.next = seq + 1
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for callback in waiting:
                callback()

    def _evict(self) -> None:
        """Remove the oldest events until there is room for one more, and for the names."""
        while self.first < self.next and (
            self.next - self.first >= self._size or self._names_left < 0
        ):
            place = self.first % self._size
            row, self._rows[place] = self._rows[place], None
            self.first += 1
            # The first event of a translation counts the name for all of them.
            if row is not None and row[5] is not None and row[1] in ("registered", "failed"):
                self._names_left += len(row[5][7])


_STATES = {
    "registered": EntryState.REGISTERED.value,
    "relaying": EntryState.RELAYING.value,
    "removed": "removed",
    "failed": "failed",
}


def shown(command: Command) -> tuple[str, str]:
    """Return verb and file name of a command as records have them."""
    command = command.shown
    verb = command.verb.decode() if command.known else printable(command.verb, 80)
    return verb, encode_name(name_of(command)).decode("ascii")


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
