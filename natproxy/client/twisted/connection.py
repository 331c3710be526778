"""One connection on a reactor: it sends a command and passes the reply to a receiver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from socket import socket
from typing import NamedTuple
from typing import Protocol as Interface

from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ISystemHandle,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.client.authentication import Authentication, AuthExchange
from natproxy.client.blocking.route import reset_at_close
from natproxy.client.errors import (
    CannotConnect,
    ClientError,
    ClosedWithoutReply,
    ConnectionBroken,
    Interrupted,
    NotUnderstood,
    ServerError,
    TLSError,
    cannot_connect,
    timed_out,
)
from natproxy.client.exchange import Exchange
from natproxy.client.rate import RateMonitor
from natproxy.kernel.keepalive import probe_idle
from natproxy.protocol import Header, WireError
from natproxy.tls.failure import refusal_of
from natproxy.tls.reasons import advise

CLOSE_TIMEOUT = 1.0
"""Seconds after which a connection that is being closed is reset."""


class Owner(Interface):
    """The part of a pool that its connections use.

    :ivar clock: schedules the time-outs.
    :ivar timeout: seconds for the whole header of a reply, and then for each wait inside its body.
    :ivar server: the server's name in messages.
    :ivar authentication: how the session's token is sent; ``None`` if it has none.
    """

    clock: IReactorTime
    timeout: float
    server: str
    authentication: Authentication | None

    def opened(self, connection: PooledConnection) -> None:
        """Note that a connection has been made."""

    def keep(self, connection: PooledConnection) -> None:
        """Take back a connection that is ready for the next command."""

    def lost(self, connection: PooledConnection) -> None:
        """Note that a connection has ended."""


class Receiver(ABC):
    """Takes the reply of one exchange. An exception from any of its methods fails the exchange.

    :ivar satisfied: whether no more of the reply is needed; if so, the connection is aborted.
    """

    satisfied = False

    @abstractmethod
    def begin(self, header: Header, connection: PooledConnection) -> None:
        """Take the header, before any piece of the body."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Take a piece of the body."""

    def finish(self) -> None:  # noqa: B027  # nothing to do by default
        """Note that the reply is complete, or the receiver `satisfied`."""

    def close(self) -> None:  # noqa: B027  # nothing to do by default
        """Release the connection: the exchange has ended, possibly before `begin`."""


class _Transport(ITCPTransport, IPushProducer, ISystemHandle):
    """The interfaces of a connection's transport."""


class _Work(NamedTuple):
    exchange: Exchange
    receiver: Receiver
    done: Deferred[None]


@implementer(IHandshakeListener)
class PooledConnection(Protocol):
    """One connection, which carries out one exchange at a time.

    :ivar reply_begun: whether any byte of the current exchange's reply has been received.
    :ivar has_received: whether anything has ever been received.
    :ivar introduced: whether what precedes its first command is settled; see the pool.
    :ivar used: when the last exchange ended, in the clock's seconds.
    :ivar handshake: fires with the connection when TLS has verified the server, or fails with
        `CannotConnect`; ``None`` if there is no handshake under way.
    """

    transport: _Transport

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._work: _Work | None = None
        self.reply_begun = False
        self.used = 0.0
        self.has_received = False
        self.handshake: Deferred[PooledConnection] | None = None
        self.introduced = False
        # Of which the reply precedes that of the exchange.
        self._preface: AuthExchange | None = None
        self._paused = False
        self._timer: IDelayedCall | None = None
        # The TCP socket, if the transport has one.
        self._socket: socket | None = None

    def carry_out(
        self, exchange: Exchange, receiver: Receiver, preface: AuthExchange | None = None
    ) -> Deferred[None]:
        """Send a command; its reply goes to the receiver.

        :param preface: to send before it, in the same write.
        :return: fires when the reply is complete; cancelling it aborts the connection. Fails with
            a `ClientError` of the connection, or with the exception of the receiver.
        """
        done: Deferred[None] = Deferred(lambda _: self.fail(CancelledError()))
        self._work = _Work(exchange, receiver, done)
        self._preface = preface
        self.reply_begun = False
        self._start_timer()
        self.transport.write(exchange.line if preface is None else preface.line + exchange.line)
        return done

    @property
    def peer_host(self) -> str:
        """The numeric address of the other end; empty if it has none."""
        return getattr(self.transport.getPeer(), "host", "")

    def pause(self) -> None:
        """Stop receiving; the time-out does not run until `resume`."""
        self._paused = True
        self._stop_timer()
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Receive again after `pause`."""
        if self._paused:
            self._paused = False
            self._start_timer()
            self.transport.resumeProducing()

    def counter(self) -> Callable[[int], object]:
        """Return a function to call with the size of each received piece of a body.

        It raises `ConnectionBroken` if they arrive too slowly; see `RateMonitor`.
        """
        clock = self._owner.clock
        monitor = RateMonitor(self._owner.server, self._owner.timeout)
        last = clock.seconds()

        def count(size: int) -> None:
            nonlocal last
            now = clock.seconds()
            monitor.received(size, now - last)
            last = now

        return count

    def fail(self, reason: Exception) -> None:
        """Fail the exchange, if there is one, and reset the connection."""
        if self._work is not None:
            self._end(reason)

    def close(self) -> None:
        """Close the connection: by a reset if an exchange is under way."""
        if self._work is not None:
            self.fail(interrupted())
        else:
            self._stop_timer()
            if self._socket is not None:
                reset_at_close(self._socket, False)
            # With TLS, `loseConnection` waits for the peer's closing message.
            self._timer = self._owner.clock.callLater(CLOSE_TIMEOUT, self._close_expired)
            self.transport.loseConnection()

    def connectionMade(self) -> None:
        """Register with the pool."""
        enable = getattr(self.transport, "setTcpKeepAlive", None)
        if enable is not None:
            enable(True)
            # With TLS, the transport wraps the TCP transport.
            lower: ISystemHandle = getattr(self.transport, "transport", self.transport)
            handle = lower.getHandle()
            if isinstance(handle, socket):
                probe_idle(handle)
                reset_at_close(handle, True)
                self._socket = handle
        if ISSLTransport.providedBy(self.transport):
            self.handshake = Deferred(lambda _: self.transport.abortConnection())
        self.used = self._owner.clock.seconds()
        self._owner.opened(self)

    def handshakeCompleted(self) -> None:
        """Report that TLS has verified the server."""
        handshake, self.handshake = self.handshake, None
        if handshake is not None:
            handshake.callback(self)

    def dataReceived(self, data: bytes) -> None:
        """Pass received bytes to the exchange; without one, abort the connection."""
        work = self._work
        if work is None:
            # Bytes that reply to no command must not be parsed as the next one's reply.
            self.transport.abortConnection()
            return
        self.reply_begun = self.has_received = True
        try:
            if self._preface is not None:
                data = self._feed_preface(self._preface, data)
            if data:
                self._feed(work, data)
        except (NotUnderstood, WireError) as reason:
            self.fail(NotUnderstood(f"{self._owner.server} is not understood: {reason}"))
        except Exception as reason:
            self.fail(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Report the end to the pool, and fail the exchange."""
        self._stop_timer()
        self._owner.lost(self)
        if self._work is not None:
            self.fail(self._broken(self._work.exchange, reason))
        handshake, self.handshake = self.handshake, None
        if handshake is not None:
            handshake.errback(self._unsecured(reason.value))

    def _feed_preface(self, preface: AuthExchange, data: bytes) -> bytes:
        """Take bytes of the reply to ``AUTH``, and return those after it.

        :raises Unauthorized: if the server does not accept the token.
        """
        authentication = self._owner.authentication
        assert authentication is not None
        try:
            preface.feed(data)
        except ServerError as reason:
            authentication.refused(reason)
        else:
            if not preface.complete:
                return b""
            authentication.replied(preface)
        self._preface = None
        return preface.take_surplus()

    def _feed(self, work: _Work, data: bytes) -> None:
        exchange, receiver, _ = work
        before_header = exchange.header is None
        body = exchange.feed(data)
        if before_header and exchange.header is not None:
            receiver.begin(exchange.header, self)
        # At each step the receiver, or what it calls, may end the exchange.
        if body and self._work is work and not receiver.satisfied:
            receiver.write(body)
        if self._work is work:
            if exchange.complete or receiver.satisfied:
                receiver.finish()
                self._end()
            elif exchange.header is not None:
                # One time-out limits the whole header; each piece of a body starts a new one.
                self._start_timer()

    def _end(self, reason: Exception | None = None) -> None:
        assert self._work is not None
        (exchange, receiver, done), self._work = self._work, None
        self._stop_timer()
        try:
            receiver.close()
        except Exception as close_error:
            reason = reason or close_error
        keep = exchange.clean and not receiver.satisfied
        if keep and (reason is None or isinstance(reason, ServerError)):
            # A paused transport does not report that the server closes the connection.
            if self._paused:
                self._paused = False
                self.transport.resumeProducing()
            self.used = self._owner.clock.seconds()
            self._owner.keep(self)
        else:
            self.transport.abortConnection()
        if reason is None:
            done.callback(None)
        else:
            done.errback(reason)

    def _broken(self, exchange: Exchange, reason: Failure) -> ClientError:
        server = self._owner.server
        kind = ClosedWithoutReply if exchange.header is None else ConnectionBroken
        if reason.check(error.ConnectionDone):
            missing = f"inside the reply: {exchange.missing} missing"
            where = "without a reply" if exchange.header is None else missing
            return kind(f"{server} closed the connection {where}")
        if reason.check(error.ConnectionLost):
            return kind(f"connection to {server} lost")
        # An error of TLS: a server of version 1.3 refuses a certificate after the handshake.
        if not self.has_received:
            return self._unsecured(reason.value)
        return kind(f"connection to {server} lost: {reason_text(reason.value)}")

    def _unsecured(self, reason: BaseException | None) -> CannotConnect:
        """Return the error for a connection that ended before TLS was established."""
        server = self._owner.server
        refused = refusal_of(reason)
        if refused is not None:
            return cannot_connect(server, advise(refused), TLSError)
        text = reason_text(reason)
        if isinstance(reason, (error.ConnectionDone, error.ConnectionLost)):
            text = "the server closed the connection in the TLS handshake"
        return cannot_connect(server, text)

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.reset(self._owner.timeout)
        elif not self._paused:
            self._timer = self._owner.clock.callLater(self._owner.timeout, self._reply_expired)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _reply_expired(self) -> None:
        self._timer = None
        server, timeout = self._owner.server, self._owner.timeout
        if self._work is not None and self._work.exchange.header is None and self.reply_begun:
            self.fail(timed_out(server, None))
        else:
            self.fail(timed_out(server, timeout))

    def _close_expired(self) -> None:
        self._timer = None
        self.transport.abortConnection()


def interrupted() -> Interrupted:
    """Return the error of an exchange that was under way when the session was closed."""
    return Interrupted("the client was closed")


def reason_text(reason: BaseException | None) -> str:
    """Return an error's message on one line, without its full stop."""
    return " ".join(str(reason).split()).rstrip(".")
