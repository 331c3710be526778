"""Connections of observers: bounded, and closed at the end."""

from __future__ import annotations

from twisted.internet.address import UNIXAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.observers import CLOSING, ObserverFactory
from tests.support.doubles import Journal

ADDRESS = UNIXAddress(None)


class Wire(StringTransport):
    """A transport that closes when the test says so."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class ObserverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.factory = ObserverFactory(self.clock, 2, "control socket")
        self.site = Factory.forProtocol(Protocol)

    def connect(self) -> tuple[Protocol, Wire] | None:
        protocol = self.factory.buildProtocol(ADDRESS)
        if protocol is None:
            return None
        wire = Wire()
        protocol.makeConnection(wire)
        return protocol, wire

    def connected(self) -> tuple[Protocol, Wire]:
        connection = self.connect()
        assert connection is not None
        return connection

    def lose(self, protocol: Protocol) -> None:
        protocol.connectionLost(Failure(Exception("closed")))

    def test_connection_before_there_is_a_site_is_closed(self) -> None:
        self.assertIsNone(self.connect())
        self.factory.serve(self.site)
        self.assertEqual(self.site.numPorts, 1)
        self.assertIsNotNone(self.connect())

    def test_one_too_many_is_closed_and_logged(self) -> None:
        self.factory.serve(self.site)
        journal = Journal(self)
        protocol, _ = self.connected()
        self.connected()
        self.assertIsNone(self.connect())
        self.assertIsNone(self.connect())
        self.assertEqual(journal.lines(), ["control socket: connection refused: 2 are open"])
        self.lose(protocol)
        self.assertEqual(len(self.factory), 1)
        self.assertIsNotNone(self.connect())

    def test_close_without_connections(self) -> None:
        self.factory.serve(self.site)
        self.successResultOf(self.factory.close())
        self.assertEqual(self.site.numPorts, 0)
        self.assertIsNone(self.connect())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_lets_each_read_the_rest(self) -> None:
        self.factory.serve(self.site)
        protocol, wire = self.connected()
        closed = self.factory.close()
        self.assertTrue(wire.disconnecting)
        self.assertFalse(wire.aborted)
        self.assertNoResult(closed)
        self.lose(protocol)
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_connection_that_does_not_read_is_aborted(self) -> None:
        self.factory.serve(self.site)
        protocol, wire = self.connected()
        closed = self.factory.close()
        self.clock.advance(CLOSING)
        self.assertTrue(wire.aborted)
        self.lose(protocol)
        self.successResultOf(closed)
