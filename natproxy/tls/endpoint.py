"""Connections by TLS that are made once the server is verified."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IStreamClientEndpoint)
class VerifiedEndpoint:
    """Makes no protocol before the handshake: a connection that is refused has not been made.

    With Twisted's own wrapper, it would look like one that the server closes without a reply.

    :param endpoint: connects by TCP.
    :param tls: of its connections.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, tls: IOpenSSLClientConnectionCreator
    ) -> None:
        self._endpoint = wrapClientTLS(tls, endpoint)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; see ``IStreamClientEndpoint``. Fails with the error of TLS as well."""
        connecting: Deferred[Any] = self._endpoint.connect(_HandshakeFactory(protocolFactory))
        return connecting.addCallback(lambda waiting: waiting.verified)


class _HandshakeFactory(Factory):
    noisy = False

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory

    def buildProtocol(self, addr: IAddress | None) -> _Handshake:
        return _Handshake(self._factory, addr)


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """Waits for the handshake, and then puts another protocol in its own place."""

    transport: Any

    def __init__(self, factory: IProtocolFactory, address: IAddress | None) -> None:
        self._following = factory
        self._address = address
        self.verified: Deferred[IProtocol] = Deferred(lambda _: self.transport.abortConnection())
        self._waiting = True

    def handshakeCompleted(self) -> None:
        self._waiting = False
        protocol = self._following.buildProtocol(cast(IAddress, self._address))
        if protocol is None:
            self.transport.abortConnection()
            self.verified.errback(ConnectionAborted())
            return
        self.transport.wrappedProtocol = protocol
        protocol.makeConnection(self.transport)
        self.verified.callback(protocol)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._waiting:
            self.verified.errback(reason)
