"""The NAT table: which client is behind which upstream connection.

The proxy is a NAPT device (RFC 2663, section 4.1.2; RFC 3022) for commands. Each command
has an upstream connection of its own, whose local address stands for the client. The table
is exact at every moment: an entry is registered when the connection is made, and removed
exactly once, however the command ends.

The table uses neither a reactor nor a socket: transports are opaque, and the clocks are
parameters. It has no locks, because all calls come from the reactor thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from twisted.logger import Logger

from natproxy.address import Address
from natproxy.nat.entry import ClientTransport, NATEntry
from natproxy.nat.events import ALL_KINDS, Event, Failed, Registered, Relaying, Removed
from natproxy.nat.recorder import Counter, Recorder
from natproxy.nat.subscribers import Subscribers
from natproxy.nat.translation import Earlier, EntryState, Outcome, TranslationKey
from natproxy.protocol import Command


class TranslationExists(Exception):
    """The key to register is in the table.

    The connection of that entry is lost, so that the system has reused its port, and the loss has
    not been reported yet.
    """


class NotInTable(Exception):
    """The entry is not in the table, or no longer."""


_NOT_RECORDED = "cannot record an event"


# Nearly every port and every client has one entry. Several are a tuple.
Held = NATEntry | tuple[NATEntry, ...]


class NATTable:
    """All translations that exist now.

    :param clock: returns monotonic seconds, as ``IReactorTime.seconds`` does.
    :param wall_clock: returns seconds since the epoch.
    :ivar waiting: by the number of the command, those between two attempts: the last entry of each,
        and what ends the command.
    """

    _log = Logger()

    def __init__(
        self, clock: Callable[[], float], wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._serial = 0
        self._length = 0
        # By the proxy's port: all entries are in it.
        self._by_port: dict[int, Held] = {}
        self._by_client: dict[ClientTransport, Held] = {}
        # Whether a port has ever had two entries: else they are in the order of their serials.
        self._shared = False
        self.waiting: dict[int, tuple[NATEntry, Callable[[Outcome, str], object]]] = {}
        self._subscribers: Subscribers[Event] = Subscribers(ALL_KINDS)
        self._recorder: Recorder | None = None
        self._counters: tuple[Counter, ...] = ()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[NATEntry]:
        """Return the entries as they are now, oldest first."""
        if not self._shared:
            # No entry is a tuple then.
            return iter(list(self._by_port.values()))  # type: ignore[arg-type]
        entries = [entry for held in self._by_port.values() for entry in _entries_of(held)]
        entries.sort(key=attrgetter("serial"))
        return iter(entries)

    def subscribe(
        self, callback: Callable[[Event], object], kinds: tuple[type[Event], ...] = ALL_KINDS
    ) -> Callable[[], None]:
        """Call back with each later event of these kinds; see `natproxy.nat.events`.

        What the callback raises is logged, and stops neither the command nor other
        subscribers. An event of which there is no subscriber is not created.

        :return: ends the subscription, at any time; further calls of it have no effect.
        """
        return self._subscribers.add(callback, kinds)

    def record(self, recorder: Recorder | None) -> None:
        """Set the recorder of all later events, or end the recording.

        What it raises is logged, as with subscribers.
        """
        self._recorder = recorder

    def count(self, counter: Counter) -> Callable[[], None]:
        """Call back with each entry that is removed, before the subscribers.

        It costs less than a subscription, since no event is created. What the callback raises is
        logged.

        :return: ends it; further calls of it have no effect.
        """
        self._counters += (counter,)

        def end() -> None:
            self._counters = tuple(other for other in self._counters if other is not counter)

        return end

    def register(
        self,
        key: TranslationKey,
        client: ClientTransport,
        client_address: Address,
        command: Command,
        started_at: float,
        cancel: Callable[[], object],
        identity: str | None = None,
        earlier: Earlier | None = None,
    ) -> NATEntry:
        """Enter a translation.

        :param command: of the client; the entry and the events contain it without secrets.
        :param started_at: when it began, in seconds of the table's clock.
        :param cancel: called by `cancel` and `cancel_client`, to end the relay and reset the
            connections.
        :param identity: the client's authenticated name; ``None`` if it has none.
        :param earlier: the earlier attempts of the command.
        :raises TranslationExists: if the key is in the table.
        """
        port = key.local.port
        held = self._by_port.get(port)
        if held is not None:
            if any(entry.key == key for entry in _entries_of(held)):
                raise TranslationExists(f"{key.local} to {key.upstream} is in the table already")
            self._shared = True
        self._serial += 1
        entry = NATEntry(
            self._serial,
            key,
            client,
            client_address,
            command.shown,
            started_at,
            self._clock(),
            cancel,
            identity,
            earlier,
        )
        self._length += 1
        self._by_port[port] = entry if held is None else (*_entries_of(held), entry)
        others = self._by_client.setdefault(client, entry)
        if others is not entry:
            self._by_client[client] = (*_entries_of(others), entry)
        recorder, subscribed = self._recorder, self._subscribers.by_kind[Registered]
        if recorder is not None or subscribed:
            wall = self._wall_clock()
            if recorder is not None:
                try:
                    recorder.registered(entry, wall)
                except Exception:
                    self._log.failure(_NOT_RECORDED)
            if subscribed:
                self._subscribers.publish(
                    Registered(
                        entry.serial,
                        wall,
                        entry.registered_at,
                        started_at,
                        client_address,
                        entry.command,
                        key,
                        identity,
                        earlier,
                    )
                )
        return entry

    def relaying(self, entry: NATEntry, promised: int | None) -> None:
        """Note that the header of the entry's reply has been received.

        :param promised: bytes of the body; ``None`` for a listing.
        :raises NotInTable: if the entry has been removed.
        """
        if entry.state is EntryState.GONE:
            raise NotInTable(f"{entry.key.local} to {entry.key.upstream} is not in the table")
        entry.state = EntryState.RELAYING
        entry.promised = promised
        entry.relaying_at = now = self._clock()
        recorder, subscribed = self._recorder, self._subscribers.by_kind[Relaying]
        if recorder is not None or subscribed:
            wall = self._wall_clock()
            if recorder is not None:
                try:
                    recorder.relaying(entry, wall, now)
                except Exception:
                    self._log.failure(_NOT_RECORDED)
            if subscribed:
                self._subscribers.publish(
                    Relaying(
                        entry.serial,
                        wall,
                        now,
                        entry.started_at,
                        entry.client_address,
                        entry.command,
                        entry.key,
                        promised,
                        entry.identity,
                        entry.earlier,
                    )
                )

    def remove(self, entry: NATEntry, outcome: Outcome, reason: str | None = None) -> None:
        """Remove an entry whose command has ended.

        :param reason: of an error; see `natproxy.nat.events.Removed`.
        :raises NotInTable: if it has been removed before.
        """
        self._delete(entry, outcome, reason)
        if self._recorder is not None or self._counters or self._subscribers.by_kind[Removed]:
            self._publish_removed(entry)

    def cancel(self, entry: NATEntry, outcome: Outcome, reason: str | None = None) -> None:
        """Remove an entry whose command has not ended; end its relay and both connections.

        :param reason: see `natproxy.nat.events.Removed`.
        :raises NotInTable: if it has been removed before.
        """
        cancel = entry.cancel
        self._delete(entry, outcome, reason)
        try:
            cancel()
        except Exception:
            self._log.failure("cannot cancel a relay")
        if self._recorder is not None or self._counters or self._subscribers.by_kind[Removed]:
            self._publish_removed(entry)

    def cancel_client(self, client: ClientTransport, outcome: Outcome) -> list[NATEntry]:
        """Remove all entries of a client, and end their relays.

        :return: the entries removed.
        """
        entries = list(_entries_of(self._by_client.get(client, ())))
        for entry in entries:
            # A subscriber may have removed it.
            if entry.state is not EntryState.GONE:
                self.cancel(entry, outcome)
        return entries

    def fail(
        self,
        client_address: Address,
        command: Command,
        started_at: float,
        outcome: Outcome,
        sent: int,
        reason: str | None = None,
        identity: str | None = None,
        earlier: Earlier | None = None,
    ) -> int:
        """Publish that a command, or an attempt of it, has ended without an upstream connection.

        :param started_at: when it began, in seconds of the table's clock.
        :param sent: bytes of the error that the client received.
        :param reason: see `natproxy.nat.events.Failed`.
        :param identity: the client's authenticated name; ``None`` if it has none.
        :param earlier: the earlier attempts of the command.
        :return: the serial number.
        """
        self._serial += 1
        serial = self._serial
        if self._recorder is None and not self._subscribers.by_kind[Failed]:
            return serial
        event = Failed(
            serial,
            self._wall_clock(),
            self._clock(),
            started_at,
            client_address,
            command.shown,
            sent,
            outcome,
            reason,
            identity,
            earlier,
        )
        if self._recorder is not None:
            try:
                self._recorder.failed(event)
            except Exception:
                self._log.failure(_NOT_RECORDED)
        self._subscribers.publish(event)
        return serial

    def lookup(self, port: int) -> tuple[NATEntry, ...]:
        """Return the entries with a local port of the proxy.

        :return: no entry, one, or one for each upstream to which the port is in use.
        """
        return _entries_of(self._by_port.get(port, ()))

    def is_upstream_connection(self, peer: Address, host: Callable[[], Address]) -> bool:
        """Return whether an accepted connection is the other end of an upstream connection.

        :param peer: the address of its other end.
        :param host: returns its own address. A port may be that of several connections.
        """
        held = self._by_port.get(peer.port)
        if held is None:
            return False
        key = TranslationKey(peer, host())
        return any(entry.key == key for entry in _entries_of(held))

    def _delete(self, entry: NATEntry, outcome: Outcome, reason: str | None) -> None:
        key = entry.key
        if entry.state is EntryState.GONE:
            raise NotInTable(f"{key.local} to {key.upstream} is not in the table")
        entry.state = EntryState.GONE
        entry.outcome = outcome
        entry.reason = reason
        # The callback refers to the upstream's protocol, which refers to the entry.
        entry.cancel = _cancelled
        self._length -= 1
        port, client = key.local.port, entry.client
        # An entry that is alone in an index, as nearly all are, is removed with its place.
        if self._by_port[port] is entry:
            del self._by_port[port]
        else:
            _remove(self._by_port, port, entry)
        if self._by_client[client] is entry:
            del self._by_client[client]
        else:
            _remove(self._by_client, client, entry)

    def _publish_removed(self, entry: NATEntry) -> None:
        recorder, subscribed = self._recorder, self._subscribers.by_kind[Removed]
        wall, now = self._wall_clock(), self._clock()
        if recorder is not None:
            try:
                recorder.removed(entry, wall, now)
            except Exception:
                self._log.failure(_NOT_RECORDED)
        for counter in self._counters:
            try:
                counter(entry, wall, now)
            except Exception:
                self._log.failure("cannot count a command")
        outcome = entry.outcome
        if subscribed and outcome is not None:
            self._subscribers.publish(
                Removed(
                    entry.serial,
                    wall,
                    now,
                    entry.started_at,
                    entry.client_address,
                    entry.command,
                    entry.key,
                    entry.registered_at,
                    entry.promised,
                    entry.relayed,
                    outcome,
                    entry.reason,
                    entry.relaying_at,
                    entry.identity,
                    entry.earlier,
                )
            )


def _entries_of(held: Held) -> tuple[NATEntry, ...]:
    return held if type(held) is tuple else (held,)  # type: ignore[return-value]


def _remove(index: dict[Any, Held], place: Any, entry: NATEntry) -> None:
    """Remove one of several entries of a place."""
    others = tuple(other for other in _entries_of(index[place]) if other is not entry)
    index[place] = others if len(others) > 1 else others[0]


def _cancelled() -> None:
    """Do nothing: the entry has been removed."""
