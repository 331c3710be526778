"""One attempt of a command: the factory of its upstream connection."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from natproxy.address import Address
from natproxy.protocol import PROXY_ERROR
from natproxy.proxy.attempted import Attempted
from natproxy.proxy.failure import Kind, Loss, explain
from natproxy.proxy.upstream import UpstreamProtocol
from natproxy.proxy.upstreams import Upstream


class UpstreamFactory(ClientFactory):
    """Opens the upstream connection of one attempt of a command.

    :ivar exchange: the command.
    :ivar upstream: to which it connects.
    :ivar connected: true once a connection has been made, or the attempt has ended: a further
        connection is reset.
    """

    noisy = False

    def __init__(self, exchange: Attempted, upstream: Upstream) -> None:
        self.exchange = exchange
        self.upstream = upstream
        self.connected = False
        self._timeout = 0.0
        self._cancel: Callable[[], object] | None = None

    def connect(self) -> None:
        """Begin to connect."""
        connector = self.upstream.connector
        self._timeout = connector.timeout
        self._cancel = connector.connect(self)

    def cancel(self) -> None:
        """Cancel the attempt to connect; nothing is reported from then on."""
        self.connected = True
        if self._cancel is not None:
            self._cancel()

    def buildProtocol(  # type: ignore[override]  # as in `ProxyFactory`
        self, addr: IAddress | Address | None
    ) -> UpstreamProtocol:
        """Return the protocol of the upstream connection."""
        exchange = self.exchange
        upstream = addr if isinstance(addr, Address) else exchange.resources.address_of(addr)
        return UpstreamProtocol(self, exchange, upstream)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        """Report the failure to the command."""
        # There is nothing to be cancelled from here on.
        self.connected = True
        outcome, code, text, counts = explain(reason, self._timeout)
        message = PROXY_ERROR + text
        detail = reason.getErrorMessage()
        loss = Loss(Kind.UNREACHABLE, outcome, message, code, text, counts=counts, detail=detail)
        self.exchange.failed(loss, None)
