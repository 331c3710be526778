"""Stand-ins for the network: transports with addresses, an upstream one can play."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from zope.interface import implementer


class Wire(StringTransport):
    """A transport that notes how it was ended, and can be lost like a real one."""

    def __init__(self, host_port: int, peer_port: int) -> None:
        super().__init__(
            hostAddress=IPv4Address("TCP", "127.0.0.1", host_port),
            peerAddress=IPv4Address("TCP", "127.0.0.1", peer_port),
        )
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    @property
    def open(self) -> bool:
        """Whether our side has neither closed nor aborted it."""
        return not (self.disconnecting or self.aborted)

    def taken(self) -> bytes:
        """Give what has been written since the last call."""
        data = self.value()
        self.clear()
        return data


class Upstream:
    """One connection that the proxy has asked for, as seen from the file server."""

    def __init__(self, factory: IProtocolFactory, local_port: int) -> None:
        self.factory = factory
        self.cancelled = False
        self.connected: Deferred[IProtocol] = Deferred(lambda _: setattr(self, "cancelled", True))
        self.wire = Wire(local_port, 9001)
        self.protocol: IProtocol | None = None

    def accept(self) -> None:
        """Accept the connection."""
        self.protocol = self.factory.buildProtocol(self.wire.getPeer())
        self.protocol.makeConnection(self.wire)
        self.connected.callback(self.protocol)

    def refuse(self, error: Exception) -> None:
        """Let the connect fail."""
        self.connected.errback(error)


@implementer(IStreamClientEndpoint)
class PlayedEndpoint:
    """An upstream endpoint whose every connection a test plays by hand."""

    def __init__(self) -> None:
        self.connections: list[Upstream] = []

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        upstream = Upstream(factory, 50_000 + len(self.connections))
        self.connections.append(upstream)
        return upstream.connected

    @property
    def last(self) -> Upstream:
        """The newest connection."""
        return self.connections[-1]
