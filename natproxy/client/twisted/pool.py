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

from natproxy.client.blocking.route import IDLE_LIMIT
from natproxy.client.errors import CannotConnect, ConnectionBroken
from natproxy.client.exchange import Exchange
from natproxy.client.requests import Request
from natproxy.client.twisted.connection import (
    PooledConnection,
    Receiver,
    interrupted,
    reason_text,
)


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
    ) -> None:
        self.clock = clock
        self.server = server
        self.timeout = limits.timeout
        self._limits = limits
        self._endpoint = endpoint
        # Commands that can begin without waiting for another to end.
        self._free = limits.connections
        # Commands that wait for their turn, in order.
        self._waiting: dict[Deferred[None], None] = {}
        self._connecting: set[Deferred[IProtocol]] = set()
        self._open: set[PooledConnection] = set()
        self._idle: list[PooledConnection] = []
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
            idle = self._idle_connection()
            if idle is not None:
                reused = idle.has_received
                end = math.inf if within is None else self.clock.seconds() + within
                try:
                    await self._exchange(idle, exchange, receiver, within)
                    return
                except ConnectionBroken:
                    # The server had closed after its last reply, or a NAT in between has
                    # dropped the connection; every verb may be repeated.
                    if idle.reply_begun or not reused or self.clock.seconds() >= end:
                        raise
                exchange = Exchange(request.word, request.arguments)
            await self._exchange(await self._connect(), exchange, receiver, within)
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
            raise CannotConnect(
                f"cannot connect to {self.server}: {_reason_of(reason)}", self.server
            ) from reason

    def _exchange(
        self,
        connection: PooledConnection,
        exchange: Exchange,
        receiver: Receiver,
        within: float | None,
    ) -> Deferred[None]:
        done = connection.carry_out(exchange, receiver)
        if within is not None:
            late = ConnectionBroken(f"{self.server} did not reply in time")
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
