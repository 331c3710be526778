"""Connecting through a client endpoint, and the choice of a connector."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from twisted.internet import error
from twisted.internet.abstract import isIPAddress
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IProtocolFactory,
    IReactorFDSet,
    IReactorPluggableNameResolver,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure

from natproxy.proxy.interfaces import ConnectionFactory, Connector
from natproxy.proxy.resolution import AddressCache, NamingReactor
from natproxy.proxy.sources import BindingReactor, Sources
from natproxy.proxy.tcp import TCPConnector

ATTEMPT_DELAY = 0.25
"""Seconds between two attempts to connect to addresses of one name (RFC 8305)."""

_NUMERIC_TCP = re.compile(r"tcp:(?:host=)?(\d{1,3}(?:\.\d{1,3}){3}):(?:port=)?(\d{1,5})")
_NAMED = re.compile(
    r"(?:tcp|tls|ssl):(?:host=)?([A-Za-z0-9._-]+):(?:port=)?(\d{1,5})(?=:|$)", re.IGNORECASE
)
_NAMED_TCP = re.compile(r"tcp:(?:host=)?([A-Za-z0-9._-]+):(?:port=)?(\d{1,5})")


class EndpointConnector:
    """Connects by any client endpoint; see `Connector`.

    :param timeout: seconds that a connection may take.
    :param connected: called with the address of each connection that is made.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        timeout: float,
        connected: Callable[[str], object] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._connected = connected
        self.timeout = timeout

    def connect(self, factory: ConnectionFactory) -> Callable[[], object]:
        """Begin to connect; see `Connector`."""
        cancelled = False

        def failed(reason: Failure) -> None:
            if not cancelled:
                factory.clientConnectionFailed(None, reason)

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            connecting.cancel()

        def note(protocol: Any) -> None:
            assert self._connected is not None
            self._connected(getattr(protocol.transport.getPeer(), "host", ""))

        connecting: Deferred[Any] = self._endpoint.connect(cast(IProtocolFactory, factory))
        if self._connected is not None:
            connecting.addCallback(note)
        connecting.addTimeout(
            self.timeout, self._clock, lambda *_: Failure(error.TimeoutError())
        ).addErrback(failed)
        return cancel


class NamedTCPConnector:
    """Connects to a host that is known by name: by the fast connect, if that succeeds.

    If the address that is to be tried first is one of IPv4, it is connected to as a numeric one. If
    that fails, or takes longer than `ATTEMPT_DELAY`, all addresses are tried (RFC 8305).

    :param addresses: returns the addresses, in the order to try them; none if they are not known.
    :param every: connects to all of them.
    :param sources: local addresses to connect from; ``None`` to let the kernel choose.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        addresses: Callable[[], Sequence[Any]],
        every: EndpointConnector,
        sources: Sources | None,
    ) -> None:
        self.timeout = every.timeout
        self.sources = sources
        self._reactor = reactor
        self._addresses = addresses
        self._every = every

    def connect(self, factory: ConnectionFactory) -> Callable[[], object]:
        """Begin to connect; see `Connector`."""
        addresses = self._addresses()
        first = addresses[0] if addresses else None
        if not isinstance(first, IPv4Address):
            return self._every.connect(factory)
        alone = len(addresses) == 1
        timeout = self.timeout if alone else min(ATTEMPT_DELAY, self.timeout)
        connector = TCPConnector(self._reactor, first.host, first.port, timeout, self.sources)
        if alone:
            return connector.connect(factory)
        attempt = _FirstAttempt(factory, self._every)
        attempt.begin(connector)
        return attempt.cancel


class _FirstAttempt:
    """The attempt to connect to the first address; all of them are tried if it fails."""

    def __init__(self, factory: ConnectionFactory, every: EndpointConnector) -> None:
        self._factory = factory
        self._every = every
        self._cancel: Callable[[], object] | None = None

    def begin(self, connector: Connector) -> None:
        """Begin to connect to the first address."""
        cancel = connector.connect(self)
        # It may have failed by now.
        if self._cancel is None:
            self._cancel = cancel

    def cancel(self) -> None:
        """Cancel the attempt that is under way."""
        if self._cancel is not None:
            self._cancel()

    def buildProtocol(self, addr: Any) -> Any:
        """Return the protocol of the connection to the first address."""
        return self._factory.buildProtocol(addr)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        """Try all addresses."""
        self._cancel = self._every.connect(self._factory)


def connector_for(
    description: str,
    endpoint: IStreamClientEndpoint,
    reactor: object,
    timeout: float,
    sources: Sources | None = None,
    names: AddressCache | None = None,
) -> Connector:
    """Return the connector of an upstream.

    :param description: the string from which the endpoint was made.
    :param reactor: provides ``IReactorTime``; other interfaces allow other connectors.
    :param timeout: seconds that a connection may take.
    :param sources: local addresses to connect from, with which the endpoint was made as well.
    :param names: the resolver of the reactor with which it was made, if it is this one.
    """
    numeric = _NUMERIC_TCP.fullmatch(description)
    if (
        numeric
        and isIPAddress(numeric[1])
        and 0 < int(numeric[2]) < 65536
        and IReactorFDSet.providedBy(reactor)
    ):
        return TCPConnector(reactor, numeric[1], int(numeric[2]), timeout, sources)
    named = _NAMED_TCP.fullmatch(description)
    if named and not numeric and IReactorPluggableNameResolver.providedBy(reactor):
        # Twisted's own endpoint for ``tcp:`` tries one IPv4 address of the name, and no other.
        endpoint = HostnameEndpoint(
            connecting_reactor(reactor, sources, names),
            named[1],
            int(named[2]),
            timeout,
            attemptDelay=ATTEMPT_DELAY,
        )
    at = _NAMED.match(description)
    prefer = None if names is None or at is None else partial(names.prefer, at[1], int(at[2]))
    connector = EndpointConnector(endpoint, cast(IReactorTime, reactor), timeout, prefer)
    if named and names is not None and IReactorFDSet.providedBy(reactor):
        addresses = partial(names.to_connect, named[1], int(named[2]))
        return NamedTCPConnector(reactor, addresses, connector, sources)
    return connector


def connecting_reactor(
    reactor: Any, sources: Sources | None = None, names: AddressCache | None = None
) -> Any:
    """Return what endpoints of upstreams connect with.

    :param sources: local addresses to connect from; ``None`` to let the kernel choose.
    :param names: the resolver of names; ``None`` for that of the reactor.
    """
    if sources is not None:
        reactor = BindingReactor(reactor, sources)
    if names is not None and IReactorPluggableNameResolver.providedBy(reactor):
        reactor = NamingReactor(reactor, names)
    return reactor
