"""A proxy with doubles of its clients and of its upstream."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.interfaces import Connector
from natproxy.proxy.protocol import ProxyProtocol
from natproxy.proxy.upstreams import Target
from tests.support.doubles import Journal, PlayedEndpoint, Upstream, Wire


def sole(connector: Connector, header: bool = False) -> list[Target]:
    """Return the only upstream of a proxy, for `Upstreams.use`."""
    return [Target("upstream", "", connector, header)]


class ProxyCase(SynchronousTestCase):
    """A proxy with one client.

    :cvar options: of the factory, in addition to the usual ones.
    :cvar clock_type: the class of the clock.
    """

    options: dict[str, Any] = {}
    clock_type: type[Clock] = Clock

    def setUp(self) -> None:
        self.journal = Journal(self)
        self.clock = self.clock_type()
        self.endpoint = PlayedEndpoint()
        self.factory = ProxyFactory(
            self.clock, EndpointConnector(self.endpoint, self.clock, 5.0), **self.options
        )
        self.table = self.factory.table
        self.addCleanup(self.lose_clients)
        self.protocol, self.wire = self.new_client(43210)

    def new_client(self, port: int) -> tuple[ProxyProtocol, Wire]:
        """Connect a client."""
        wire = Wire(9000, port)
        protocol = self.factory.buildProtocol(wire.getPeer())
        protocol.makeConnection(wire)
        return protocol, wire

    def travelling(self, command: bytes = b"LIST\n") -> Upstream:
        """Send a command, accept its upstream connection, and return that connection."""
        before = len(self.endpoint.connections)
        self.protocol.dataReceived(command)
        self.assertEqual(len(self.endpoint.connections), before + 1)
        upstream = self.endpoint.last
        upstream.accept()
        upstream.wire.clear()
        return upstream

    def assert_usable(self) -> None:
        """Check that the client's connection is open, and that its next command succeeds."""
        self.assertTrue(self.wire.open)
        self.travelling(b"LIST\n").send(b"OK\nstill here\nEND\n")
        self.assertEqual(self.wire.taken(), b"OK\nstill here\nEND\n")

    def lose_clients(self) -> None:
        for connection in list(self.factory.connections):
            connection.transport.lose(connection)
        self.assertEqual(len(self.table), 0)
        self.assertEqual(self.factory.admission.admitted, 0)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])
        for upstream in self.endpoint.connections:
            self.assertTrue(upstream.protocol is None or upstream.wire.aborted)
            self.assertTrue(upstream.connected.called)
