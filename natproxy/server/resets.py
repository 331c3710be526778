"""Clients whose connection was reset while nothing is read from it or written to it.

The reactor does not report a reset of a connection after a half-close, or while reading from it
is paused: what runs for the client would run to its end.
"""

from __future__ import annotations

import select
import socket
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.protocols.policies import ProtocolWrapper

from natproxy.nat import Outcome

POLL_INTERVAL = 1.0
"""Seconds between two checks of a connection."""

CHECKS = 256
"""Connections that are checked in one turn of the reactor: a check takes about 3 µs."""


class Connection(Protocol):
    """A client's connection."""

    @property
    def transport(self) -> object:
        """Its transport."""
        ...

    def abort(self, outcome: Outcome) -> None:
        """Reset the connection."""
        ...


class ResetWatch:
    """Aborts connections that were reset, while they are watched.

    :param clock: schedules the checks.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._watched: dict[Connection, None] = {}
        # Those that are still to be checked in this round.
        self._round: list[Connection] = []
        self._next: IDelayedCall | None = None

    def watch(self, connection: Connection) -> None:
        """Check a connection every `POLL_INTERVAL` from now on.

        Its `abort` must call `unwatch`.
        """
        self._watched[connection] = None
        if self._next is None:
            self._next = self._clock.callLater(POLL_INTERVAL, self._check)

    def unwatch(self, connection: Connection) -> None:
        """Check a connection no longer, if it was watched."""
        self._watched.pop(connection, None)
        if not self._watched and self._next is not None:
            self._next.cancel()
            self._next = None
            self._round = []

    def _check(self) -> None:
        self._next = None
        waiting = self._round or list(self._watched)
        checked, self._round = waiting[:CHECKS], waiting[CHECKS:]
        try:
            for connection in checked:
                if connection in self._watched and is_reset(connection.transport):
                    connection.abort(Outcome.CLIENT_GONE)
        finally:
            if self._watched and self._next is None:
                seconds = 0.0 if self._round else POLL_INTERVAL
                self._next = self._clock.callLater(seconds, self._check)


def is_reset(transport: object) -> bool:
    """Return whether a connection is dead in both directions."""
    # The handle of a TLS transport is no socket: the TCP connection below it has one.
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    handle = getattr(transport, "getHandle", lambda: None)()
    if not isinstance(handle, socket.socket) or handle.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(handle, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
