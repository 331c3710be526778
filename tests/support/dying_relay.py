"""A relay in front of a file server, in this reactor, that dies at chosen bytes of its replies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, NamedTuple

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.support.loopback import HOST, own_host

_ports = count(10_000)


def _nothing() -> None:
    """Change no file."""


class Death(NamedTuple):
    """The end of a server inside its reply to a command.

    :ivar after: bytes of the reply that are passed on before; the header counts.
    :ivar reset: whether the connection is reset, in place of closed.
    :ivar away: seconds for which no connection is accepted; 0: the server is there all the time.
    :ivar then: called when it is dead.
    """

    after: int
    reset: bool
    away: float
    then: Callable[[], None] = _nothing


class Plan:
    """What is to happen to several servers, one command after the other.

    :param deaths: of whichever server has the next command.
    :ivar commands: the commands received, without the ``FEAT`` that checks of health send.
    :ivar begun: whether the header of a reply has been passed on.
    :ivar lost: deaths before that.
    """

    def __init__(self, deaths: Iterable[Death]) -> None:
        self.deaths = deque(deaths)
        self.commands: list[bytes] = []
        self.begun = False
        self.lost = 0


class DyingRelay(Factory):
    """Passes on commands and replies, and dies as planned.

    :param target: the port of the file server.
    :ivar host: at which it listens, likewise `port`.
    """

    noisy = False

    def __init__(self, target: int, plan: Plan) -> None:
        self.target = target
        self.plan = plan
        self.host, self.port = own_host(0), next(_ports)
        self._ends: set[_Near] = set()
        self._listener: Any = None
        self._return: IDelayedCall | None = None

    def start(self) -> None:
        """Listen."""
        self._return = None
        self._listener = reactor.listenTCP(self.port, self, interface=self.host)

    async def stop(self) -> None:
        """Stop listening and reset all connections."""
        if self._return is not None:
            self._return.cancel()
        for end in list(self._ends):
            end.end(reset=True)
        if self._listener is not None:
            await maybeDeferred(self._listener.stopListening)

    def buildProtocol(self, _: object) -> _Near:
        return _Near(self)

    def die(self, death: Death) -> None:
        """End all connections, and come back later."""
        self.plan.lost += not self.plan.begun
        for end in list(self._ends):
            end.end(death.reset)
        if death.away and self._listener is not None:
            # At once: the socket is closed when the reactor's turn ends.
            self._listener.stopListening()
            self._listener = None
            self._return = reactor.callLater(death.away, self.start)
        death.then()


class _Near(Protocol):
    """A connection of the proxy; it has one command."""

    def __init__(self, server: DyingRelay) -> None:
        self._server = server
        self._line = b""
        self._far: _Far | None = None
        self._death: Death | None = None
        self._left = 0
        self.ended = False

    def connectionMade(self) -> None:
        self._server._ends.add(self)

    def dataReceived(self, data: bytes) -> None:
        self._line += data
        if b"\n" not in self._line or self._far is not None:
            return
        server = self._server
        if not self._line.startswith(b"FEAT"):
            plan = server.plan
            plan.commands.append(self._line)
            if plan.deaths:
                self._death = plan.deaths.popleft()
                self._left = self._death.after
                if not self._left:
                    server.die(self._death)
                    return
        self._far = _Far(self, self._line)
        reactor.connectTCP(HOST, server.target, _FarFactory(self._far))

    def passed(self, data: bytes) -> None:
        """Pass on a part of the reply, and die in it if that is planned."""
        if self.ended:
            return
        if self._death is None:
            self._note(data)
            self.transport.write(data)
            return
        part = data[: self._left]
        self._left -= len(part)
        self._note(part)
        # At once: a reset discards what the transport holds.
        while part:
            try:
                part = part[self.transport.getHandle().send(part) :]
            except BlockingIOError:
                # The proxy does not read for now; what was planned for later happens now.
                self._left = 0
                break
        if not self._left:
            self._server.die(self._death)

    def _note(self, data: bytes) -> None:
        if not self._line.startswith(b"FEAT") and b"\n" in data:
            self._server.plan.begun = True

    def end(self, reset: bool) -> None:
        """End both connections."""
        self.ended = True
        self._server._ends.discard(self)
        if reset:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()
        if self._far is not None and self._far.transport is not None:
            self._far.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ended:
            self.end(reset=True)


class _Far(Protocol):
    """The connection to the file server."""

    def __init__(self, near: _Near, line: bytes) -> None:
        self._near = near
        self._line = line

    def connectionMade(self) -> None:
        if self._near.ended:
            self.transport.abortConnection()
        else:
            self.transport.write(self._line)

    def dataReceived(self, data: bytes) -> None:
        self._near.passed(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._near.ended:
            self._near.end(reset=True)


class _FarFactory(ClientFactory):
    """Makes the one connection to the file server."""

    noisy = False

    def __init__(self, end: _Far) -> None:
        self._end = end

    def buildProtocol(self, _: object) -> _Far:
        return self._end
