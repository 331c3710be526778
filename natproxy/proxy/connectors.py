"""Upstream connections: how they are made, and why they could not be.

Any client endpoint will do. For the plain case, a TCP port of a numeric IPv4 address,
there is a shorter way that costs a command half as much: no resolver, no wrapping of
protocols, and where the kernel connects at once (loopback) no turn of the reactor.
Either way the `ClientFactory` builds the protocol, or hears of the failure.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet import error
from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorFDSet,
    IReactorPluggableNameResolver,
    IReactorSocket,
    IReactorTime,
    IStreamClientEndpoint,
    IWriteDescriptor,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.relay.descriptors import close_later

ATTEMPT_DELAY = 0.25
"""Seconds between two attempts to connect to addresses of one name (RFC 8305)."""

_PLAIN_TCP = re.compile(r"tcp:(?:host=)?(\d{1,3}(?:\.\d{1,3}){3}):(?:port=)?(\d{1,5})")
_NAMED_TCP = re.compile(r"tcp:(?:host=)?([A-Za-z0-9._-]+):(?:port=)?(\d{1,5})")
_CONNECTED = (0, errno.EISCONN)
_PENDING = (errno.EINPROGRESS, errno.EALREADY)


class Wanting(Protocol):
    """A factory that wants a connection: what is asked of a ``ClientFactory``."""

    def buildProtocol(self, addr: Any) -> Any:
        """Make the protocol of a connection that has been made."""
        ...

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        """Hear why there is no connection; ``connector`` is `None`."""
        ...


class Connector(Protocol):
    """Makes upstream connections.

    :ivar timeout: seconds that a connection may take.
    """

    timeout: float

    def connect(self, factory: Wanting) -> Callable[[], object]:
        """Begin to connect.

        The factory's ``buildProtocol`` or ``clientConnectionFailed`` is called, maybe
        before this returns.

        :return: gives the attempt up; nothing is called from then on.
        """
        ...


class EndpointConnector:
    """Connects by an endpoint.

    :param timeout: seconds that a connection may take.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, clock: IReactorTime, timeout: float
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self.timeout = timeout

    def connect(self, factory: Wanting) -> Callable[[], object]:
        """Begin to connect; see `Connector`."""
        given_up = False

        def failed(reason: Failure) -> None:
            if not given_up:
                factory.clientConnectionFailed(None, reason)

        def give_up() -> None:
            nonlocal given_up
            given_up = True
            connecting.cancel()

        connecting: Deferred[IProtocol] = self._endpoint.connect(cast(IProtocolFactory, factory))
        connecting.addTimeout(
            self.timeout, self._clock, lambda *_: Failure(error.TimeoutError())
        ).addErrback(failed)
        return give_up


class TCPConnector:
    """Connects to a numeric IPv4 address.

    :param reactor: also provides `IReactorSocket` and `IReactorTime`.
    :ivar address: where it connects to.
    :param timeout: seconds that a connection may take.
    """

    def __init__(self, reactor: IReactorFDSet, host: str, port: int, timeout: float) -> None:
        self._reactor = reactor
        self.address = (host, port)
        self.timeout = timeout

    def connect(self, factory: Wanting) -> Callable[[], object]:
        """Begin to connect; see `Connector`."""
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as lack:
            self._failed(factory, lack.errno or 0)
            return _nothing
        code = sock.connect_ex(self.address)
        if code == errno.EINPROGRESS:
            # On the loopback interface it is done by now: ask once more.
            code = sock.connect_ex(self.address)
        if code in _PENDING:
            return _Attempt(self, self._reactor, sock, factory, self.timeout).give_up
        self.ended(factory, sock, code)
        return _nothing

    def ended(self, factory: Wanting, sock: socket.socket, code: int) -> None:
        """Make the socket a transport, or report the system's error code."""
        with sock:
            if code in _CONNECTED:
                try:
                    # The transport has a descriptor of its own.
                    cast(IReactorSocket, self._reactor).adoptStreamConnection(
                        sock.fileno(), socket.AF_INET, cast(Any, factory)
                    )
                    return
                except OSError as lack:
                    # No descriptor is left, or the peer has hung up already.
                    code = lack.errno or errno.ENOTCONN
        self._failed(factory, code)

    def _failed(self, factory: Wanting, code: int) -> None:
        reason = error.getConnectError((code, os.strerror(code)))
        factory.clientConnectionFailed(None, Failure(reason))


@implementer(IWriteDescriptor)
class _Attempt:
    """A connection that the other side has not answered yet."""

    def __init__(
        self,
        connector: TCPConnector,
        reactor: IReactorFDSet,
        sock: socket.socket,
        factory: Wanting,
        timeout: float,
    ) -> None:
        self._connector = connector
        self._reactor = reactor
        self._socket = sock
        self._factory = factory
        self._over = False
        clock = cast(IReactorTime, reactor)
        self._timer: IDelayedCall = clock.callLater(timeout, self._end, errno.ETIMEDOUT)
        reactor.addWriter(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "connecting"

    def doWrite(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        # No error does not mean connected: the event may be an older descriptor's.
        code = code or self._socket.connect_ex(self._connector.address)
        if code not in _PENDING:
            self._end(code)

    def connectionLost(self, reason: Failure) -> None:
        if not self._over:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._end(code or errno.ENOTCONN)

    def give_up(self) -> None:
        if not self._over:
            self._stop()
            close_later(self._reactor, self._socket.detach())

    def _stop(self) -> None:
        self._over = True
        self._reactor.removeWriter(self)
        if self._timer.active():
            self._timer.cancel()

    def _end(self, code: int) -> None:
        if not self._over:
            self._stop()
            self._connector.ended(self._factory, self._socket, code)


def _nothing() -> None:
    """Give up what has ended already."""


def connector_for(
    description: str, endpoint: IStreamClientEndpoint, reactor: object, timeout: float
) -> Connector:
    """Choose how to connect.

    :param description: what the endpoint was made of.
    :param reactor: provides `IReactorTime`, and perhaps more.
    :param timeout: seconds that a connection may take.
    """
    plain = _PLAIN_TCP.fullmatch(description)
    if (
        plain
        and _is_address(plain[1], int(plain[2]))
        and IReactorFDSet.providedBy(reactor)
        and IReactorSocket.providedBy(reactor)
    ):
        return TCPConnector(cast(IReactorFDSet, reactor), plain[1], int(plain[2]), timeout)
    named = _NAMED_TCP.fullmatch(description)
    if named and not plain and IReactorPluggableNameResolver.providedBy(reactor):
        # Twisted's own endpoint for ``tcp:`` tries one IPv4 address of the name, and no other.
        endpoint = HostnameEndpoint(
            reactor, named[1], int(named[2]), timeout, attemptDelay=ATTEMPT_DELAY
        )
    return EndpointConnector(endpoint, cast(IReactorTime, reactor), timeout)


def _is_address(host: str, port: int) -> bool:
    return isIPAddress(host) and 0 < port < 65536


_TIMEOUTS = (error.TimeoutError, error.TCPTimedOutError)

_FAILURES = (
    (error.ConnectionRefusedError, "the server refuses connections"),
    (error.DNSLookupError, "the server's name cannot be resolved"),
    (error.NoRouteError, "there is no route to the server"),
)

_OWN_LACK: dict[int | None, str] = {
    errno.EADDRNOTAVAIL: "the proxy has no free port left",
    errno.EMFILE: "the proxy has no free descriptor left",
    errno.ENFILE: "the proxy's system has no free descriptor left",
}


def timed_out(failure: Failure) -> bool:
    """Tell whether a connection was not made because it took too long."""
    return failure.check(*_TIMEOUTS) is not None


def in_plain_words(failure: Failure, timeout: float) -> str:
    """Say, for a client, why the upstream could not be reached.

    :param timeout: seconds that it had.
    """
    if timed_out(failure):
        return f"the server did not accept a connection within {timeout:g} s"
    for kind, words in _FAILURES:
        if failure.check(kind):
            return words
    code = getattr(failure.value, "osError", None)
    return _OWN_LACK.get(code, "cannot connect to the server")
