"""Clients whose connection was reset while nothing is read from it or written to it.

The reactor does not report a reset of a connection after a half-close, or while reading from it
is paused.
"""

from __future__ import annotations

import select
import socket
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.protocols.policies import ProtocolWrapper

from natproxy.nat import Outcome

POLL_INTERVAL = 2.0
"""Seconds between two checks of a client that waits for a thread."""


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
        self._next: IDelayedCall | None = None

    def watch(self, connection: Connection) -> None:
        """Check a connection every `POLL_INTERVAL` from now on."""
        self._watched[connection] = None
        if self._next is None:
            self._next = self._clock.callLater(POLL_INTERVAL, self._check)

    def unwatch(self, connection: Connection) -> None:
        """Check a connection no longer, if it was watched."""
        self._watched.pop(connection, None)
        if not self._watched and self._next is not None:
            self._next.cancel()
            self._next = None

    def _check(self) -> None:
        self._next = None
        for connection in list(self._watched):
            if is_reset(connection.transport):
                connection.abort(Outcome.CLIENT_GONE)
        if self._watched and self._next is None:
            self._next = self._clock.callLater(POLL_INTERVAL, self._check)


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
