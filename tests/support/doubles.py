"""Doubles of transports, endpoints, clocks, threads and the log; a test controls each."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from socket import TCP_CONGESTION, socketpair
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IFileDescriptor,
    IHalfCloseableDescriptor,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ISystemHandle,
    ITCPTransport,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface, directlyProvides, implementer

HIGH_WATER = 2**16
"""Bytes that a transport holds before it pauses a streaming producer."""


class Wire(StringTransport):
    """A transport that records how it was closed, and that a test can lose."""

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
        """Whether our side reads what the peer sends."""
        return self.producerState == "producing"

    def taken(self) -> bytes:
        """Return what has been written since the last call."""
        data = self.value()
        self.clear()
        return data

    def fill(self) -> None:
        """Pause the producer, as when the peer does not read and the buffer is full."""
        self.producer.pauseProducing()

    def fill_when_written_to(self) -> None:
        """Pause the producer after each write from now on."""
        write = self.write

        def write_and_fill(data: bytes) -> None:
            write(data)
            self.fill()

        self.write = write_and_fill

    def empty(self) -> None:
        """Resume the producer, as when the buffer has become empty."""
        self.producer.resumeProducing()

    def lose(self, protocol: IProtocol, error: BaseException | None = None) -> None:
        """Lose the connection, as the reactor does."""
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        protocol.connectionLost(Failure(error or ConnectionDone()))


class BufferedWire(Wire):
    """A transport that calls its producer as Twisted's transports do; see `drain`.

    :ivar most: the largest number of bytes that it has held.
    :ivar disconnected: whether the connection has been lost.
    """

    most = 0
    disconnected = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        if self.disconnected:
            self.producer = None
            producer.stopProducing()
        elif not streaming:
            producer.resumeProducing()

    def write(self, data: bytes) -> None:
        super().write(data)
        held = len(self.value())
        self.most = max(self.most, held)
        if held > HIGH_WATER and self.producer is not None and self.streaming:
            self.producer.pauseProducing()

    def drain(self) -> bytes:
        """Return all that is held, and resume the producer."""
        data = self.taken()
        if self.producer is not None:
            self.producer.resumeProducing()
        return data


class PlayedSocket:
    """One end of a pair of sockets, with a limited buffer.

    :ivar room: bytes that it still accepts.
    :ivar broken: raised by `send`, unless it is ``None``.
    :ivar options: the options that were set, each with its value.
    :ivar congestion_control: as the kernel reports it; ``None`` if it does not.
    :ivar peer: host and port of the other end; this end has the host 127.0.0.1.
    """

    def __init__(self) -> None:
        self._own, self._peers = socketpair()
        self._own.setblocking(False)
        self._peers.setblocking(False)
        self.room = 1 << 40
        self.broken: OSError | None = None
        self.options: list[tuple[int, int | bytes]] = []
        self.congestion_control: bytes | None = None
        self.peer = ("127.0.0.1", 43_210)

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 9000)

    def getpeername(self) -> tuple[str, int]:
        return self.peer

    def send(self, data: bytes) -> int:
        if self.broken is not None:
            raise self.broken
        if not self.room:
            raise BlockingIOError
        sent = self._own.send(data[: self.room])
        self.room -= sent
        return sent

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self.options.append((option, value))

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:
        if option == TCP_CONGESTION and self.congestion_control is not None:
            return self.congestion_control.ljust(size, b"\0")
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    def fileno(self) -> int:
        return self._own.fileno()

    def taken(self) -> bytes:
        """Return what has been sent since the last call."""
        data = b""
        with suppress(BlockingIOError):
            while piece := self._peers.recv(HIGH_WATER):
                data += piece
        return data

    def close(self) -> None:
        self._own.close()
        self._peers.close()


class SocketWire(BufferedWire):
    """A transport with a socket.

    :param provided: interfaces that it provides; by default, those of a TCP transport.
    """

    no_delay = False

    def __init__(self, host_port: int, peer_port: int, *provided: Interface) -> None:
        super().__init__(host_port, peer_port)
        tcp = (ITCPTransport, IFileDescriptor, ISystemHandle)
        directlyProvides(self, *(provided or tcp))
        self.socket = PlayedSocket()

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def getHandle(self) -> PlayedSocket:
        return self.socket

    def fileno(self) -> int:
        return self.socket.fileno()


@implementer(IHalfCloseableDescriptor)
class HalfClosingWire(Wire):
    """A transport that supports half-close, as TCP's does."""

    half_closed = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True


class Upstream:
    """A connection that the proxy has requested, as the file server sees it."""

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
        """Make the attempt to connect fail."""
        self.connected.errback(error)

    def send(self, data: bytes) -> None:
        """Send bytes to the proxy."""
        self.protocol.dataReceived(data)

    def die(self, error: BaseException | None = None) -> None:
        """Lose the connection: closed by the file server, or with an error."""
        self.wire.lose(self.protocol, error)


@implementer(IStreamClientEndpoint)
class PlayedEndpoint:
    """An upstream endpoint; the test controls each of its connections.

    :param port: the proxy's port of the first one; the next ones follow.
    """

    def __init__(self, port: int = 50_000) -> None:
        self.connections: list[Upstream] = []
        self._port = port

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        upstream = Upstream(factory, self._port + len(self.connections))
        self.connections.append(upstream)
        return upstream.connected

    @property
    def last(self) -> Upstream:
        """The newest connection."""
        return self.connections[-1]


class TurnClock(Clock):
    """A clock that can run one turn of a reactor at a time."""

    def turn(self) -> None:
        """Run what is due by now, but not what that schedules, as a reactor does."""
        for call in [call for call in self.getDelayedCalls() if call.getTime() <= self.seconds()]:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


class PlayedThread:
    """A thread that runs one function at each call of `run`.

    :ivar asked: the functions to run, each with the Deferred of its result.
    :ivar calls: number of functions so far.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.calls = 0

    def __call__(self, function: Callable[[], Any]) -> Deferred[Any]:
        called: Deferred[Any] = Deferred()
        self.asked.append((function, called))
        self.calls += 1
        return called

    def run(self) -> None:
        """Run the oldest function."""
        function, called = self.asked.pop(0)
        try:
            result = function()
        except Exception:
            called.errback()
        else:
            called.callback(result)


class PlayedPageCache:
    """A page cache that contains the ranges that `loaded` has added.

    :ivar cold: false if it contains every range.
    :ivar forgetful: whether it contains no range, also after `loaded`.
    :ivar checked: the ranges that were looked up: file, offset and size of each.
    :ivar loading: the ranges that are being loaded, likewise.
    """

    def __init__(self, cold: bool = True, forgetful: bool = False) -> None:
        self.cold = cold
        self.forgetful = forgetful
        self.checked: list[tuple[int, int, int]] = []
        self.loading: list[tuple[int, int, int]] = []
        self._cached: list[tuple[int, int, int]] = []
        self._waiting: list[tuple[Deferred[None], Callable[[], object]]] = []

    def resident(self, file: int, offset: int, size: int) -> bool:
        self.checked.append((file, offset, size))
        return not self.cold or (file, offset, size) in self._cached

    def known(self, file: int, device: int) -> bool:
        return True

    def read(
        self, read: Callable[[], Any], device: int, returned: Callable[[], object]
    ) -> Deferred[Any]:
        raise AssertionError("every file is known")

    def load(
        self, file: int, offset: int, size: int, device: int, returned: Callable[[], object]
    ) -> Deferred[None]:
        self.loading.append((file, offset, size))
        waiting: Deferred[None] = Deferred()
        self._waiting.append((waiting, returned))
        return waiting

    def loaded(self) -> None:
        """Complete the oldest load."""
        piece = self.loading.pop(0)
        if not self.forgetful:
            self._cached.append(piece)
        waiting, returned = self._waiting.pop(0)
        returned()
        waiting.callback(None)


class Journal:
    """What is logged while a test case runs."""

    def __init__(self, case: SynchronousTestCase) -> None:
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        case.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    @property
    def outcomes(self) -> list[LogEvent]:
        """The events about the end of a command."""
        return [event for event in self.events if "outcome" in event]

    @property
    def ends(self) -> list[str]:
        """The outcomes of the commands."""
        return [event["outcome"] for event in self.outcomes]

    def lines(self) -> list[str]:
        """The text of every event."""
        return [formatEvent(event) for event in self.events]

    def line_with(self, words: str) -> str:
        """Return the one line that contains this text."""
        (line,) = [line for line in self.lines() if words in line]
        return line
