"""The rate at which a client must read, and an upstream send, at least.

Only the time of the one that is measured counts. A client is measured while it holds a reply up:
its connection takes no more bytes, and no limit of the daemon delays them. An upstream is measured
while nothing holds its reply up. After `WINDOW` seconds of that time, the bytes of so many seconds
must have been moved. A connection is looked at each `INTERVAL` seconds: bytes cost nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from natproxy.relay import Outbound
from natproxy.server.deadlines import Deadlines

WINDOW = 30.0
"""Seconds over which the rate is measured."""

INTERVAL = 3.0
"""Seconds between two looks at a connection."""


class MinimumRate:
    """The rate at which the clients of a daemon must read, and its upstreams send.

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


class Measurement(ABC):
    """How fast one end of a connection moves the bytes of replies.

    :param minimum: what it must be.
    :param window: seconds over which it is measured.
    :param moved: bytes that have been moved before.
    :param waits: as of `waits`, now.
    :ivar ended: whether it is measured no longer.
    """

    __slots__ = ("_minimum", "_moved", "_seconds", "_waited", "_window", "ended")

    def __init__(self, minimum: MinimumRate, window: float, moved: int, waits: bool) -> None:
        self._minimum = minimum
        self._window = window
        self._moved = moved
        # Whether the daemon waited for it at the last look; seconds for which it has done so.
        self._waited = waits
        self._seconds = 0.0
        self.ended = False
        minimum.looks.set(self._look)

    @abstractmethod
    def waits(self) -> bool:
        """Return whether the daemon waits for this end, and for nothing else."""

    @abstractmethod
    def over(self) -> bool:
        """Return whether there is nothing to be measured any more."""

    @abstractmethod
    def moved(self) -> int:
        """Return how many bytes have been moved so far."""

    @abstractmethod
    def too_slow(self) -> None:
        """Abort the connection."""

    def stop(self) -> None:
        """Measure no longer."""
        self.ended = True
        self._minimum.looks.cancel(self._look)

    def _look(self) -> None:
        rate = self._minimum.rate
        waits = self.waits()
        if not rate or (not waits and self.over()):
            self.ended = True
            return
        if waits and self._waited:
            # Not the time of the clock: a delay of the reactor is not the peer's.
            self._seconds += INTERVAL
        self._waited = waits
        if self._seconds >= self._window:
            moved = self.moved()
            if moved - self._moved < rate * self._window:
                self.ended = True
                self.too_slow()
                return
            self._moved, self._seconds = moved, 0.0
        self._minimum.looks.set(self._look)


class Connection(Protocol):
    """A client's connection, as the rate of its client is measured.

    :ivar suspended: whether the client's clocks stand still.
    """

    outbound: Outbound
    suspended: bool

    @property
    def replying(self) -> bool:
        """Whether a command is under way."""
        ...

    def reads_too_slowly(self) -> None:
        """Abort the connection."""
        ...


class Reading(Measurement):
    """How fast one client reads, from a moment on in which it holds a reply up."""

    __slots__ = ("_connection",)

    def __init__(self, minimum: MinimumRate, connection: Connection) -> None:
        self._connection = connection
        super().__init__(minimum, WINDOW, connection.outbound.taken(), True)

    def waits(self) -> bool:
        """Return whether the client holds a reply up, and no limit does."""
        outbound = self._connection.outbound
        return outbound.paused and not (outbound.held or self._connection.suspended)

    def over(self) -> bool:
        """Return whether no command is under way."""
        return not self._connection.replying

    def moved(self) -> int:
        """Return how many bytes the client has taken."""
        return self._connection.outbound.taken()

    def too_slow(self) -> None:
        """Abort the client's connection."""
        self._connection.reads_too_slowly()


class Upstream(Protocol):
    """An upstream connection, as its rate is measured."""

    @property
    def relayed(self) -> int:
        """Bytes of the reply that have been passed on."""
        ...

    def sends_too_slowly(self) -> None:
        """Abort the reply."""
        ...


class Sending(Measurement):
    """How fast an upstream sends a body, until `stop`.

    :param outbound: of the client.
    :param silence: seconds for which it may send nothing; the rate is measured over no less.
    """

    __slots__ = ("_outbound", "_upstream")

    def __init__(
        self, minimum: MinimumRate, outbound: Outbound, upstream: Upstream, silence: float
    ) -> None:
        self._outbound = outbound
        self._upstream = upstream
        super().__init__(minimum, max(WINDOW, silence), upstream.relayed, self.waits())

    def waits(self) -> bool:
        """Return whether neither the client nor a limit holds the reply up."""
        return not (self._outbound.paused or self._outbound.held)

    def over(self) -> bool:
        """Return false: the body ends with `stop`."""
        return False

    def moved(self) -> int:
        """Return how many bytes have been passed on."""
        return self._upstream.relayed

    def too_slow(self) -> None:
        """Abort the reply."""
        self._upstream.sends_too_slowly()
