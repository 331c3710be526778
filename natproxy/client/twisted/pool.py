"""Connections on a reactor that wait for the next command, and commands that wait for them."""

from __future__ import annotations

import math
import os
from typing import Any, TypeVar, cast

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

from natproxy.client.blocking.route import TRUSTED
from natproxy.client.errors import CannotConnect, ConnectionBroken
from natproxy.client.exchange import Exchange
from natproxy.client.twisted.connection import (
    PooledConnection,
    Sink,
    interrupted,
    one_line,
)
from natproxy.protocol import Arguments

T = TypeVar("T")


class ConnectionPool(Factory):
    """Connections to one server: so many at once, and a few that wait for the next command.

    :param endpoint: where the server is.
    :param most: connections at once; more commands wait for their turn.
    :param idle: connections that are kept while nobody uses them.
    :ivar timeout: seconds that silence inside a reply may last.
    :ivar connect_timeout: seconds that a connect may last.
    :ivar server: its name in messages.
    """

    noisy = False

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        timeout: float,
        server: str,
        most: int,
        idle: int,
        connect_timeout: float | None = None,
    ) -> None:
        self.clock = clock
        self.timeout = timeout
        self.connect_timeout = timeout if connect_timeout is None else connect_timeout
        self.server = server
        self._endpoint = endpoint
        self._free = most
        self._most_idle = idle
        self._line: dict[Deferred[None], None] = {}
        self._connecting: set[Deferred[IProtocol]] = set()
        self._open: set[PooledConnection] = set()
        self._idle: list[PooledConnection] = []
        self._closed = False
        self._gone: list[Deferred[None]] = []

    async def ask(
        self,
        word: bytes,
        arguments: Arguments | None,
        sink: Sink[T],
        within: float | None = None,
    ) -> T:
        """Carry out a command on a connection.

        :param within: seconds in which the whole reply has to come, if that matters.
        :return: what the sink makes of the reply.
        :raises ClientError: as `natproxy.client.Connection.request` does; `Interrupted`
            if the pool is closed.
        """
        exchange = Exchange(word, arguments)
        await self._turn()
        try:
            idle = self._idle_connection()
            if idle is not None:
                reused = idle.good
                end = math.inf if within is None else self.clock.seconds() + within
                try:
                    await self._carry_out(idle, exchange, sink, within)
                    return sink.result
                except ConnectionBroken:
                    # The server had closed after its last reply, or a box on the way has
                    # forgotten the connection; every verb may be repeated.
                    if idle.heard or not reused or self.clock.seconds() >= end:
                        raise
                exchange = Exchange(word, arguments)
            await self._carry_out(await self._connect(), exchange, sink, within)
            return sink.result
        finally:
            self._next()

    async def connect(self) -> None:
        """See that there is a connection, or that one can be made.

        :raises CannotConnect: if it can't.
        """
        await self._turn()
        try:
            idle = self._idle_connection()
            self.keep(await self._connect() if idle is None else idle)
        finally:
            self._next()

    async def close(self) -> None:
        """End everything; nothing is left on the reactor when this returns."""
        self._closed = True
        line, self._line = self._line, {}
        for turn in line:
            # Whoever hears of one may have cancelled another.
            if not turn.called:
                turn.errback(interrupted())
        for connecting in list(self._connecting):
            connecting.cancel()
        for connection in list(self._open):
            connection.close()
        if self._open:
            gone: Deferred[None] = Deferred()
            self._gone.append(gone)
            await gone

    def buildProtocol(self, addr: IAddress | None) -> PooledConnection:
        """Make a connection's protocol."""
        return PooledConnection(self)

    def opened(self, connection: PooledConnection) -> None:
        """Note that a connection has been made."""
        self._open.add(connection)
        if self._closed:
            connection.close()

    def keep(self, connection: PooledConnection) -> None:
        """Take a connection back that is ready for the next command."""
        if self._closed or len(self._idle) >= self._most_idle:
            connection.close()
        else:
            self._idle.append(connection)

    def lost(self, connection: PooledConnection) -> None:
        """Note that a connection has ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._closed and not self._open:
            gone, self._gone = self._gone, []
            for waiting in gone:
                waiting.callback(None)

    def _idle_connection(self) -> PooledConnection | None:
        """Take out the idle connection that was used last, unless it is not trusted any more.

        A box on the way may have forgotten one that has been idle for long, which shows in
        nothing but silence.
        """
        while self._idle:
            idle = self._idle.pop()
            if self.clock.seconds() - idle.used <= TRUSTED:
                return idle
            idle.close()
        return None

    async def _turn(self) -> None:
        if self._closed:
            raise interrupted()
        if self._free:
            self._free -= 1
        else:
            turn: Deferred[None] = Deferred(lambda turn: self._line.pop(turn, None))
            self._line[turn] = None
            await turn

    def _next(self) -> None:
        if self._line:
            turn = next(iter(self._line))
            del self._line[turn]
            turn.callback(None)
        else:
            self._free += 1

    async def _connect(self) -> PooledConnection:
        # What an endpoint fails with when it is cancelled is its own affair: it isn't heard.
        def give_up(connected: Deferred[IProtocol]) -> None:
            self._connecting.discard(connected)
            attempt.cancel()

        def ended(result: IProtocol | Failure) -> None:
            if connected in self._connecting:
                self._connecting.discard(connected)
                connected.callback(result)

        connected: Deferred[IProtocol] = Deferred(give_up)
        self._connecting.add(connected)
        attempt = self._endpoint.connect(self)
        attempt.addTimeout(
            self.connect_timeout, self.clock, lambda *_: Failure(error.TimeoutError())
        )
        attempt.addBoth(ended)
        try:
            return cast(PooledConnection, await connected)
        except CancelledError:
            if self._closed:
                raise interrupted() from None
            raise
        except Exception as reason:
            raise CannotConnect(f"cannot connect to {self.server}: {_why(reason)}") from reason

    def _carry_out(
        self,
        connection: PooledConnection,
        exchange: Exchange,
        sink: Sink[Any],
        within: float | None,
    ) -> Deferred[None]:
        done = connection.carry_out(exchange, sink)
        if within is not None:
            late = ConnectionBroken(f"{self.server} did not answer in time")
            done.addTimeout(within, self.clock, lambda *_: Failure(late))
        return done


def _why(reason: Exception) -> str:
    if isinstance(reason, (error.TimeoutError, error.TCPTimedOutError)):
        return "no answer in time"
    if isinstance(reason, error.DNSLookupError):
        return "the name cannot be resolved"
    if isinstance(reason, ValueError):
        return "bad host name"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    number = getattr(reason, "osError", None)
    return os.strerror(number) if isinstance(number, int) else one_line(reason)
