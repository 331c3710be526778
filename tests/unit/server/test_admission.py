"""Limits on clients, in total and from one host, and how other connections are refused."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.fileserver.factory import FileServerFactory
from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.factory import ProxyFactory
from natproxy.server.admission import (
    REFUSED,
    TOO_FAST,
    TOO_MANY,
    TOO_MANY_OF_HOST,
    Admission,
    Arrivals,
    share_of,
)
from natproxy.server.factory import LINGER
from natproxy.server.refusal_log import REFUSAL_INTERVAL
from natproxy.storage import LocalStorage
from tests.support.doubles import HalfClosingWire, Journal, PlayedEndpoint


def at(host: str, port: int = 40_000) -> Address:
    return Address(host, port)


class AdmissionTests(SynchronousTestCase):
    def test_limit_in_total(self) -> None:
        admission = Admission(2)
        self.assertIsNone(admission.enter("a"))
        self.assertIsNone(admission.enter("b"))
        refusal = admission.enter("c")
        self.assertEqual(refusal, ("too many clients", True))
        self.assertEqual(admission.admitted, 2)
        admission.leave("c")
        self.assertIsNotNone(admission.enter("d"))
        admission.leave("a")
        self.assertIsNone(admission.enter("e"))

    def test_limit_of_a_host(self) -> None:
        admission = Admission(10, 1)
        self.assertIsNone(admission.enter("a", at("10.0.0.1")))
        refusal = admission.enter("b", at("10.0.0.1"))
        self.assertEqual(refusal, ("too many connections from this address", True))
        self.assertIsNone(admission.enter("c", at("10.0.0.2")))
        self.assertEqual(admission.admitted, 2)
        admission.leave("a")
        self.assertIsNone(admission.enter("d", at("10.0.0.1")))

    def test_refused_connection_does_not_count(self) -> None:
        admission = Admission(3, 1)
        admission.enter("a", at("10.0.0.1"))
        for number in range(10):
            self.assertIsNotNone(admission.enter(number, at("10.0.0.1")))
        self.assertIsNone(admission.enter("b", at("10.0.0.2")))
        self.assertIsNone(admission.enter("c", at("10.0.0.3")))

    def test_unix_peers_are_exempt(self) -> None:
        admission = Admission(10, 1)
        for number in range(3):
            self.assertIsNone(admission.enter(number, at("unix", FIRST_STAND_IN_PORT + number)))

    def test_no_limit_of_a_host(self) -> None:
        admission = Admission(100, 0)
        for number in range(100):
            self.assertIsNone(admission.enter(number, at("10.0.0.1")))

    def test_address_that_becomes_known_later(self) -> None:
        admission = Admission(10, 1)
        self.assertIsNone(admission.enter("a"))
        self.assertIsNone(admission.enter("b"))
        self.assertIsNone(admission.identify("a", at("10.0.0.1")))
        self.assertIsNotNone(admission.identify("b", at("10.0.0.1")))
        self.assertEqual(admission.admitted, 1)
        self.assertIsNone(admission.identify("stranger", at("10.0.0.9")))

    def test_refused_connections_are_bounded(self) -> None:
        admission = Admission(1, 1)
        admission.enter("a", at("10.0.0.1"))
        for number in range(REFUSED):
            self.assertFalse(admission.overloaded(at("10.0.0.1")))
            self.assertEqual(admission.enter(number, at("10.0.0.1")), ("too many clients", True))
        self.assertTrue(admission.overloaded(at("10.0.0.1")))
        self.assertEqual(admission.enter("b", at("10.0.0.1")), ("too many clients", False))
        admission.leave(0)
        self.assertFalse(admission.overloaded(at("10.0.0.1")))

    def test_other_hosts_are_admitted_while_one_is_refused(self) -> None:
        admission = Admission(100, 1)
        admission.enter("a", at("10.0.0.1"))
        for number in range(REFUSED):
            admission.enter(number, at("10.0.0.1"))
        self.assertTrue(admission.overloaded(at("10.0.0.1")))
        self.assertFalse(admission.overloaded(at("10.0.0.2")))

    def test_nothing_is_kept_of_clients_that_have_left(self) -> None:
        admission = Admission(2, 2)
        for client in "abc":
            admission.enter(client, at("10.0.0.1"))
        for client in "abcd":
            admission.leave(client)
        self.assertEqual(
            (admission._admitted, admission._refused, dict(admission._hosts)), ({}, set(), {})
        )

    def test_share_of_one_host(self) -> None:
        self.assertEqual([share_of(n) for n in (1, 100, 160, 10_000)], [16, 16, 16, 1000])


class ConnectionCase(SynchronousTestCase):
    """Connects clients to either daemon's factory."""

    def setUp(self) -> None:
        self.journal = Journal(self)
        self.clock = Clock()

    def proxy(self, **options: Any) -> ProxyFactory:
        connector = EndpointConnector(PlayedEndpoint(), self.clock, 5.0)
        return ProxyFactory(self.clock, connector, **options)

    def file_server(self, **options: Any) -> FileServerFactory:
        return FileServerFactory(
            self.clock, LocalStorage(self.mktemp()), lambda *_: Deferred(), 600.0, **options
        )

    def connect(self, factory: Any, host: str = "10.0.0.1") -> tuple[Any, HalfClosingWire]:
        wire = HalfClosingWire(9000, 40_000)
        kind = IPv6Address if ":" in host else IPv4Address
        wire.peerAddr = kind("TCP", host, 40_000)
        protocol = factory.buildProtocol(wire.peerAddr)
        assert protocol is not None
        protocol.makeConnection(wire)
        return protocol, wire


class LimitTests(ConnectionCase):
    def test_each_daemon_refuses_with_an_error_of_its_own(self) -> None:
        for factory, reply in (
            (self.proxy(admission=Admission(1)), b"ERR proxy error: too many clients\n"),
            (self.file_server(admission=Admission(1)), b"ERR 503 too many clients\n"),
        ):
            self.connect(factory)
            protocol, wire = self.connect(factory)
            self.assertEqual(wire.taken(), reply)
            self.assertTrue(wire.half_closed)
            wire.lose(protocol)
            self.assertEqual(factory.admission.admitted, 1)

    def test_host_with_too_many_connections_is_refused(self) -> None:
        factory = self.proxy(admission=Admission(10, 1))
        self.connect(factory, "2001:db8::1")
        _, wire = self.connect(factory, "2001:db8::2")
        self.assertEqual(wire.taken(), b"ERR proxy error: too many connections from this address\n")
        _, other = self.connect(factory, "2001:db8:0:1::1")
        self.assertEqual(other.taken(), b"")
        self.journal.line_with("[2001:db8::2]:40000 refused: too many connections")

    def test_connection_is_closed_at_once_while_too_many_are_being_refused(self) -> None:
        for factory in (
            self.proxy(admission=Admission(1)),
            self.file_server(admission=Admission(1)),
        ):
            self.connect(factory)
            refused = [self.connect(factory) for _ in range(REFUSED)]
            peer = IPv4Address("TCP", "10.0.0.1", 40_000)
            self.assertIsNone(factory.buildProtocol(peer))
            self.assertIsNone(factory.buildProtocol(UNIXAddress(None)))
            protocol, wire = refused[0]
            wire.lose(protocol)
            self.assertIsNotNone(factory.buildProtocol(peer))

    def test_connection_to_which_no_reason_can_be_sent_is_aborted(self) -> None:
        factory = self.proxy(admission=Admission(1))
        late = factory.buildProtocol(None)
        for _ in range(1 + REFUSED):
            self.connect(factory)
        wire = HalfClosingWire(9000, 1)
        late.makeConnection(wire)
        self.assertEqual(wire.taken(), b"")
        self.assertTrue(wire.aborted)

    def test_refusals_are_logged_once_per_interval(self) -> None:
        factory = self.proxy(admission=Admission(1))
        self.connect(factory)
        for _ in range(20):
            self.connect(factory)
        self.journal.line_with("refused: too many clients")
        self.clock.advance(REFUSAL_INTERVAL)
        self.connect(factory)
        self.journal.line_with("refused: too many clients (and 19 others before)")

    def test_connections_closed_at_once_are_counted_in_the_next_line(self) -> None:
        factory = self.proxy(admission=Admission(1))
        self.connect(factory)
        refused = [self.connect(factory) for _ in range(REFUSED)]
        for _ in range(100):
            self.assertIsNone(factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 1)))
        protocol, wire = refused[0]
        wire.lose(protocol)
        self.clock.advance(REFUSAL_INTERVAL)
        self.connect(factory)
        self.journal.line_with(f"too many clients (and {REFUSED - 1 + 100} others before)")


class FirstCommandTests(ConnectionCase):
    def assert_closed(self, sent: bytes, closed: bool) -> None:
        for factory in (
            self.proxy(first_command_timeout=30.0),
            self.file_server(first_command_timeout=30.0),
        ):
            protocol, wire = self.connect(factory)
            if sent:
                protocol.dataReceived(sent)
            self.clock.advance(29.9)
            self.assertTrue(wire.open)
            self.clock.advance(0.2)
            self.assertEqual(wire.disconnecting, closed)
            wire.lose(protocol)
            self.clock.advance(LINGER)

    def test_client_that_sends_nothing_is_closed(self) -> None:
        self.assert_closed(b"", True)

    def test_client_that_sends_a_part_of_a_command_is_closed(self) -> None:
        self.assert_closed(b"DOWNLOAD ", True)

    def test_client_that_sends_blank_lines_is_closed(self) -> None:
        self.assert_closed(b"\n\r\n \n", True)

    def test_client_that_has_sent_a_command_has_the_idle_time_out(self) -> None:
        self.assert_closed(b"LIST\n", False)

    def test_client_that_has_received_a_reply_has_the_idle_time_out(self) -> None:
        self.assert_closed(b"BOGUS\n", False)

    def test_no_limit(self) -> None:
        _, wire = self.connect(self.proxy(first_command_timeout=0.0))
        self.clock.advance(599)
        self.assertTrue(wire.open)


class ArrivalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.arrivals = Arrivals(self.clock.seconds)
        self.arrivals.limit(2.0)

    def admitted(self, host: str, count: int = 10, port: int = 1) -> int:
        return sum(not self.arrivals.too_fast(at(host, port)) for _ in range(count))

    def test_as_many_as_in_a_second_may_come_at_once(self) -> None:
        self.assertEqual(self.admitted("10.0.0.1"), 2)
        self.clock.advance(0.5)
        self.assertEqual(self.admitted("10.0.0.1"), 1)
        # Those over the limit are not counted.
        self.clock.advance(60)
        self.assertEqual(self.admitted("10.0.0.1"), 2)

    def test_each_host_has_its_own_limit(self) -> None:
        for host in ("10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8:0:1::1"):
            self.assertEqual(self.admitted(host), 2)
        self.assertEqual(self.admitted("2001:db8::ffff"), 0)

    def test_unix_clients_are_exempt(self) -> None:
        self.assertEqual(self.admitted("unix", port=FIRST_STAND_IN_PORT), 10)

    def test_limit_changes_for_further_connections(self) -> None:
        self.arrivals.limit(None)
        self.assertEqual(self.admitted("10.0.0.1"), 10)
        self.arrivals.limit(0.5)
        self.assertEqual(self.admitted("10.0.0.1"), 1)

    def test_factory_closes_such_connections_at_once(self) -> None:
        journal = Journal(self)
        factory = ProxyFactory(self.clock, EndpointConnector(PlayedEndpoint(), self.clock, 5.0))
        factory.arrivals.limit(1.0)
        peer = IPv4Address("TCP", "10.0.0.1", 1)
        self.assertIsNotNone(factory.buildProtocol(peer))
        for _ in range(3):
            self.assertIsNone(factory.buildProtocol(peer))
        self.assertIsNotNone(factory.buildProtocol(UNIXAddress(None)))
        self.assertEqual(factory.admission.refusals[TOO_FAST], 3)
        journal.line_with("10.0.0.1:1 refused: too many new connections from this address")
        self.assertEqual(len(journal.events), 1)


class CountTests(SynchronousTestCase):
    """Clients so far, and those refused, by the limit."""

    def test_clients_and_refusals(self) -> None:
        admission = Admission(2, per_host=1)
        self.assertIsNone(admission.enter("a", at("10.0.0.1")))
        self.assertIsNotNone(admission.enter("b", at("10.0.0.1")))
        self.assertIsNone(admission.enter("c", at("10.0.0.2")))
        self.assertIsNotNone(admission.enter("d", at("10.0.0.3")))
        self.assertEqual(admission.entered, 4)
        self.assertEqual(admission.refusals, {TOO_MANY: 1, TOO_MANY_OF_HOST: 1, TOO_FAST: 0})

    def test_connections_that_are_closed_at_once_count(self) -> None:
        admission = Admission(1, per_host=1)
        admission.enter("a", at("10.0.0.1"))
        for number in range(REFUSED):
            self.assertFalse(admission.overloaded(at("10.0.0.2")))
            admission.enter(number, at("10.0.0.2"))
        self.assertTrue(admission.overloaded(at("10.0.0.2")))
        self.assertEqual(admission.entered, REFUSED + 2)
        self.assertEqual(
            admission.refusals, {TOO_MANY: REFUSED + 1, TOO_MANY_OF_HOST: 0, TOO_FAST: 0}
        )

    def test_client_that_leaves_is_still_counted(self) -> None:
        admission = Admission()
        admission.enter("a", at("10.0.0.1"))
        admission.leave("a")
        self.assertEqual((admission.entered, admission.admitted), (1, 0))
