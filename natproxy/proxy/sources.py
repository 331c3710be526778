"""Local addresses of upstream connections.

The kernel counts local ports for each pair of a local and a remote address: with two local
addresses, twice as many connections to one upstream are possible. For that, the port must be chosen
when the socket connects, and not when it is bound (``IP_BIND_ADDRESS_NO_PORT``): a port that is
chosen by ``bind`` is taken for all destinations.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from twisted.internet import error, tcp
from twisted.internet.interfaces import IConnector
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

from natproxy.address import Address

IP_BIND_ADDRESS_NO_PORT = 24
"""An option of sockets of both families, which the module ``socket`` does not have."""


class Sources:
    """The local addresses, which connections use in turn.

    :param hosts: numeric addresses of IPv4, IPv6, or both.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._ipv4 = _Turns([host for host in hosts if ":" not in host])
        self._ipv6 = _Turns([host for host in hosts if ":" in host])

    def of_family(self, remote: str) -> Iterator[str]:
        """Return the local addresses for one connection, the one whose turn it is first.

        :param remote: the numeric address that it leads to.
        """
        return (self._ipv6 if ":" in remote else self._ipv4).following()

    def connect(self, sock: socket.SocketType, remote: Address) -> int:
        """Begin to connect a socket from the next address that has a free port for the upstream.

        :return: the system's error number, as of ``connect_ex``; ``EADDRNOTAVAIL`` if no address
            has a free port, or none is one of this machine now.
        """
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        code = errno.EADDRNOTAVAIL
        for host in self.of_family(remote.host):
            try:
                sock.bind((host, 0))
            except OSError as failure:
                code = failure.errno or code
                continue
            code = sock.connect_ex(remote)
            if code != errno.EADDRNOTAVAIL:
                break
        return code


class _Turns:
    """Local addresses of one family."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._next = 0

    def following(self) -> Iterator[str]:
        """Yield each address once; the first one is another one at each call."""
        if self._hosts:
            first = self._next
            self._next = (first + 1) % len(self._hosts)
            yield from self._hosts[first:]
            yield from self._hosts[:first]


def missing_source(host: str) -> str | None:
    """Return why connections cannot have a local address; ``None`` if they can.

    :param host: numeric.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            probe.bind((host, 0))
    except OSError as failure:
        if failure.errno == errno.EADDRNOTAVAIL:
            return "not an address of this machine"
        return failure.strerror or str(failure)
    return None


class BindingReactor:
    """A reactor whose TCP clients have the local addresses; else it is the one that it wraps.

    It is for endpoints that resolve names or add TLS: each attempt to connect uses the next
    address of its family.
    """

    def __init__(self, reactor: Any, sources: Sources) -> None:
        self._reactor = reactor
        self._sources = sources
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory,
        timeout: float = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> IConnector:
        """Connect from the next address, unless the endpoint has one; see ``IReactorTCP``."""
        source = next(self._sources.of_family(host), None)
        local = bindAddress or (source and (source, 0))
        connector = _Connector(host, port, factory, timeout, local, self._reactor)
        if local:
            connector.connect()
        else:
            # Never from an address that was not configured.
            connector.connectionFailed(Failure(error.ConnectBindError(*_NO_SOURCE)))
        return connector


_NO_SOURCE = (errno.EADDRNOTAVAIL, "no source is of the address's family")


class _Client(tcp.Client):
    def createInternetSocket(self) -> socket.socket:
        created: socket.socket = super().createInternetSocket()
        created.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        return created


class _Connector(tcp.Connector):
    def _makeTransport(self) -> _Client:
        return _Client(self.host, self.port, self.bindAddress, self, self.reactor)
