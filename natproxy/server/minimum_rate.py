"""The rate at which a client must read, at least.

Only the time counts in which the client holds a reply up: its connection takes no more bytes, and
no limit of the daemon delays them. After `WINDOW` seconds of it, the client must have taken the
bytes of that time. A connection is looked at each `INTERVAL` seconds, from when its client has held
a reply up: bytes cost nothing.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from natproxy.relay import Outbound
from natproxy.server.deadlines import Deadlines

WINDOW = 30.0
"""Seconds over which the rate is measured."""

INTERVAL = 3.0
"""Seconds between two looks at a connection."""


class Connection(Protocol):
    """A client's connection, as the rate of its client is measured."""

    outbound: Outbound

    @property
    def replying(self) -> bool:
        """Whether a command is under way."""
        ...

    def reads_too_slowly(self) -> None:
        """Abort the connection."""
        ...


class MinimumRate:
    """The rate at which the clients of a daemon must read.

    :param clock: schedules the one timer of all connections.
    :ivar rate: bytes a second; 0 for no limit. It may be changed at any time.
    :ivar looks: when connections are looked at.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.rate = 0
        self.looks = Deadlines(clock, INTERVAL)

    def watch(self, connection: Connection) -> Reading:
        """Measure the rate of a client that has to read before more is written."""
        return Reading(self, connection)


class Reading:
    """How fast one client reads.

    :ivar ended: whether it is measured no longer.
    """

    __slots__ = ("_connection", "_minimum", "_seconds", "_taken", "_waited", "ended")

    def __init__(self, minimum: MinimumRate, connection: Connection) -> None:
        self._minimum = minimum
        self._connection = connection
        # Whether the client held the reply up at the last look; seconds for which it has done so.
        self._waited = True
        self._seconds = 0.0
        self._taken = connection.outbound.taken()
        self.ended = False
        minimum.looks.set(self._look)

    def stop(self) -> None:
        """Measure no longer."""
        self.ended = True
        self._minimum.looks.cancel(self._look)

    def _look(self) -> None:
        connection, rate = self._connection, self._minimum.rate
        outbound = connection.outbound
        waits = outbound.paused and not outbound.held
        if not rate or not (waits or connection.replying):
            self.ended = True
            return
        if waits and self._waited:
            # Not the time of the clock: a delay of the reactor is not the client's.
            self._seconds += INTERVAL
        self._waited = waits
        if self._seconds >= WINDOW:
            taken = outbound.taken()
            if taken - self._taken < rate * WINDOW:
                self.ended = True
                connection.reads_too_slowly()
                return
            self._taken, self._seconds = taken, 0.0
        self._minimum.looks.set(self._look)
