"""The fast connect: a TCP connection to a numeric IPv4 address.

It exists because every command makes a connection. On loopback the kernel connects at once, and
the transport is made in the same call, without a turn of the reactor and without the wrappers of
an endpoint. `natproxy.proxy.transport` is the transport.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import cast

from twisted.internet import error
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorFDSet,
    IReactorTime,
    IWriteDescriptor,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.address import Address
from natproxy.proxy.interfaces import ConnectionFactory
from natproxy.proxy.sources import Sources
from natproxy.proxy.transport import UpstreamTransport
from natproxy.relay.descriptors import close_later

_CONNECTED = (0, errno.EISCONN)
_PENDING = (errno.EINPROGRESS, errno.EALREADY)
_NONBLOCKING_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


class TCPConnector:
    """Connects to a numeric IPv4 address; see `natproxy.proxy.interfaces.Connector`.

    :param reactor: also provides ``IReactorTime``.
    :ivar address: where it connects to.
    :param timeout: seconds that a connection may take.
    :ivar sources: local addresses to connect from; ``None`` for the one that the kernel chooses.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorFDSet,
        host: str,
        port: int,
        timeout: float,
        sources: Sources | None = None,
    ) -> None:
        self._reactor = reactor
        self.address = Address(host, port)
        self.timeout = timeout
        self.sources = sources

    def connect(self, factory: ConnectionFactory) -> Callable[[], object]:
        """Begin to connect; see `Connector`."""
        try:
            # The class in C that ``socket.socket`` extends: the methods in Python are not used.
            sock = socket.SocketType(socket.AF_INET, _NONBLOCKING_STREAM)
        except OSError as failure:
            self._failed(factory, failure.errno or 0)
            return _already_ended
        if self.sources is None:
            code = sock.connect_ex(self.address)
        else:
            code = self.sources.connect(sock, self.address)
        if code == errno.EINPROGRESS:
            # On the loopback interface the connection is made by now.
            code = sock.connect_ex(self.address)
        if code in _PENDING:
            return _Attempt(self, self._reactor, sock, factory, self.timeout).cancel
        self.attempt_ended(factory, sock, code)
        return _already_ended

    def attempt_ended(self, factory: ConnectionFactory, sock: socket.SocketType, code: int) -> None:
        """Make the transport of a connected socket and its protocol; or report an error.

        :param sock: owned by the transport from here on, or closed.
        :param code: the system's error number; 0 for none.
        """
        if code not in _CONNECTED:
            sock.close()
            self._failed(factory, code)
            return
        try:
            protocol = factory.buildProtocol(self.address)
            transport = UpstreamTransport(sock, self.address, protocol, self._reactor)
            self._reactor.addReader(transport)
        except Exception:
            sock.close()
            factory.clientConnectionFailed(None, Failure())
            return
        try:
            protocol.makeConnection(transport)
        except Exception:
            # The protocol is notified of the reset.
            self._log.failure("cannot begin on a connection to {upstream}", upstream=self.address)
            transport.abortConnection()

    def _failed(self, factory: ConnectionFactory, code: int) -> None:
        reason = error.getConnectError((code, os.strerror(code)))
        factory.clientConnectionFailed(None, Failure(reason))


@implementer(IWriteDescriptor)
class _Attempt:
    """An attempt to connect that waits for the upstream to accept."""

    def __init__(
        self,
        connector: TCPConnector,
        reactor: IReactorFDSet,
        sock: socket.SocketType,
        factory: ConnectionFactory,
        timeout: float,
    ) -> None:
        self._connector = connector
        self._reactor = reactor
        self._socket = sock
        self._factory = factory
        self._ended = False
        clock = cast(IReactorTime, reactor)
        self._timer: IDelayedCall = clock.callLater(timeout, self._finish, errno.ETIMEDOUT)
        reactor.addWriter(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "connecting"

    def doWrite(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        # Success is not certain without an error: the event may be for an earlier socket with
        # the same descriptor.
        code = code or self._socket.connect_ex(self._connector.address)
        if code not in _PENDING:
            self._finish(code)

    def connectionLost(self, reason: Failure) -> None:
        if not self._ended:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._finish(code or errno.ENOTCONN)

    def cancel(self) -> None:
        if not self._ended:
            self._stop()
            close_later(self._reactor, self._socket.detach())

    def _stop(self) -> None:
        self._ended = True
        self._reactor.removeWriter(self)
        if self._timer.active():
            self._timer.cancel()

    def _finish(self, code: int) -> None:
        if not self._ended:
            self._stop()
            self._connector.attempt_ended(self._factory, self._socket, code)


def _already_ended() -> None:
    """Do nothing: the attempt has ended."""
