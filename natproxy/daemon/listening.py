"""Listening sockets, and the factories of the connections that they accept.

`ListeningEndpoint.open_socket` opens the socket that an endpoint string describes.
`ListeningEndpoint.wrap` adds TLS, the parser of the PROXY header, and the closing of refused
connections, to a factory. The two are separate so that sockets that are already open can be
supported: a socket that a worker inherits, or that a service manager has opened, needs only
`wrap` and `keep_alive`.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any, Protocol, cast

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
from twisted.internet.protocol import Protocol as Connection
from twisted.protocols.policies import WrappingFactory
from zope.interface import implementer

from natproxy.daemon.certificates import is_listening_tls, listening_tls
from natproxy.kernel.keepalive import probe_idle
from natproxy.protocol import printable
from natproxy.server.proxy_header import HeaderFactory

if TYPE_CHECKING:
    from natproxy.tls.openssl import ServerTLS

# Endpoint types whose ports close a connection at once when the factory returns no protocol.
_BARE = re.compile(r"(tcp|tcp4|tcp6|unix|systemd):", re.IGNORECASE)

_HEADER = "haproxy:"


class Bound(Protocol):
    """What listens: a port, or the sockets of several processes."""

    def getHost(self) -> Any:
        """Return the address, as ``IListeningPort`` does."""
        ...


@implementer(IStreamServerEndpoint)
class ListeningEndpoint:
    """A server endpoint, described in the syntax of Twisted's ``serverFromString``.

    The prefix ``haproxy:`` adds natproxy's own parser of the PROXY header, not Twisted's. With
    ``haproxy:ssl:``, the header is before TLS. ``ssl:`` is `natproxy.daemon.certificates`, too.

    :param reactor: the reactor that accepts connections.
    :param description: an endpoint string, such as ``haproxy:tcp:9000``.
    :raises Exception: of any type, from Twisted's parsers, if the description is malformed.
    :ivar tls: the certificates; ``None`` without TLS, and for endpoints of plugins.
    """

    def __init__(self, reactor: IReactorCore, description: str) -> None:
        self.description = description
        self._headers = 0
        while description.startswith(_HEADER):
            self._headers += 1
            description = description.removeprefix(_HEADER)
        self.tls: ServerTLS | None = None
        self._parse(reactor, description)
        self._is_bare = self.tls is not None or _BARE.match(description) is not None

    def _parse(self, reactor: IReactorCore, description: str) -> None:
        """Set what opens the socket, and the certificates."""
        self._socket: IStreamServerEndpoint
        if is_listening_tls(description):
            self._socket, self.tls = listening_tls(reactor, description)
        else:
            self._socket = serverFromString(reactor, description)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Wrap the factory and open the socket; see ``IStreamServerEndpoint``."""
        return self.open_socket(self.wrap(protocolFactory))

    def open_socket(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Open the listening socket.

        :param factory: makes the protocol of each connection; see `wrap`.
        :return: fires with the port, or fails with the error of the socket.
        """
        return self._socket.listen(factory).addCallback(keep_alive)

    def wrap(self, factory: IProtocolFactory) -> IProtocolFactory:
        """Return a factory that adds TLS, parses PROXY headers and closes refused connections.

        The protocols of the connections are those of ``factory``. If neither is needed, the
        factory is returned unchanged.
        """
        if self.tls is not None:
            from natproxy.server.secure import SecureFactory

            factory = cast(IProtocolFactory, SecureFactory(self.tls, False, factory))
        for _ in range(self._headers):
            factory = cast(IProtocolFactory, HeaderFactory(factory))
        return factory if self._is_bare else cast(IProtocolFactory, ClosingFactory(factory))


def keep_alive(port: IListeningPort) -> IListeningPort:
    """Make the kernel probe idle connections that a port accepts, and return the port.

    On Linux, accepted connections inherit the options of the listening socket, so no connection
    needs a system call for them; see `probe_idle`. The options of a UNIX socket are not changed.
    """
    listening: socket.socket | None = getattr(port, "socket", None)
    if listening is not None and listening.family in (socket.AF_INET, socket.AF_INET6):
        probe_idle(listening)
    return port


def address_text(address: object) -> str:
    """Return a listening address as a client would type it: ``host:port`` or ``unix:path``."""
    if isinstance(address, (IPv4Address, IPv6Address)):
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{host}:{address.port}"
    return f"unix:{printable(getattr(address, 'name', None) or b'')}"


class ClosingFactory(WrappingFactory):
    """Returns the protocols of another factory, or a `ClosingProtocol` where it returns ``None``.

    Endpoints of plugins may wrap the factory in one that cannot handle a missing protocol.
    """

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the other factory's protocol, or a `ClosingProtocol`."""
        return self.wrappedFactory.buildProtocol(addr) or ClosingProtocol()

    def logPrefix(self) -> str:
        """Return the other factory's name."""
        return type(self.wrappedFactory).__name__


class ClosingProtocol(Connection):
    """Aborts its connection as soon as it is made."""

    def connectionMade(self) -> None:
        """Abort the connection."""
        cast(Any, self.transport).abortConnection()
