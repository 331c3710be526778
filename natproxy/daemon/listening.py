"""Listening: a socket is opened, then wrapped.

`ListeningEndpoint.open_socket` opens the socket that an endpoint string describes;
`ListeningEndpoint.wrap` adds what its connections need above it. The two are separate so that
an open socket can be handed in later: one that a worker inherits, or that a service manager has
opened, needs `wrap` and `keep_alive` alone. The exception is ``ssl:``, whose endpoint is
Twisted's: it opens the socket and adds TLS in one step.
"""

from __future__ import annotations

import re
import socket
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IReactorCore,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import WrappingFactory
from zope.interface import implementer

from natproxy.kernel.keepalive import probe_idle
from natproxy.protocol import printable
from natproxy.server.proxy_header import HeaderFactory

# The ports of these close the connection at once when the factory returns no protocol.
_BARE = re.compile(r"(tcp|tcp4|tcp6|unix|systemd):", re.IGNORECASE)

_HEADER = "haproxy:"


@implementer(IStreamServerEndpoint)
class ListeningEndpoint:
    """The endpoint of a description, in the syntax of Twisted's ``serverFromString``.

    The prefix ``haproxy:`` adds natproxy's own parser of the PROXY header, not Twisted's.

    :param description: an endpoint string, such as ``haproxy:tcp:9000``.
    :raises Exception: whatever Twisted's parsers raise, if the description is malformed.
    """

    def __init__(self, reactor: IReactorCore, description: str) -> None:
        self.description = description
        self._headers = 0
        while description.startswith(_HEADER):
            self._headers += 1
            description = description.removeprefix(_HEADER)
        self._socket: IStreamServerEndpoint = serverFromString(reactor, description)
        self._is_bare = _BARE.match(description) is not None

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Open the socket, wrapped; see ``IStreamServerEndpoint``."""
        return self.open_socket(self.wrap(protocolFactory))

    def open_socket(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Open the listening socket.

        :param factory: makes the protocol of each connection; see `wrap`.
        :return: fires with the port, or with the reason why it cannot be listened on.
        """
        return self._socket.listen(factory).addCallback(keep_alive)

    def wrap(self, factory: IProtocolFactory) -> IProtocolFactory:
        """Return a factory that adds the PROXY header to the connections of another one."""
        for _ in range(self._headers):
            factory = cast(IProtocolFactory, HeaderFactory(factory))
        return factory if self._is_bare else cast(IProtocolFactory, ClosingFactory(factory))


def keep_alive(port: IListeningPort) -> IListeningPort:
    """Make the kernel probe idle connections that a port accepts, and return the port.

    Accepted connections inherit the options of the listening socket on Linux, so that they
    cost nothing for each; see `probe_idle`. A UNIX socket is left as it is.
    """
    listening: socket.socket | None = getattr(port, "socket", None)
    if listening is not None and listening.family in (socket.AF_INET, socket.AF_INET6):
        probe_idle(listening)
    return port


def address_text(address: object) -> str:
    """Return the text of an address that is listened on, as a client would type it."""
    if isinstance(address, (IPv4Address, IPv6Address)):
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{host}:{address.port}"
    return f"unix:{printable(getattr(address, 'name', None) or b'')}"


class ClosingFactory(WrappingFactory):
    """Returns the protocols of another factory; where that returns none, a `ClosingProtocol`.

    ``ssl:`` and endpoints of plugins wrap the factory in one that cannot handle a missing
    protocol.
    """

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the other factory's protocol, or a `ClosingProtocol`."""
        return self.wrappedFactory.buildProtocol(addr) or ClosingProtocol()

    def logPrefix(self) -> str:
        """Return the other factory's name."""
        return type(self.wrappedFactory).__name__


class ClosingProtocol(Protocol):
    """Closes its connection as soon as it is made."""

    def connectionMade(self) -> None:
        """Close the connection."""
        cast(Any, self.transport).abortConnection()
