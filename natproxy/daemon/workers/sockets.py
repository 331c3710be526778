"""Listening sockets that another process, or program, has opened: how they are inherited.

A worker adopts the sockets that its master has opened, and a master those of the program that it
has replaced. All sockets are non-blocking: a worker must not wait in ``accept`` for a connection
that another one has taken.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from natproxy.daemon.listening import ListeningEndpoint
from natproxy.daemon.service import open_ports


class InheritedEndpoint(NamedTuple):
    """The open sockets of an endpoint, as a worker inherits them.

    :ivar description: the endpoint string.
    :ivar family: the address family of the sockets.
    :ivar descriptors: one for each worker, or one that all share.
    """

    description: str
    family: int
    descriptors: tuple[int, ...]

    def descriptor(self, worker: int) -> int:
        """Return the socket of a worker."""
        return self.descriptors[worker if len(self.descriptors) > 1 else 0]

    @property
    def shared(self) -> bool:
        """Whether all workers accept from one socket."""
        return len(self.descriptors) == 1


def remove_socket(path: str) -> None:
    """Remove the file of a UNIX socket, and the lock of Twisted's port beside it."""
    for each in (path, f"{path}.lock"):
        with suppress(OSError):
            os.unlink(each)


def adopt(
    reactor: Any,
    endpoint: InheritedEndpoint,
    worker: int,
    factory: IProtocolFactory,
    owned: bool = False,
) -> IListeningPort:
    """Accept connections from an inherited socket; the descriptor itself stays open.

    The returned port never shuts the socket down, since others have it too.

    :param worker: whose socket it is.
    :param factory: makes the protocol of each connection; wrapped already.
    :param owned: whether the file of a UNIX socket is removed at the end.
    """
    descriptor = endpoint.descriptor(worker)
    if endpoint.family == socket.AF_UNIX:
        port = InheritedUNIXPort(descriptor, factory, reactor, owned)
        port.startListening()
        return cast(IListeningPort, port)
    adopted: IListeningPort = reactor.adoptStreamPort(descriptor, endpoint.family, factory)
    return adopted


def open_or_adopt(
    reactor: Any,
    endpoints: Sequence[ListeningEndpoint],
    inherited: Mapping[str, InheritedEndpoint],
    factory: IProtocolFactory,
    label: str,
) -> list[IListeningPort]:
    """Return the ports of endpoints that are this process's alone, all of them or none.

    :param inherited: by description, the sockets of the program that it has replaced. They are
        used, or closed.
    :param factory: makes the protocol of each connection; it is wrapped.
    :param label: what chooses the endpoints, for the error.
    :raises StartupError: if one of them can't be listened on.
    """
    left = dict(inherited)
    ports: list[IListeningPort] = []
    try:
        for endpoint in endpoints:
            one = left.pop(endpoint.description, None)
            if one is None:
                ports += open_ports([endpoint], factory, label)
                continue
            ports.append(adopt(reactor, one, 0, endpoint.wrap(factory), owned=True))
            os.close(one.descriptor(0))
    except BaseException:
        for port in ports:
            port.stopListening()
        raise
    finally:
        for one in left.values():
            with socket.socket(fileno=one.descriptor(0)) as listening:
                if one.family == socket.AF_UNIX:
                    remove_socket(listening.getsockname())
    return ports


class InheritedUNIXPort(unix.Port):
    """Accepts from an inherited UNIX socket.

    Twisted's port would set the mode of the socket's file again, and remove the file at its end.

    :param descriptor: of the socket; it is duplicated.
    :param factory: makes the protocol of each connection.
    :param reactor: accepts.
    :param owned: whether the file is removed at the end; in a worker, it is the master's.
    """

    _shouldShutdown = False

    def __init__(
        self, descriptor: int, factory: IProtocolFactory, reactor: Any, owned: bool = False
    ) -> None:
        self._owned = owned
        self._inherited = socket.socket(socket.AF_UNIX, fileno=os.dup(descriptor))
        path = os.fsencode(self._inherited.getsockname())
        super().__init__(path, factory, reactor=reactor)

    def startListening(self) -> None:
        """Accept connections from now on."""
        # For connections beyond the limit of descriptors, as the port of Twisted.
        tcp._reservedFD.reserve()
        cast(Any, self.factory).doStart()
        self.connected = True
        self.socket = self._inherited
        self.fileno = self._inherited.fileno  # type: ignore[method-assign]
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Any) -> None:
        """Close this process's copy of the socket, and remove the file if it is its own."""
        if self._owned:
            remove_socket(os.fsdecode(self._inherited.getsockname()))
        tcp.Port.connectionLost(self, reason)
