"""Exchanges over transports: a command goes out, and a sink takes the reply.

What the blocking `natproxy.client.Connection` does with a socket is done with a transport
here, and the body goes into memory or into a consumer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from socket import socket
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IPushProducer,
    ISystemHandle,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.client.blocking.route import reset_at_close
from natproxy.client.errors import (
    CannotConnect,
    ClientError,
    ClosedWithoutReply,
    ConnectionBroken,
    Interrupted,
    NotUnderstood,
    ServerError,
    UsageError,
)
from natproxy.client.exchange import Exchange
from natproxy.client.rate import RateMonitor
from natproxy.kernel.keepalive import probe_idle
from natproxy.protocol import Header, WireError

if TYPE_CHECKING:
    from natproxy.client.twisted.pool import ConnectionPool

FAREWELL = 1.0
"""Seconds that a connection which is closed in order gets to be gone."""

T = TypeVar("T")


class Sink(ABC, Generic[T]):
    """Takes the reply of one exchange; what it raises ends it, and costs the connection.

    :ivar result: what the reply comes to, once all of it has been taken.
    """

    result: T

    @abstractmethod
    def begin(self, header: Header, connection: PooledConnection) -> None:
        """Take the header."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Take a piece of the body."""

    def finish(self) -> None:
        """Note that the body has come whole."""

    def leave(self) -> None:
        """Note that nothing more will come, whatever has; there may have been no header."""


class Memory(Sink[T]):
    """Holds a body until it has come whole.

    :param read: makes the result of the header and the body.
    :param largest: bytes that are held at most; more of them are a `UsageError`.
    :param check: looks at the header before there is a body.
    """

    def __init__(
        self,
        read: Callable[[Header, bytes], T],
        largest: int,
        check: Callable[[Header], object] | None = None,
    ) -> None:
        self._read = read
        self._largest = largest
        self._check = check
        self._held = bytearray()
        self._header: Header
        self._count: Callable[[int], object]

    def begin(self, header: Header, connection: PooledConnection) -> None:
        """Take the header, unless it promises too much."""
        self._header = header
        self._count = connection.counter()
        if self._check is not None:
            self._check(header)
        self._allow(header.size)

    def write(self, data: bytes) -> None:
        """Hold a piece."""
        self._held += data
        self._count(len(data))
        self._allow(len(self._held))

    def finish(self) -> None:
        """Make the result."""
        self.result = self._read(self._header, bytes(self._held))

    def _allow(self, size: int) -> None:
        if size > self._largest:
            raise UsageError(f"a reply of more than {self._largest} bytes is not held in memory")


@implementer(IPushProducer)
class Flow(Sink[T]):
    """Writes a body into a consumer, at the consumer's pace.

    :param read: makes the result of the header.
    """

    def __init__(self, read: Callable[[Header], T], consumer: IConsumer) -> None:
        self._read = read
        self._consumer = consumer
        self._connection: PooledConnection | None = None

    def begin(self, header: Header, connection: PooledConnection) -> None:
        """Register with the consumer."""
        self.result = self._read(header)
        self._connection = connection
        try:
            self._consumer.registerProducer(self, True)
        except BaseException:
            self._connection = None
            raise

    def write(self, data: bytes) -> None:
        """Pass a piece on."""
        self._consumer.write(data)

    def leave(self) -> None:
        """Unregister; the connection may be somebody else's from now on."""
        if self._connection is not None:
            self._connection = None
            self._consumer.unregisterProducer()

    def pauseProducing(self) -> None:
        """Let the server wait."""
        if self._connection is not None:
            self._connection.pause()

    def resumeProducing(self) -> None:
        """Go on."""
        if self._connection is not None:
            self._connection.resume()

    def stopProducing(self) -> None:
        """Give up: the consumer is gone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.fail(Interrupted("whoever took the bytes has stopped"))


class _Transport(ITCPTransport, IPushProducer, ISystemHandle):
    """What is asked of a connection's transport."""


class _Work(NamedTuple):
    exchange: Exchange
    sink: Sink[Any]
    done: Deferred[None]


class PooledConnection(Protocol):
    """One connection, on which one exchange is carried out at a time.

    :ivar heard: whether any byte of the current exchange's reply has been received.
    :ivar good: whether anything has ever been received.
    :ivar used: when the last exchange ended, in the clock's seconds.
    """

    transport: _Transport

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._work: _Work | None = None
        self.heard = False
        self.used = 0.0
        self.good = False
        self._paused = False
        self._timer: IDelayedCall | None = None
        # Of TCP, if it is the kernel's.
        self._socket: socket | None = None

    def carry_out(self, exchange: Exchange, sink: Sink[Any]) -> Deferred[None]:
        """Send a command and let a sink take the reply.

        :return: fires when that has been done; to cancel it costs the connection.
        """
        done: Deferred[None] = Deferred(lambda _: self.fail(CancelledError()))
        self._work = _Work(exchange, sink, done)
        self.heard = False
        self._watch()
        self.transport.write(exchange.line)
        return done

    def pause(self) -> None:
        """Receive nothing for a while, for which the server is not to blame."""
        self._paused = True
        self._rest()
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Receive again."""
        if self._paused:
            self._paused = False
            self._watch()
            self.transport.resumeProducing()

    def counter(self) -> Callable[[int], object]:
        """Return what counts the bytes of a body from now on, and fails if they come too slowly."""
        clock = self._pool.clock
        pace = RateMonitor(self._pool.server, self._pool.timeout)
        last = clock.seconds()

        def count(size: int) -> None:
            nonlocal last
            now = clock.seconds()
            pace.received(size, now - last)
            last = now

        return count

    def fail(self, reason: Exception) -> None:
        """End the exchange with a failure, and the connection with it."""
        if self._work is not None:
            self._end(reason)

    def close(self) -> None:
        """Close the connection: in order if it is idle."""
        if self._work is not None:
            self.fail(interrupted())
        else:
            self._rest()
            if self._socket is not None:
                reset_at_close(self._socket, False)
            # TLS waits for the peer to agree.
            self._timer = self._pool.clock.callLater(FAREWELL, self._gone_at_last)
            self.transport.loseConnection()

    def connectionMade(self) -> None:
        """Be one of the pool's."""
        enable = getattr(self.transport, "setTcpKeepAlive", None)
        if enable is not None:
            enable(True)
            # TLS is a transport over one of TCP.
            lower: ISystemHandle = getattr(self.transport, "transport", self.transport)
            handle = lower.getHandle()
            if isinstance(handle, socket):
                probe_idle(handle)
                reset_at_close(handle, True)
                self._socket = handle
        self.used = self._pool.clock.seconds()
        self._pool.opened(self)

    def dataReceived(self, data: bytes) -> None:
        """Feed the exchange."""
        work = self._work
        if work is None:
            # Nothing was asked; it would be taken for the next command's reply.
            self.transport.abortConnection()
            return
        self.heard = self.good = True
        try:
            self._feed(work, data)
        except (NotUnderstood, WireError) as reason:
            self.fail(NotUnderstood(f"{self._pool.server} is not understood: {reason}"))
        except Exception as reason:
            self.fail(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Leave the pool; what was asked is not answered any more."""
        self._rest()
        self._pool.lost(self)
        if self._work is not None:
            self.fail(self._broken(self._work.exchange, reason))

    def _feed(self, work: _Work, data: bytes) -> None:
        exchange, sink, _ = work
        headless = exchange.header is None
        body = exchange.feed(data)
        if headless and exchange.header is not None:
            sink.begin(exchange.header, self)
        # At each step the sink, or whoever it tells, may end the exchange.
        if body and self._work is work:
            sink.write(body)
        if self._work is work:
            if exchange.complete:
                sink.finish()
                self._end()
            elif exchange.header is not None:
                # The time for the header is limited as a whole; only a body's progress extends it.
                self._watch()

    def _end(self, reason: Exception | None = None) -> None:
        assert self._work is not None
        (exchange, sink, done), self._work = self._work, None
        self._rest()
        try:
            sink.leave()
        except Exception as lack:
            reason = reason or lack
        if exchange.clean and (reason is None or isinstance(reason, ServerError)):
            # While reading is paused, nobody would notice that the server closes.
            if self._paused:
                self._paused = False
                self.transport.resumeProducing()
            self.used = self._pool.clock.seconds()
            self._pool.keep(self)
        else:
            self.transport.abortConnection()
        if reason is None:
            done.callback(None)
        else:
            done.errback(reason)

    def _broken(self, exchange: Exchange, reason: Failure) -> ClientError:
        server = self._pool.server
        kind = ClosedWithoutReply if exchange.header is None else ConnectionBroken
        if reason.check(error.ConnectionDone):
            missing = f"inside the reply: {exchange.missing} missing"
            where = "without a reply" if exchange.header is None else missing
            return kind(f"{server} closed the connection {where}")
        if reason.check(error.ConnectionLost):
            return kind(f"connection to {server} lost")
        # The transport has a reason of its own: TLS does not trust the server, for one.
        if self.good:
            return kind(f"connection to {server} lost: {one_line(reason.value)}")
        return CannotConnect(f"cannot connect to {server}: {one_line(reason.value)}")

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.reset(self._pool.timeout)
        elif not self._paused:
            self._timer = self._pool.clock.callLater(self._pool.timeout, self._silent)

    def _rest(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _silent(self) -> None:
        self._timer = None
        if self._work is not None and self._work.exchange.header is None and self.heard:
            self.fail(ConnectionBroken(f"{self._pool.server} did not answer in time"))
        else:
            self.fail(silence(self._pool.server, self._pool.timeout))

    def _gone_at_last(self) -> None:
        self._timer = None
        self.transport.abortConnection()


def interrupted() -> Interrupted:
    """Give the failure of what a pool was closed on."""
    return Interrupted("the client was closed")


def silence(server: str, seconds: float) -> ConnectionBroken:
    """Give the failure of a server that did not go on."""
    return ConnectionBroken(f"{server} was silent for {seconds:g} s")


def one_line(reason: BaseException | None) -> str:
    """Give what an error says, without its full stop."""
    return " ".join(str(reason).split()).rstrip(".")
