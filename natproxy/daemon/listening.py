"""Listening sockets: the endpoints that describe them, and what is set on them."""

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
from natproxy.server.proxy_header import HeaderEndpoint

# The ports of these close the connection at once when the factory returns no protocol.
_BARE = re.compile(r"(tcp|tcp4|tcp6|unix|systemd):", re.IGNORECASE)


def endpoint_from(reactor: IReactorCore, description: str) -> IStreamServerEndpoint:
    """Return the endpoint of a description, as Twisted's ``serverFromString`` does.

    ``haproxy:`` is natproxy's own, which checks the header.

    :raises Exception: whatever Twisted's parsers raise, if the description is malformed.
    """
    kind, _, below = description.partition(":")
    if kind == "haproxy":
        return HeaderEndpoint(endpoint_from(reactor, below))
    endpoint = serverFromString(reactor, description)
    return endpoint if _BARE.match(description) else DismissingEndpoint(endpoint)


def keep_alive(port: IListeningPort) -> None:
    """Have the kernel probe idle connections that a port accepts; see `probe_idle`.

    Accepted connections inherit it on Linux, so that it costs nothing for each. Nothing
    happens to a UNIX socket.
    """
    listening: socket.socket | None = getattr(port, "socket", None)
    if listening is None or listening.family not in (socket.AF_INET, socket.AF_INET6):
        return
    probe_idle(listening)


def address_text(address: object) -> str:
    """Return the text of an address that is listened on, as a client would type it."""
    if isinstance(address, (IPv4Address, IPv6Address)):
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{host}:{address.port}"
    return f"unix:{printable(getattr(address, 'name', None) or b'')}"


@implementer(IStreamServerEndpoint)
class DismissingEndpoint:
    """An endpoint that wraps the factory which it is given, as ``ssl:`` does.

    Such wrappers cannot handle a factory that returns no protocol: they get one that
    closes the connection.

    :param endpoint: where to listen.
    """

    def __init__(self, endpoint: IStreamServerEndpoint) -> None:
        self._endpoint = endpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen; see `IStreamServerEndpoint`."""
        return self._endpoint.listen(cast(IProtocolFactory, DismissingFactory(protocolFactory)))


class DismissingFactory(WrappingFactory):
    """Makes the protocols of another factory, and one that closes where that makes none."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the other factory's protocol, or one that closes the connection."""
        return self.wrappedFactory.buildProtocol(addr) or Dismissal()

    def logPrefix(self) -> str:
        """Return the other factory's name."""
        return type(self.wrappedFactory).__name__


class Dismissal(Protocol):
    """Closes its connection as soon as it is made."""

    def connectionMade(self) -> None:
        """Close the connection."""
        cast(Any, self.transport).abortConnection()
