"""The outgoing side of a connection: backpressure, ends, and who writes to the socket."""

from __future__ import annotations

import socket
from unittest import skipUnless

from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from natproxy.relay import Outbound, outbound_of
from natproxy.relay.outbound import DIRECT, UNSENT, SocketOutbound
from tests.support.doubles import SocketWire, Wire


@implementer(IHalfCloseableDescriptor)
class HalfCloseableWire(Wire):
    """A transport like that of TCP, which minds the order of its calls."""

    write_closed = False

    def loseConnection(self) -> None:
        assert self.producer is None, "a registered producer holds the close up"
        super().loseConnection()

    def loseWriteConnection(self) -> None:
        assert self.producer is None, "a registered producer holds the half-close up"
        self.write_closed = True


class SpiedRelay:
    """A relay that notes what it was told."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class OutboundTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wire = Wire(9000, 43_210)
        self.told: list[str] = []
        self.outbound = Outbound(self.wire, self.changed)
        self.relay = SpiedRelay(self.told)

    def changed(self) -> None:
        self.told.append("paused" if self.outbound.paused else "flowing")

    def test_it_is_the_transports_streaming_producer(self) -> None:
        self.assertIs(self.wire.producer, self.outbound)
        self.assertIs(self.wire.streaming, True)

    def test_relay_is_told_and_then_the_change_announced(self) -> None:
        self.outbound.attach(self.relay)
        self.outbound.pauseProducing()
        self.assertEqual(self.told, ["pause", "paused"])
        self.outbound.resumeProducing()
        self.assertEqual(self.told, ["pause", "paused", "resume", "flowing"])

    def test_what_is_no_change_is_not_told(self) -> None:
        self.outbound.attach(self.relay)
        self.outbound.resumeProducing()
        self.assertEqual(self.told, [])
        self.outbound.pauseProducing()
        self.outbound.pauseProducing()
        self.assertEqual(self.told, ["pause", "paused"])

    def test_pause_between_replies_is_noticed(self) -> None:
        self.outbound.pauseProducing()
        self.outbound.attach(self.relay)
        self.assertEqual(self.told, ["paused", "pause"])

    def test_lost_connection_is_told_to_the_relay_but_not_once_detached(self) -> None:
        self.outbound.attach(self.relay)
        self.outbound.stopProducing()
        self.assertEqual(self.told, ["stop"])
        self.told.clear()
        self.outbound.detach()
        self.outbound.pauseProducing()
        self.outbound.resumeProducing()
        self.outbound.stopProducing()
        self.assertEqual(self.told, ["paused", "flowing"])

    def test_close_unregisters_first(self) -> None:
        wire = HalfCloseableWire(9000, 43_210)
        Outbound(wire, self.changed).close()
        self.assertTrue(wire.disconnecting)
        self.assertFalse(wire.aborted)

    def test_half_close_ends_our_side_only(self) -> None:
        wire = HalfCloseableWire(9000, 43_210)
        self.assertIs(Outbound(wire, self.changed).half_close(), True)
        self.assertTrue(wire.write_closed)
        self.assertTrue(wire.open)

    def test_half_close_does_nothing_where_it_cannot_be_done(self) -> None:
        wire = HalfCloseableWire(9000, 43_210)
        # TLS, for one: it claims what the transport below it can do.
        wrapper = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        wrapper.makeConnection(wire)
        self.assertTrue(IHalfCloseableDescriptor.providedBy(wrapper))
        for transport in (Wire(9000, 43_210), wrapper):
            outbound = Outbound(transport, self.changed)
            self.assertIs(outbound.half_close(), False)
        self.assertTrue(wire.open)
        self.assertFalse(wire.write_closed)
        self.assertIs(wire.producer, outbound)


class SocketOutboundTests(SynchronousTestCase):
    """An outbound that writes to the socket itself, or lets a relay do so."""

    def setUp(self) -> None:
        self.wire = SocketWire(9000, 43_210)
        self.addCleanup(self.wire.socket.close)
        self.told: list[str] = []
        self.outbound = outbound_of(self.wire, self.changed)
        self.relay = SpiedRelay(self.told)

    def changed(self) -> None:
        self.told.append("paused" if self.outbound.paused else "flowing")

    def lend(self) -> None:
        self.outbound.lend(self.relay, lambda: self.told.append("ready"))

    def test_it_is_for_bare_tcp_only(self) -> None:
        self.assertIsInstance(self.outbound, SocketOutbound)
        self.assertNotIsInstance(outbound_of(Wire(9000, 1), self.changed), SocketOutbound)

    def test_last_piece_of_a_reply_does_not_wait_for_an_acknowledgement(self) -> None:
        self.assertTrue(self.wire.no_delay)

    def test_short_write_goes_straight_to_the_socket(self) -> None:
        self.outbound.write(b"x" * DIRECT)
        self.assertEqual(self.wire.socket.taken(), b"x" * DIRECT)
        self.assertEqual((self.wire.value(), self.wire.producer, self.told), (b"", None, []))

    def test_long_write_waits_for_its_turn(self) -> None:
        self.outbound.write(b"x" * (DIRECT + 1))
        self.assertEqual(self.wire.socket.taken(), b"")
        self.assertEqual(self.told, ["paused"])
        self.assertEqual(self.wire.drain(), b"x" * (DIRECT + 1))
        self.assertEqual(self.told, ["paused", "flowing"])

    def test_what_the_socket_does_not_take_is_kept_in_order(self) -> None:
        for room in (0, 3):
            self.setUp()
            self.wire.socket.room = room
            self.outbound.write(b"abcde")
            self.assertIs(self.outbound.paused, True)
            self.wire.socket.room = 100
            self.outbound.write(b"fgh")
            self.assertEqual(self.wire.socket.taken() + self.wire.drain(), b"abcdefgh")
            self.assertEqual(self.told, ["paused", "flowing"])
            self.assertIsNone(self.wire.producer)
            self.outbound.write(b"ijk")
            self.assertEqual(self.wire.socket.taken(), b"ijk")

    def test_relay_that_writes_is_paused_and_resumed(self) -> None:
        self.outbound.attach(self.relay)
        self.wire.socket.room = 0
        self.outbound.write(b"x")
        self.wire.drain()
        self.assertEqual(self.told, ["pause", "paused", "resume", "flowing"])

    def test_relay_may_fill_it_again_at_once(self) -> None:
        self.outbound.attach(self.relay)
        self.wire.socket.room = 0
        self.patch(self.relay, "resumeProducing", lambda: self.outbound.write(b"more"))
        self.outbound.write(b"x")
        for _ in range(3):
            self.wire.drain()
            self.assertTrue(self.outbound.paused)
            self.assertEqual(self.wire.value(), b"more")

    def test_broken_socket_is_left_to_the_transport_to_find_out(self) -> None:
        self.wire.socket.broken = BrokenPipeError()
        self.outbound.attach(self.relay)
        self.outbound.write(b"x")
        self.assertEqual(self.wire.value(), b"x")
        self.wire.producer.stopProducing()
        self.assertEqual(self.told[-1], "stop")

    def test_it_is_lent_at_once_if_everything_has_been_sent(self) -> None:
        self.outbound.write(b"header")
        self.lend()
        self.assertEqual((self.told, self.outbound.paused), (["ready"], False))
        self.assertEqual(self.outbound.descriptor(), self.wire.fileno())

    def test_it_is_lent_once_when_all_that_was_written_has_left(self) -> None:
        self.wire.socket.room = 3
        self.outbound.write(b"header")
        self.outbound.write(b"first")
        self.lend()
        self.assertTrue(self.outbound.paused)
        self.assertNotIn("ready", self.told)
        self.assertEqual(self.wire.drain(), b"derfirst")
        self.assertEqual(self.told[-1], "ready")
        self.assertFalse(self.outbound.paused)
        self.wire.drain()
        self.assertEqual(self.told.count("ready"), 1)

    def test_borrower_says_whose_turn_it_is(self) -> None:
        self.lend()
        self.told.clear()
        for paused in (True, True, False):
            self.outbound.set_paused(paused)
            self.assertIs(self.outbound.paused, paused)
        # Each is a sign of life, even if it changes nothing.
        self.assertEqual(self.told, ["paused", "paused", "flowing"])

    def test_connection_lost_before_it_is_lent_is_told(self) -> None:
        self.wire.socket.room = 0
        self.outbound.write(b"header")
        self.lend()
        self.wire.producer.stopProducing()
        self.assertEqual((self.told[-1], self.told.count("ready")), ("stop", 0))

    def test_taken_back_it_flows_and_can_be_written_to_and_lent_again(self) -> None:
        for _ in range(3):
            self.told.clear()
            self.lend()
            self.outbound.set_paused(True)
            self.outbound.take_back()
            self.assertFalse(self.outbound.paused)
            self.outbound.write(b"x")
            self.assertEqual(self.wire.socket.taken(), b"x")
            self.assertEqual(self.told, ["ready", "paused"])

    def test_taken_back_before_it_was_lent_it_stays_paused_until_it_is_empty(self) -> None:
        self.wire.socket.room = 0
        self.outbound.write(b"header")
        self.lend()
        self.outbound.take_back()
        self.assertTrue(self.outbound.paused)
        self.assertEqual(self.told, ["paused"])
        self.wire.drain()
        self.assertEqual((self.told, self.outbound.paused), (["paused", "flowing"], False))

    def test_it_is_closed_with_or_without_something_to_send(self) -> None:
        for room in (0, 100):
            self.setUp()
            self.wire.socket.room = room
            self.outbound.write(b"x")
            self.outbound.close()
            self.assertIsNone(self.wire.producer)
            self.assertTrue(self.wire.disconnecting)


class UnsentTests(SynchronousTestCase):
    @skipUnless(hasattr(socket, "TCP_NOTSENT_LOWAT"), "this system cannot bound it")
    def test_kernel_holds_no_more_than_a_megabyte_that_is_not_sent(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            self.addCleanup(ours.close)
            wire = SocketWire(9000, 1)
            self.addCleanup(wire.socket.close)
            wire.getHandle = lambda: ours
            outbound_of(wire, lambda: None)
            held = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        self.assertEqual(held, UNSENT)
