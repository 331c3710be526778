"""A daemon as a service, on a reactor in memory with ports that are played."""

from __future__ import annotations

import errno
import sys

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from natproxy.daemon import service
from natproxy.daemon.service import DrainingService
from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.factory import ProxyFactory
from natproxy.server.connection import CommandReceiver
from tests.support.daemons import DaemonReactor
from tests.support.doubles import PlayedEndpoint, Wire

IN_USE = OSError(errno.EADDRINUSE, "Address already in use")


@implementer(IListeningPort)
class PlayedPort:
    """A listening port that can take its time to close."""

    def __init__(self) -> None:
        self.listening = True
        self.closed: Deferred[None] | None = None

    def startListening(self) -> None:
        self.listening = True

    def stopListening(self) -> Deferred[None] | None:
        self.listening = False
        return self.closed

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 9000)


@implementer(IStreamServerEndpoint)
class PlayedListener:
    """An endpoint that can be listened on, or fails."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.error: Exception | None = None
        self.port = PlayedPort()
        self.times = 0

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        self.times += 1
        return succeed(self.port) if self.error is None else fail(self.error)


class ServiceCase(SynchronousTestCase):
    """A proxy's service with two endpoints and 30 seconds to drain."""

    def setUp(self) -> None:
        self.raised: list[bool] = []
        self.patch(service, "raise_limit", lambda: self.raised.append(True))
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        self.reactor = DaemonReactor()
        self.upstream = PlayedEndpoint()
        self.factory = ProxyFactory(
            self.reactor, EndpointConnector(self.upstream, self.reactor, 5.0)
        )
        self.first = PlayedListener("tcp:1")
        self.second = PlayedListener("tcp:2")
        self.service = DrainingService(
            [self.first, self.second],
            self.factory,
            30.0,
            self.reactor,
            details="the proxy in front of tcp:upstream:1",
        )

    def client(self, commands: bytes = b"") -> tuple[CommandReceiver, Wire]:
        """Connect a client that sends commands."""
        wire = Wire(9000, 40_000 + len(self.factory.connections))
        protocol = self.factory.buildProtocol(wire.getPeer())
        protocol.makeConnection(wire)
        if commands:
            protocol.dataReceived(commands)
        return protocol, wire

    def assert_clock_is_idle(self) -> None:
        self.assertEqual([call for call in self.reactor.getDelayedCalls() if call.active()], [])
