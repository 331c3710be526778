"""Connecting through a client endpoint, and the choice of a connector."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet import error
from twisted.internet.abstract import isIPAddress
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
    return EndpointConnector(endpoint, cast(IReactorTime, reactor), timeout, prefer)


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
