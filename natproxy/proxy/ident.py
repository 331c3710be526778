"""Ident (RFC 1413): which client is behind a connection, for the upstream that it leads to.

The upstream sends the two ports of a connection, the proxy's first, from its own address. The user
in the reply is the client's address, and its identity, if it has one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IReactorTime,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.kernel.sockets import plain_host
from natproxy.nat import NATEntry, NATTable
from natproxy.protocol import printable
from natproxy.relay import Transport

MOST_CONNECTIONS = 32
"""Connections at the same time; further ones are closed at once."""

TIMEOUT = 30.0
"""Seconds that a connection may be idle."""

MOST_QUERIES = 100
"""Queries of one connection, which is closed after the last; most senders have one. It limits the
work in one turn, and what waits for a client that does not read."""

MAX_QUERY = 512
"""Bytes of a line at most; a valid query has fewer than 50."""

MAX_USER = 512
"""Bytes of a user identifier at most, by RFC 1413."""

_QUERY = re.compile(rb"\s*([0-9]{1,10})\s*,\s*([0-9]{1,10})\s*")


@implementer(IHalfCloseableProtocol)
class IdentProtocol(LineOnlyReceiver, TimeoutMixin):
    """Replies to the queries of one connection."""

    factory: IdentFactory
    transport: Transport
    # A carriage return before it is dropped: RFC 1413 requires one, not all senders send it.
    delimiter = b"\n"
    MAX_LENGTH = MAX_QUERY
    _queries = 0

    def callLater(self, period: float, function: Callable[[], object]) -> IDelayedCall:
        """Use the clock of the factory; called by ``TimeoutMixin``."""
        return self.factory.clock.callLater(period, function)

    def connectionMade(self) -> None:
        """Close the connection if there are too many."""
        self.factory.connections.add(self)
        if len(self.factory.connections) > MOST_CONNECTIONS:
            self.transport.loseConnection()
        else:
            self.setTimeout(self.factory.timeout)

    def lineReceived(self, line: bytes) -> None:
        """Reply to a query, and close the connection if it is the last one."""
        self.resetTimeout()
        own, peer = self.transport.getHost(), self.transport.getPeer()
        self.sendLine(self.factory.reply(line, own, peer) + b"\r")
        self._queries += 1
        if self._queries == MOST_QUERIES:
            self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        """Close the connection when the replies are sent: there will be no more queries."""
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: this side never half-closes."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel the time-out."""
        self.setTimeout(None)
        self.factory.connections.discard(self)


class IdentFactory(Factory):
    """Makes the connections of one ident service.

    :param table: the translations that exist now.
    :param clock: for the time-outs.
    :param timeout: seconds that a connection may be idle.
    :ivar connections: those that are open.
    """

    noisy = False
    protocol: Callable[[], IdentProtocol] = IdentProtocol  # type: ignore[assignment]

    def __init__(self, table: NATTable, clock: IReactorTime, timeout: float = TIMEOUT) -> None:
        self._table = table
        self.clock = clock
        self.timeout = timeout
        self.connections: set[IdentProtocol] = set()

    def reply(self, query: bytes, own: IAddress, peer: IAddress) -> bytes:
        """Return the reply to a query, without the end of the line.

        :param query: the line.
        :param own: the address that it was sent to: the proxy's in the connection of the query.
        :param peer: the address that it came from: the upstream's.
        """
        ports = _QUERY.fullmatch(query)
        if ports is None:
            return b"0, 0 : ERROR : INVALID-PORT"
        local, remote = int(ports[1]), int(ports[2])
        shown = b"%d, %d" % (local, remote)
        if not (0 < local < 65536 and 0 < remote < 65536):
            return shown + b" : ERROR : INVALID-PORT"
        wanted = (_host(own), local), (_host(peer), remote)
        for entry in self._table.lookup(local):
            ends = tuple((plain_host(end.host), end.port) for end in entry.key)
            if ends == wanted:
                return shown + b" : USERID : OTHER : " + _user(entry)
        return shown + b" : ERROR : NO-USER"


def _host(address: IAddress) -> str:
    return plain_host(getattr(address, "host", ""))


def _user(entry: NATEntry) -> bytes:
    """Return the identifier of a client: its identity, host and port; printable ASCII."""
    client, identity = str(entry.client_address), entry.identity
    text = client if identity is None else f"{identity}@{client}"
    return printable(text.encode()).encode("ascii", "backslashreplace")[:MAX_USER]
