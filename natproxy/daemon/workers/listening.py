"""Listening sockets of several processes: the master opens them, the workers adopt them.

A TCP endpoint has one socket for each worker, with ``SO_REUSEPORT``: the kernel spreads the
connections over them. The master holds all of them, and never accepts. So a connection that waits
in the queue of a worker that ends is accepted by the worker that adopts its socket. Another
endpoint has one socket that all workers share.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory

from natproxy.daemon.listening import ListeningEndpoint, address_text
from natproxy.daemon.service import StartupError, open_ports
from natproxy.daemon.workers.sockets import InheritedEndpoint, remove_socket
from natproxy.kernel.keepalive import probe_idle


class OpenEndpoint:
    """The sockets of an endpoint in the master, until they are closed.

    :param description: the endpoint string.
    :param sockets: as the descriptors of `InheritedEndpoint`; closed by `close`.
    :param path: of the file of a UNIX socket, which is removed at the end; empty if there is none.
    :ivar description: as the parameter.
    :ivar sockets: likewise.
    :ivar path: likewise.
    """

    def __init__(
        self,
        description: str,
        sockets: Sequence[socket.socket],
        path: str = "",
    ) -> None:
        self.description = description
        self.sockets = list(sockets)
        self.path = path

    def inherited(self) -> InheritedEndpoint:
        """Return what workers inherit."""
        descriptors = tuple(one.fileno() for one in self.sockets)
        return InheritedEndpoint(self.description, self.sockets[0].family, descriptors)

    def getHost(self) -> Any:
        """Return the address, as a listening port does."""
        return _address_of(self.sockets[0])

    @property
    def address(self) -> str:
        """The address as a text."""
        return address_text(self.getHost())

    def close(self) -> None:
        """Close the sockets of this process; the workers' copies stay open."""
        path, self.path = self.path, ""
        if path:
            remove_socket(path)
        sockets, self.sockets = self.sockets, []
        for one in sockets:
            one.close()


def _address_of(listening: socket.socket) -> Any:
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return UNIXAddress(os.fsencode(name) if name else None)
    kind = IPv6Address if listening.family == socket.AF_INET6 else IPv4Address
    return kind("TCP", *name)


class SocketOpener:
    """In the place of a reactor, makes endpoints open sockets that accept nothing.

    :param reactor: opens sockets that are not TCP, and has everything else that an endpoint uses.
    :param workers: number of sockets of a TCP endpoint.
    :ivar opened: the sockets that the last endpoint has opened, and the path of a UNIX socket.
    """

    def __init__(self, reactor: Any, workers: int) -> None:
        self._reactor = reactor
        self._workers = workers
        self.opened: tuple[list[socket.socket], str] = ([], "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> Any:
        """Open the sockets of a TCP endpoint.

        :raises CannotListenError: if another process has the port.
        """
        try:
            sockets = reuseport_sockets(interface, port, backlog, self._workers)
        except OSError as error:
            raise CannotListenError(interface, port, error) from None
        self.opened = (sockets, "")
        return None

    def listenUNIX(self, *arguments: Any, **options: Any) -> Any:
        """Open a UNIX socket with the reactor; its file is removed when the master closes it."""
        port = self._reactor.listenUNIX(*arguments, **options)
        port.stopReading()
        name = port.socket.getsockname()
        duplicate = port.socket.dup()
        duplicate.setblocking(False)
        port.socket.close()
        # An abstract name is no file.
        self.opened = ([duplicate], name if isinstance(name, str) else "")
        return None

    def adoptStreamPort(self, descriptor: int, family: int, factory: IProtocolFactory) -> Any:
        """Take a socket that a service manager has opened; it stays its own."""
        duplicate = socket.socket(family, socket.SOCK_STREAM, fileno=os.dup(descriptor))
        duplicate.setblocking(False)
        self.opened = ([duplicate], "")
        return None


def open_endpoint(opener: SocketOpener, endpoint: ListeningEndpoint, label: str) -> OpenEndpoint:
    """Open the sockets of an endpoint that was made with an opener as its reactor.

    :param label: what chooses the endpoint, for the error: ``--listen``.
    :raises StartupError: if they cannot be opened.
    """
    opener.opened = ([], "")
    factory = Factory()
    factory.noisy = False
    open_ports([endpoint], factory, label)
    sockets, path = opener.opened
    if not sockets:
        raise StartupError(
            f"cannot listen on {endpoint.description}: several workers cannot share an endpoint"
            " of this kind"
        )
    for one in sockets:
        if one.family in (socket.AF_INET, socket.AF_INET6):
            probe_idle(one)
    return OpenEndpoint(endpoint.description, sockets, path)


def reuseport_sockets(interface: str, port: int, backlog: int, count: int) -> list[socket.socket]:
    """Return listening TCP sockets of one address, over which the kernel spreads connections.

    The first one is bound and listens without ``SO_REUSEPORT``, which shows that no other process
    has the port: with it, the kernel would let both share the port. Then it takes the option, and
    so do the others.

    :param port: 0 for any; all have the same.
    :raises OSError: if the port is in use, or cannot be bound.
    """
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    address: Any = (interface, port)
    if family == socket.AF_INET6:
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        found = socket.getaddrinfo(interface, port, family, socket.SOCK_STREAM, 0, numeric)
        address = found[0][4]
    sockets: list[socket.socket] = []
    try:
        for number in range(count):
            one = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(one)
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if number:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(address)
            one.listen(backlog)
            if not number:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                address = one.getsockname()
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def open_endpoints(
    opener: SocketOpener,
    endpoints: Iterable[ListeningEndpoint],
    present: Iterable[OpenEndpoint],
    label: str,
) -> list[OpenEndpoint]:
    """Return the open sockets of all endpoints, or of none.

    :param endpoints: made with the opener as their reactor.
    :param present: those that are open already; they are used again.
    :param label: as of `open_endpoint`.
    :raises StartupError: if one cannot be opened.
    """
    kept = {one.description: one for one in present}
    opened: list[OpenEndpoint] = []
    new: list[OpenEndpoint] = []
    try:
        for endpoint in endpoints:
            one = kept.pop(endpoint.description, None)
            if one is None:
                one = open_endpoint(opener, endpoint, label)
                new.append(one)
            opened.append(one)
    except BaseException:
        for one in new:
            one.close()
        raise
    return opened
