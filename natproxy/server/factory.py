"""The factory of a daemon's client connections, and what the connections share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger

from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.nat import Outcome
from natproxy.protocol import printable
from natproxy.server.admission import Admission
from natproxy.server.deadlines import Deadlines
from natproxy.server.events import Finished, Subscribers
from natproxy.server.refusals import RefusalLog
from natproxy.server.rotation import RoundRobin

LINGER = 1.0
"""Seconds that a client gets to take what was sent, and to close, before we do."""

_NO_HOST = Address("unix", FIRST_STAND_IN_PORT)


class Connection(Protocol):
    """A client's connection, as the factory uses it."""

    def drain(self) -> None:
        """Finish the current command, begin no other, and close."""
        ...

    def abort(self, outcome: Outcome) -> None:
        """Reset the connection."""
        ...


class CommandFactory(ServerFactory):
    """Makes the connections of one daemon and knows which there are.

    :param clock: for every time-out.
    :param idle_timeout: seconds that a client may take for its next step.
    :param admission: limits the number of clients; without it, there may be 10,000.
    :param first_command_timeout: seconds that a client may take to send its first command,
        and a load balancer to send the PROXY header; 0 for no limit but `idle_timeout`.
    :ivar idle: the deadlines of clients whose turn it is.
    :ivar lingering: those of clients that have been sent everything.
    :ivar first_commands: those of clients that have connected a short while ago.
    :ivar deadlines: all deadlines there are; they rest when nobody is connected.
    :ivar connections: those that are open.
    :ivar rotation: connections that have used up their share of a reactor turn.
    :ivar subscribers: those of `subscribe`.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        idle_timeout: float,
        admission: Admission | None = None,
        first_command_timeout: float = 0.0,
    ) -> None:
        self.clock = clock
        self.admission = admission or Admission()
        self.idle = Deadlines(clock, idle_timeout)
        self.lingering = Deadlines(clock, LINGER)
        self.first_commands = Deadlines(clock, first_command_timeout)
        self.deadlines = [self.idle, self.lingering, self.first_commands]
        self.connections: set[Connection] = set()
        self.rotation = RoundRobin(clock)
        self.subscribers = Subscribers()
        self._stand_in_ports = count(FIRST_STAND_IN_PORT)
        self._emptied: list[Deferred[None]] = []
        self._refusals = RefusalLog(clock.seconds)
        self._header_refusals = RefusalLog(clock.seconds)

    def subscribe(self, callback: Callable[[Finished], object]) -> Callable[[], None]:
        """Call back at the end of each command.

        An exception from the callback is logged and stops neither the command nor other
        subscribers.

        :return: ends the subscription.
        """
        return self.subscribers.add(callback)

    def overloaded(self, address: object) -> bool:
        """Return whether a new connection is to be closed at once; see `Admission`."""
        known = isinstance(address, (IPv4Address, IPv6Address))
        overloaded = self.admission.overloaded(self.address_of(address) if known else _NO_HOST)
        if overloaded:
            self._refusals.leave_out()
        return overloaded

    def await_first_command(self, overdue: Callable[[], object]) -> None:
        """Call back when a new client's time for its first command is over."""
        if self.first_commands.seconds:
            self.first_commands.set(overdue)

    def log_refusal(self, log: Logger, client: Address, message: str) -> None:
        """Log that a client was refused; see `RefusalLog`."""
        self._refusals.warn(log, "{client} turned away: {reason}", client=client, reason=message)

    def log_header_refusal(self, log: Logger, peer: str, reason: str) -> None:
        """Log that a connection was refused for its PROXY header; see `RefusalLog`.

        :param peer: host of the connection; the client's is not known.
        """
        self._header_refusals.warn(
            log, "connection from {peer} refused: PROXY header: {reason}", peer=peer, reason=reason
        )

    def connection_ended(self, connection: Connection) -> None:
        """Forget a connection."""
        self.admission.leave(connection)
        self.connections.discard(connection)
        if not self.connections:
            for deadlines in self.deadlines:
                deadlines.rest()
            emptied, self._emptied = self._emptied, []
            for waiting in emptied:
                waiting.callback(None)

    def drain(self) -> Deferred[None]:
        """Let every client finish its current command, and fire when all are gone."""
        for connection in list(self.connections):
            connection.drain()
        if not self.connections:
            return succeed(None)
        emptied: Deferred[None] = Deferred()
        self._emptied.append(emptied)
        return emptied

    def abort(self) -> None:
        """Cut off the clients that are left."""
        for connection in list(self.connections):
            connection.abort(Outcome.DRAINED)

    def address_of(self, address: object) -> Address:
        """Say in our terms where a connection leads.

        A UNIX socket has no port: a number from 65,536 up, never given twice, stands
        for it, so that one number is one connection, in the table and in the log.
        """
        if isinstance(address, (IPv4Address, IPv6Address)):
            return Address(address.host, address.port)
        name: bytes | None = getattr(address, "name", None)
        path = f":{printable(name)}" if name else ""
        return Address("unix" + path, next(self._stand_in_ports))
