"""The proxy's protocols against a played client and a played upstream."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.nat import EntryState
from natproxy.proxy import ProxyFactory
from tests.doubles import PlayedEndpoint, Wire


class ProxyCase(SynchronousTestCase):
    """A proxy with one client."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = PlayedEndpoint()
        self.factory = ProxyFactory(self.clock, self.endpoint)
        self.table = self.factory.table
        self.wire = Wire(9000, 43210)
        self.protocol = self.factory.buildProtocol(self.wire.getPeer())
        self.protocol.makeConnection(self.wire)
        self.addCleanup(self.lose_client)

    def lose_client(self) -> None:
        if self.protocol in self.factory.connections:
            self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(len(self.table), 0)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])


class OneCommandTests(ProxyCase):
    def test_command_travels_on_a_connection_of_its_own(self) -> None:
        self.protocol.dataReceived(b"DOWNLOAD a b\r\n")
        upstream = self.endpoint.last
        self.assertEqual(len(self.table), 0)
        upstream.accept()
        self.assertEqual(upstream.wire.taken(), b"DOWNLOAD a b\n")
        (entry,) = self.table.lookup(50_000)
        self.assertIs(entry.state, EntryState.REGISTERED)
        upstream.protocol.dataReceived(b"OK 5\nhel")
        self.assertIs(entry.state, EntryState.RELAYING)
        self.assertEqual(self.wire.taken(), b"OK 5\nhel")
        upstream.protocol.dataReceived(b"lo and more than promised")
        self.assertEqual(self.wire.taken(), b"lo")
        self.assertEqual(entry.relayed, 10)
        self.assertTrue(upstream.wire.aborted)
        self.assertTrue(self.wire.open)

    def test_refused_connection_leaves_the_client_usable(self) -> None:
        self.protocol.dataReceived(b"LIST\nLIST\n")
        self.endpoint.last.refuse(ConnectionRefusedError())
        self.assertEqual(self.wire.taken(), b"ERR proxy error: the server refuses connections\n")
        self.endpoint.last.accept()
        self.endpoint.last.protocol.dataReceived(b"OK\nEND\n")
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")
