"""The pool of connections to one server, on a reactor."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple, cast

from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from natproxy.client.authentication import Authentication, AuthExchange
from natproxy.client.blocking.route import IDLE_LIMIT
from natproxy.client.errors import (
    CannotConnect,
    ClientError,
    ConnectionBroken,
    cannot_connect,
    timed_out,
)
from natproxy.client.exchange import Exchange
from natproxy.client.requests import Request
from natproxy.client.twisted.connection import (
    PooledConnection,
    Receiver,
    interrupted,
    reason_text,
)
from natproxy.client.twisted.receivers import InMemory
from natproxy.client.version import LONGEST_FEAT, Feat


class Limits(NamedTuple):
    """The limits of a pool.

    :ivar timeout: seconds that silence inside a reply may last.
    :ivar connect_timeout: seconds that a connect may last.
    :ivar connections: commands that are carried out at once; further ones wait for their turn.
    :ivar idle: idle connections that are kept.
    """

    timeout: float
    connect_timeout: float
    connections: int
    idle: int


class ConnectionPool(Factory):
    """Connects to one server, limits the connections, and keeps idle ones.

    :param endpoint: connects to the server.
    :param authentication: how the session's token is sent; ``None`` if it has none.
    :ivar clock: measures time-outs.
    :ivar server: its name in messages.
    :ivar timeout: that of the limits.
    """

    noisy = False

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        server: str,
        limits: Limits,
        authentication: Authentication | None = None,
    ) -> None:
        self.clock = clock
        self.server = server
        self.timeout = limits.timeout
        self.authentication = authentication
        self._limits = limits
        self._endpoint = endpoint
        # Commands that can begin without waiting for another to end.
        self._free = limits.connections
        # Commands that wait for their turn, in order.
        self._waiting: dict[Deferred[None], None] = {}
        self._connecting: set[Deferred[IProtocol]] = set()
        self._open: set[PooledConnection] = set()
        self._idle: list[PooledConnection] = []
        # Those on which the first command is about to be sent.
        self._introducing: set[PooledConnection] = set()
        self._closed = False
        # Calls of `close` that wait for the last connection to end.
        self._closing: list[Deferred[None]] = []

    async def carry_out(self, request: Request[Any], receiver: Receiver) -> None:
        """Send a request's command on a connection, and its reply to a receiver.

        :raises ClientError: as `natproxy.client.Connection.request` does; `Interrupted`
            if the pool is closed.
        """
        exchange = Exchange(request.word, request.arguments)
        within = self.timeout if request.bounded else None
        await self._turn()
        try:
            connection = self._idle_connection() or await self._connect()
            end = math.inf if within is None else self.clock.seconds() + within
            connection, preface = await self._introduced(connection, within)
            reused = connection.has_received
            try:
                await self._exchange(connection, exchange, receiver, within, preface)
                return
            except ConnectionBroken:
                # The server had closed after its last reply, or a NAT in between has dropped the
                # connection; every verb may be repeated.
                if connection.reply_begun or not reused or self.clock.seconds() >= end:
                    raise
            if preface is not None and self.authentication is not None:
                self.authentication.lost()
            exchange = Exchange(request.word, request.arguments)
            connection, preface = await self._introduced(await self._connect(), within)
            await self._exchange(connection, exchange, receiver, within, preface)
        finally:
            self._next()

    async def connect(self) -> None:
        """Connect, unless there is an idle connection.

        :raises CannotConnect: if that fails.
        """
        await self._turn()
        try:
            idle = self._idle_connection()
            self.keep(await self._connect() if idle is None else idle)
        finally:
            self._next()

    async def close(self) -> None:
        """Cancel all commands, and return when all connections have ended."""
        self._closed = True
        waiting, self._waiting = self._waiting, {}
        for turn in waiting:
            # The callback of one may have cancelled another.
            if not turn.called:
                turn.errback(interrupted())
        for connecting in list(self._connecting):
            connecting.cancel()
        for connection in list(self._open):
            connection.close()
        if self._open:
            closed: Deferred[None] = Deferred()
            self._closing.append(closed)
            await closed

    def buildProtocol(self, addr: IAddress | None) -> PooledConnection:
        """Return the protocol of a new connection."""
        return PooledConnection(self)

    def opened(self, connection: PooledConnection) -> None:
        """Note that a connection has been made."""
        self._open.add(connection)
        if self._closed:
            connection.close()

    def keep(self, connection: PooledConnection) -> None:
        """Take back a connection that is ready for the next command."""
        if connection in self._introducing:
            return
        if self._closed or len(self._idle) >= self._limits.idle:
            connection.close()
        else:
            self._idle.append(connection)

    def lost(self, connection: PooledConnection) -> None:
        """Note that a connection has ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._closed and not self._open:
            closing, self._closing = self._closing, []
            for closed in closing:
                closed.callback(None)

    def _idle_connection(self) -> PooledConnection | None:
        """Remove and return the idle connection that was used last.

        A NAT in between may have dropped one that has been idle for more than `IDLE_LIMIT`, which
        shows in nothing but silence. Such connections are closed.
        """
        while self._idle:
            idle = self._idle.pop()
            if self.clock.seconds() - idle.used <= IDLE_LIMIT:
                return idle
            idle.close()
        return None

    async def _turn(self) -> None:
        if self._closed:
            raise interrupted()
        if self._free:
            self._free -= 1
        else:
            turn: Deferred[None] = Deferred(lambda turn: self._waiting.pop(turn, None))
            self._waiting[turn] = None
            await turn

    def _next(self) -> None:
        if self._waiting:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            turn.callback(None)
        else:
            self._free += 1

    async def _connect(self) -> PooledConnection:
        # The error with which an endpoint fails after it has been cancelled is ignored.
        def cancel(connected: Deferred[IProtocol]) -> None:
            self._connecting.discard(connected)
            attempt.cancel()

        def finish(result: IProtocol | Failure) -> None:
            if connected in self._connecting:
                self._connecting.discard(connected)
                connected.callback(result)

        connected: Deferred[IProtocol] = Deferred(cancel)
        self._connecting.add(connected)
        attempt: Deferred[Any] = self._endpoint.connect(self).addCallback(_after_handshake)
        attempt.addTimeout(
            self._limits.connect_timeout, self.clock, lambda *_: Failure(error.TimeoutError())
        )
        attempt.addBoth(finish)
        try:
            return cast(PooledConnection, await connected)
        except CancelledError:
            if self._closed:
                raise interrupted() from None
            raise
        except CannotConnect:
            raise
        except Exception as reason:
            raise cannot_connect(self.server, _reason_of(reason)) from reason

    async def _introduced(
        self, connection: PooledConnection, within: float | None
    ) -> tuple[PooledConnection, AuthExchange | None]:
        """Return the connection for a command, and what is to be sent in front of it.

        See `natproxy.client.authentication.Authentication`. The connection is another one if a
        server of version 1 may close it.

        :param within: seconds for the reply to ``FEAT``.
        :raises UsageError: if the token may not be sent on this connection.
        """
        authentication = self.authentication
        if authentication is None or connection.introduced:
            return connection, None
        connection.introduced = True
        if not authentication.supported:
            return connection, None
        try:
            authentication.check_peer(connection.peer_host)
            if not authentication.verified and not await self._announced(connection, within):
                self._discard(connection)
                connection = await self._connect()
                connection.introduced = True
                return connection, None
        except BaseException:
            # No command may be sent without the token.
            self._discard(connection)
            raise
        return connection, authentication.exchange()

    def _discard(self, connection: PooledConnection) -> None:
        if connection in self._open:
            connection.close()

    async def _announced(self, connection: PooledConnection, within: float | None) -> bool:
        """Return whether the reply to ``FEAT`` on a connection has ``AUTH``."""
        assert self.authentication is not None
        receiver = InMemory(Feat(), LONGEST_FEAT)
        self._introducing.add(connection)
        try:
            await self._exchange(connection, Exchange(Feat.word), receiver, within or self.timeout)
        except ClientError as reason:
            self.authentication.not_announced(reason)
            return False
        finally:
            self._introducing.discard(connection)
        return self.authentication.announced(receiver.result)

    def _exchange(
        self,
        connection: PooledConnection,
        exchange: Exchange,
        receiver: Receiver,
        within: float | None,
        preface: AuthExchange | None = None,
    ) -> Deferred[None]:
        done = connection.carry_out(exchange, receiver, preface)
        if within is not None:
            late = timed_out(self.server, None)
            done.addTimeout(within, self.clock, lambda *_: Failure(late))
        return done


def _after_handshake(protocol: IProtocol) -> Any:
    """Return a connection, or with TLS a Deferred that fires with it after the handshake."""
    connection = cast(PooledConnection, protocol)
    return connection if connection.handshake is None else connection.handshake


def _reason_of(reason: Exception) -> str:
    if isinstance(reason, (error.TimeoutError, error.TCPTimedOutError)):
        return "no reply in time"
    if isinstance(reason, error.DNSLookupError):
        return "the name cannot be resolved"
    if isinstance(reason, ValueError):
        return "bad host name"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    number = getattr(reason, "osError", None)
    return os.strerror(number) if isinstance(number, int) else reason_text(reason)
