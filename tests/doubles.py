"""Stand-ins for the network, the log and a thread: all played by hand, none with a socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableDescriptor,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer


class Wire(StringTransport):
    """A transport that notes how it was ended, and can be lost like a real one."""

    def __init__(self, host_port: int, peer_port: int) -> None:
        super().__init__(
            hostAddress=IPv4Address("TCP", "127.0.0.1", host_port),
            peerAddress=IPv4Address("TCP", "127.0.0.1", peer_port),
            lenient=True,
        )
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    @property
    def open(self) -> bool:
        """Whether our side has neither closed nor aborted it."""
        return not (self.disconnecting or self.aborted)

    @property
    def read_from(self) -> bool:
        """Whether our side takes what the peer sends."""
        return self.producerState == "producing"

    def taken(self) -> bytes:
        """Give what has been written since the last call."""
        data = self.value()
        self.clear()
        return data

    def fill(self) -> None:
        """Let the peer read no more: the buffer is over its limit."""
        self.producer.pauseProducing()

    def empty(self) -> None:
        """Let the peer read on: the buffer has become empty."""
        self.producer.resumeProducing()

    def lose(self, protocol: IProtocol, error: BaseException | None = None) -> None:
        """End the connection, as the reactor does it."""
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        protocol.connectionLost(Failure(error or ConnectionDone()))


@implementer(IHalfCloseableDescriptor)
class HalfClosingWire(Wire):
    """A transport whose writing side can be closed on its own, as TCP's can."""

    half_closed = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True


class Upstream:
    """One connection that the proxy has asked for, as seen from the file server."""

    def __init__(self, factory: IProtocolFactory, local_port: int) -> None:
        self.factory = factory
        self.cancelled = False
        self.connected: Deferred[IProtocol] = Deferred(lambda _: setattr(self, "cancelled", True))
        self.wire = Wire(local_port, 9001)
        self.protocol: IProtocol | None = None

    def accept(self) -> None:
        """Accept the connection."""
        self.protocol = self.factory.buildProtocol(self.wire.getPeer())
        self.protocol.makeConnection(self.wire)
        self.connected.callback(self.protocol)

    def refuse(self, error: Exception) -> None:
        """Let the connect fail."""
        self.connected.errback(error)

    def send(self, data: bytes) -> None:
        """Send bytes to the proxy."""
        self.protocol.dataReceived(data)

    def die(self, error: BaseException | None = None) -> None:
        """Close the connection, or lose it for a reason."""
        self.wire.lose(self.protocol, error)


@implementer(IStreamClientEndpoint)
class PlayedEndpoint:
    """An upstream endpoint whose every connection a test plays by hand."""

    def __init__(self) -> None:
        self.connections: list[Upstream] = []

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        upstream = Upstream(factory, 50_000 + len(self.connections))
        self.connections.append(upstream)
        return upstream.connected

    @property
    def last(self) -> Upstream:
        """The newest connection."""
        return self.connections[-1]


class PlayedThread:
    """A thread that does what it was asked when the test says so, and not before."""

    def __init__(self) -> None:
        self.asked: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.calls = 0

    def __call__(self, function: Callable[[], Any]) -> Deferred[Any]:
        called: Deferred[Any] = Deferred()
        self.asked.append((function, called))
        self.calls += 1
        return called

    def run(self) -> None:
        """Do the oldest thing that was asked."""
        function, called = self.asked.pop(0)
        try:
            result = function()
        except Exception:
            called.errback()
        else:
            called.callback(result)


class Journal:
    """What is logged while a test case runs."""

    def __init__(self, case: SynchronousTestCase) -> None:
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        case.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    @property
    def outcomes(self) -> list[LogEvent]:
        """The events that say how a command ended."""
        return [event for event in self.events if "outcome" in event]

    @property
    def ends(self) -> list[str]:
        """How the commands ended, in a word each."""
        return [event["outcome"] for event in self.outcomes]

    def lines(self) -> list[str]:
        """Everything as a reader of the log sees it."""
        return [formatEvent(event) for event in self.events]

    def line_with(self, words: str) -> str:
        """Give the one line that holds these words."""
        (line,) = [line for line in self.lines() if words in line]
        return line
