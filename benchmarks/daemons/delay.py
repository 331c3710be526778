"""A relay with the delay of a long link, so that round trips can be counted in seconds.

Run as ``delay PORT TARGET_PORT SECONDS``: each byte leaves ``SECONDS`` after it has arrived, in
both directions. The delay of TCP's handshake is imitated as well: the server accepts a connection
three delays after the client has opened it, and what the client sends at once leaves after its
handshake would have ended. Bandwidth, loss and slow start are not imitated.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ClientFactory, Protocol, ServerFactory
from twisted.python.failure import Failure
from zope.interface import implementer

LIMIT = 4 * 1024 * 1024
"""Bytes on the way in one direction, from which no more are read: a TCP window."""


class Ending(Enum):
    """How the sender has ended its direction."""

    CLOSED = "closed"
    RESET = "reset"


class DelayLine:
    """Delivers items in order, each of them a fixed time after it was put in.

    :param clock: an ``IReactorTime``.
    :param seconds: of the delay.
    :param deliver: called with each item.
    :param opens: time before which nothing is sent; what is put in earlier is sent then.
    """

    def __init__(
        self,
        clock: Any,
        seconds: float,
        deliver: Callable[[bytes | Ending], None],
        opens: float = 0.0,
    ) -> None:
        self.size = 0
        self._clock = clock
        self._seconds = seconds
        self._deliver = deliver
        self._opens = opens
        self._items: deque[tuple[float, bytes | Ending]] = deque()

    def put(self, item: bytes | Ending) -> None:
        """Send an item."""
        due = max(self._clock.seconds(), self._opens) + self._seconds
        self._items.append((due, item))
        self.size += len(item) if isinstance(item, bytes) else 0
        if len(self._items) == 1:
            self._wait()

    def _wait(self) -> None:
        self._clock.callLater(max(0.0, self._items[0][0] - self._clock.seconds()), self._arrive)

    def _arrive(self) -> None:
        now = self._clock.seconds()
        while self._items and self._items[0][0] <= now:
            item = self._items.popleft()[1]
            self.size -= len(item) if isinstance(item, bytes) else 0
            self._deliver(item)
        if self._items:
            self._wait()


@implementer(IHalfCloseableProtocol)
class End(Protocol):
    """One of the two connections of a link; what it receives leaves by the other.

    :param clock: an ``IReactorTime``.
    :param seconds: of the delay in one direction.
    """

    def __init__(self, clock: Any, seconds: float) -> None:
        self.other: End | None = None
        self._clock = clock
        self._seconds = seconds
        self._line = DelayLine(clock, seconds, self._deliver)
        self._waiting: list[bytes | Ending] = []
        self._read_closed = self._write_closed = False
        self._blocked = False

    def connectionMade(self) -> None:
        """Send without delays that are not ours."""
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(_Brake(self), True)

    def dataReceived(self, data: bytes) -> None:
        """Put bytes on their way."""
        self._line.put(data)
        self.balance()

    def readConnectionLost(self) -> None:
        """Tell the other end that no more comes."""
        self._read_closed = True
        self._line.put(Ending.CLOSED)
        if self._write_closed:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The other direction goes on."""

    def connectionLost(self, reason: Failure) -> None:
        """Tell the other end, unless it has been told."""
        if not reason.check(ConnectionDone):
            self._line.put(Ending.RESET)
        elif not self._read_closed:
            self._line.put(Ending.CLOSED)
        if self.other is not None:
            self.other.balance()

    def join(self, other: End) -> None:
        """Send to another end what has arrived, and what will."""
        self.other = other
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            self._deliver(item)

    def _deliver(self, item: bytes | Ending) -> None:
        if self.other is None:
            self._waiting.append(item)
        else:
            self.other.send(item)
            self.balance()

    def send(self, item: bytes | Ending) -> None:
        """Write what has arrived from the other end."""
        if isinstance(item, bytes):
            self.transport.write(item)
            return
        self.transport.unregisterProducer()
        self._write_closed = True
        if item is Ending.RESET:
            self.transport.abortConnection()
        elif self._read_closed:
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def block(self, blocked: bool) -> None:
        """Note whether this connection takes no more for now."""
        self._blocked = blocked
        if self.other is not None:
            self.other.balance()

    def balance(self) -> None:
        """Read, or don't, by what is on its way and by what the other end takes."""
        full = self._line.size > LIMIT or (self.other is not None and self.other._blocked)
        if not self._read_closed and self.transport is not None and self.transport.connected:
            (self.transport.pauseProducing if full else self.transport.resumeProducing)()


class _Brake:
    """The producer of a connection: what blocks it is felt by the other end."""

    def __init__(self, end: End) -> None:
        self._end = end

    def pauseProducing(self) -> None:
        self._end.block(True)

    def resumeProducing(self) -> None:
        self._end.block(False)

    def stopProducing(self) -> None:
        self._end.block(False)


class Near(End):
    """The client's connection, which opens the one to the server.

    :param connect: opens a connection for an `End`.
    """

    def __init__(self, clock: Any, seconds: float, connect: Callable[[End], None]) -> None:
        super().__init__(clock, seconds)
        self._connect = connect

    def connectionMade(self) -> None:
        """Open the server's connection when the handshake's last packet would arrive there."""
        super().connectionMade()
        opened = self._clock.seconds() + 2 * self._seconds
        self._line = DelayLine(self._clock, self._seconds, self._deliver, opened)
        self._clock.callLater(3 * self._seconds, self._connect, Far(self))


class Far(End):
    """The connection to the server.

    :param near: the client's.
    """

    def __init__(self, near: Near) -> None:
        super().__init__(near._clock, near._seconds)
        self._near = near

    def connectionMade(self) -> None:
        """Join the two."""
        super().connectionMade()
        self.join(self._near)
        self._near.join(self)


class FarFactory(ClientFactory):
    """Makes the one connection to the server.

    :param end: its protocol.
    """

    noisy = False

    def __init__(self, end: End) -> None:
        self._end = end

    def buildProtocol(self, addr: object) -> End:
        """Return the protocol."""
        return self._end

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        """Reset the client's connection."""
        assert isinstance(self._end, Far)
        self._end._near.transport.abortConnection()


class NearFactory(ServerFactory):
    """Makes a link for each client.

    :param clock: the reactor.
    :param target: port of the server.
    :param seconds: of the delay in one direction.
    """

    noisy = False

    def __init__(self, clock: Any, target: int, seconds: float) -> None:
        self._clock = clock
        self._target = target
        self._seconds = seconds

    def buildProtocol(self, addr: object) -> Near:
        """Return the protocol of a client's connection."""
        return Near(self._clock, self._seconds, self._connect)

    def _connect(self, end: End) -> None:
        self._clock.connectTCP("127.0.0.1", self._target, FarFactory(end))


def main(port: int, target: int, seconds: float) -> None:
    """Relay for ever."""
    from twisted.internet import reactor

    factory = NearFactory(reactor, target, seconds)
    reactor.listenTCP(port, factory, backlog=4096, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
