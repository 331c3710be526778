"""The outgoing side of a connection: backpressure, ends, and a socket that is lent."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Callable

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from natproxy.relay import Outbound, outbound, outbound_of
from natproxy.relay.files import BLOCK
from natproxy.relay.outbound import AT_ONCE, BUDGET, DIRECT, UNSENT, SocketOutbound
from tests.support.doubles import SocketWire, Wire


@implementer(IHalfCloseableDescriptor)
class HalfCloseableWire(Wire):
    """A transport like that of TCP, which asserts the order of its calls."""

    write_closed = False

    def loseConnection(self) -> None:
        assert self.producer is None, "a registered producer delays the close"
        super().loseConnection()

    def loseWriteConnection(self) -> None:
        assert self.producer is None, "a registered producer delays the half-close"
        self.write_closed = True


class SpiedRelay:
    """A relay that records its calls."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class OutboundTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wire = Wire(9000, 43_210)
        self.calls: list[str] = []
        self.outbound = Outbound(self.wire, self.changed)
        self.relay = SpiedRelay(self.calls)

    def changed(self) -> None:
        self.calls.append("paused" if self.outbound.paused else "flowing")

    def test_it_is_the_transports_streaming_producer(self) -> None:
        self.assertIs(self.wire.producer, self.outbound)
        self.assertIs(self.wire.streaming, True)

    def test_relay_is_paused_before_the_change_is_reported(self) -> None:
        self.outbound.attach(self.relay)
        self.outbound.pauseProducing()
        self.assertEqual(self.calls, ["pause", "paused"])
        self.outbound.resumeProducing()
        self.assertEqual(self.calls, ["pause", "paused", "resume", "flowing"])

    def test_only_changes_are_reported(self) -> None:
        self.outbound.attach(self.relay)
        self.outbound.resumeProducing()
        self.assertEqual(self.calls, [])
        self.outbound.pauseProducing()
        self.outbound.pauseProducing()
        self.assertEqual(self.calls, ["pause", "paused"])

    def test_block_that_a_thread_has_read_goes_straight_to_the_socket(self) -> None:
        self.assertGreaterEqual(AT_ONCE, BLOCK)

    def test_budget_is_at_least_one_read_of_a_transport(self) -> None:
        self.assertEqual(self.outbound.budget, BUDGET)
        self.assertGreaterEqual(DIRECT, FileDescriptor.bufferSize)

    def test_pause_between_replies_is_noticed(self) -> None:
        self.outbound.pauseProducing()
        self.outbound.attach(self.relay)
        self.assertEqual(self.calls, ["paused", "pause"])

    def test_lost_connection_stops_the_attached_relay_only(self) -> None:
        self.outbound.attach(self.relay)
        self.outbound.stopProducing()
        self.assertEqual(self.calls, ["stop"])
        self.calls.clear()
        self.outbound.detach()
        self.outbound.pauseProducing()
        self.outbound.resumeProducing()
        self.outbound.stopProducing()
        self.assertEqual(self.calls, ["paused", "flowing"])

    def test_close_unregisters_first(self) -> None:
        wire = HalfCloseableWire(9000, 43_210)
        Outbound(wire, self.changed).close()
        self.assertTrue(wire.disconnecting)
        self.assertFalse(wire.aborted)

    def test_half_close_ends_the_sending_side_only(self) -> None:
        wire = HalfCloseableWire(9000, 43_210)
        self.assertIs(Outbound(wire, self.changed).half_close(), True)
        self.assertTrue(wire.write_closed)
        self.assertTrue(wire.open)

    def test_half_close_does_nothing_if_it_is_not_supported(self) -> None:
        wire = HalfCloseableWire(9000, 43_210)
        # As TLS: it provides the interfaces of the transport below it.
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
    """An outbound that writes straight to the socket, or lends it to a relay."""

    def setUp(self) -> None:
        self.wire = SocketWire(9000, 43_210)
        self.addCleanup(self.wire.socket.close)
        self.calls: list[str] = []
        self.outbound = outbound_of(self.wire, self.changed)
        self.relay = SpiedRelay(self.calls)

    def changed(self) -> None:
        self.calls.append("paused" if self.outbound.paused else "flowing")

    def lend(self) -> None:
        self.outbound.lend(self.relay, lambda: self.calls.append("ready"))

    def test_it_is_for_bare_tcp_only(self) -> None:
        self.assertIsInstance(self.outbound, SocketOutbound)
        self.assertNotIsInstance(outbound_of(Wire(9000, 1), self.changed), SocketOutbound)

    def test_last_piece_of_a_reply_does_not_wait_for_an_acknowledgement(self) -> None:
        self.assertTrue(self.wire.no_delay)

    def test_short_write_goes_straight_to_the_socket(self) -> None:
        self.patch(outbound, "AT_ONCE", 1000)
        self.outbound.write(b"x" * 1000)
        self.assertEqual(self.wire.socket.taken(), b"x" * 1000)
        self.assertEqual((self.wire.value(), self.wire.producer, self.calls), (b"", None, []))

    def test_long_write_is_sent_in_the_next_turn(self) -> None:
        self.outbound.write(b"x" * (AT_ONCE + 1))
        self.assertEqual(self.wire.socket.taken(), b"")
        self.assertEqual(self.calls, ["paused"])
        self.assertEqual(self.wire.drain(), b"x" * (AT_ONCE + 1))
        self.assertEqual(self.calls, ["paused", "flowing"])

    def test_bytes_that_the_socket_does_not_take_are_sent_in_order(self) -> None:
        for room in (0, 3):
            self.setUp()
            self.wire.socket.room = room
            self.outbound.write(b"abcde")
            self.assertIs(self.outbound.paused, True)
            self.wire.socket.room = 100
            self.outbound.write(b"fgh")
            self.assertEqual(self.wire.socket.taken() + self.wire.drain(), b"abcdefgh")
            self.assertEqual(self.calls, ["paused", "flowing"])
            self.assertIsNone(self.wire.producer)
            self.outbound.write(b"ijk")
            self.assertEqual(self.wire.socket.taken(), b"ijk")

    def space(self, limit: int, queued: int, unsent: int) -> int:
        """Return the space of a socket of which the kernel reports this."""
        memory = struct.pack("9I", 1, 2, 3, limit, 5, queued, 7, 8, 9)
        self.patch(self.wire.socket, "getsockopt", lambda level, option, size: memory)
        self.patch(fcntl, "ioctl", lambda descriptor, request, data: struct.pack("i", unsent))
        return self.outbound.space()

    def test_space_is_what_the_buffer_and_the_limit_of_unsent_bytes_leave(self) -> None:
        self.assertEqual(self.space(4 * UNSENT, 0, 0), UNSENT)
        self.assertEqual(self.space(4 * UNSENT, UNSENT, UNSENT - 10), 10)
        self.assertEqual(self.space(1000, 900, 900), 100)
        self.assertEqual(self.space(1000, 1200, 900), -200)

    def test_space_is_a_whole_budget_where_the_kernel_does_not_report_it(self) -> None:
        self.assertEqual(self.outbound.space(), BUDGET)
        self.patch(self.wire.socket, "getsockopt", lambda level, option, size: b"short")
        self.assertEqual(self.outbound.space(), BUDGET)

    def test_relay_that_writes_is_paused_and_resumed(self) -> None:
        self.outbound.attach(self.relay)
        self.wire.socket.room = 0
        self.outbound.write(b"x")
        self.wire.drain()
        self.assertEqual(self.calls, ["pause", "paused", "resume", "flowing"])

    def test_relay_may_fill_it_again_at_once(self) -> None:
        self.outbound.attach(self.relay)
        self.wire.socket.room = 0
        self.patch(self.relay, "resumeProducing", lambda: self.outbound.write(b"more"))
        self.outbound.write(b"x")
        for _ in range(3):
            self.wire.drain()
            self.assertTrue(self.outbound.paused)
            self.assertEqual(self.wire.value(), b"more")

    def test_broken_socket_is_left_to_the_transport(self) -> None:
        self.wire.socket.broken = BrokenPipeError()
        self.outbound.attach(self.relay)
        self.outbound.write(b"x")
        self.assertEqual(self.wire.value(), b"x")
        self.wire.producer.stopProducing()
        self.assertEqual(self.calls[-1], "stop")

    def test_it_is_lent_at_once_if_everything_has_been_sent(self) -> None:
        self.outbound.write(b"header")
        self.lend()
        self.assertEqual((self.calls, self.outbound.paused), (["ready"], False))
        self.assertEqual(self.outbound.descriptor(), self.wire.fileno())

    def test_it_is_lent_once_when_all_that_was_written_has_left(self) -> None:
        self.wire.socket.room = 3
        self.outbound.write(b"header")
        self.outbound.write(b"first")
        self.lend()
        self.assertTrue(self.outbound.paused)
        self.assertNotIn("ready", self.calls)
        self.assertEqual(self.wire.drain(), b"derfirst")
        self.assertEqual(self.calls[-1], "ready")
        self.assertFalse(self.outbound.paused)
        self.wire.drain()
        self.assertEqual(self.calls.count("ready"), 1)

    def test_borrower_sets_whether_the_outbound_is_paused(self) -> None:
        self.lend()
        self.calls.clear()
        for paused in (True, True, False):
            self.outbound.set_paused(paused)
            self.assertIs(self.outbound.paused, paused)
        # Each shows that the peer reads, even if it changes nothing.
        self.assertEqual(self.calls, ["paused", "paused", "flowing"])

    def test_connection_lost_before_it_is_lent_stops_the_relay(self) -> None:
        self.wire.socket.room = 0
        self.outbound.write(b"header")
        self.lend()
        self.wire.producer.stopProducing()
        self.assertEqual((self.calls[-1], self.calls.count("ready")), ("stop", 0))

    def test_socket_taken_back_can_be_written_to_and_lent_again(self) -> None:
        for _ in range(3):
            self.calls.clear()
            self.lend()
            self.outbound.set_paused(True)
            self.outbound.take_back()
            self.assertFalse(self.outbound.paused)
            self.outbound.write(b"x")
            self.assertEqual(self.wire.socket.taken(), b"x")
            self.assertEqual(self.calls, ["ready", "paused"])

    def test_socket_taken_back_before_it_was_lent_stays_paused_until_it_is_empty(self) -> None:
        self.wire.socket.room = 0
        self.outbound.write(b"header")
        self.lend()
        self.outbound.take_back()
        self.assertTrue(self.outbound.paused)
        self.assertEqual(self.calls, ["paused"])
        self.wire.drain()
        self.assertEqual((self.calls, self.outbound.paused), (["paused", "flowing"], False))

    def congestion_controls(self) -> list[int | bytes]:
        """Return what was chosen for the socket."""
        options = self.wire.socket.options
        return [value for option, value in options if option == socket.TCP_CONGESTION]

    def test_body_within_this_host_is_not_paced(self) -> None:
        for attach in (lambda: self.outbound.attach(self.relay), self.lend):
            self.setUp()
            self.wire.socket.congestion_control = b"bbr"
            self.outbound.write(b"short reply")
            self.assertEqual(self.congestion_controls(), [])
            for _ in range(2):
                attach()
                self.outbound.take_back()
                self.assertEqual(self.congestion_controls(), [b"reno"])

    def test_congestion_control_of_other_connections_stays(self) -> None:
        for peer, control in (
            ("192.0.2.1", b"bbr"),
            ("127.0.0.1", b"cubic"),
            ("127.0.0.1", None),
        ):
            self.setUp()
            self.wire.socket.peer = (peer, 43_210)
            self.wire.socket.congestion_control = control
            self.lend()
            self.assertEqual(self.congestion_controls(), [])

    def test_it_is_closed_with_or_without_something_to_send(self) -> None:
        for room in (0, 100):
            self.setUp()
            self.wire.socket.room = room
            self.outbound.write(b"x")
            self.outbound.close()
            self.assertIsNone(self.wire.producer)
            self.assertTrue(self.wire.disconnecting)


class PlayedMeter:
    """A meter that a test controls.

    :ivar charged: bytes so far.
    :ivar waiting: called when bytes may be moved.
    """

    budget = 1000

    def __init__(self) -> None:
        self.allowed = False
        self.charged = 0
        self.waiting: list[Callable[[], object]] = []
        self.cancelled = 0

    def ready(self) -> bool:
        return self.allowed

    def wait(self, resume: Callable[[], object]) -> None:
        self.waiting.append(resume)

    def charge(self, size: int) -> None:
        self.charged += size

    def cancel(self) -> None:
        self.cancelled += 1


class MeterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wire = Wire(9000, 43210)
        self.outbound = Outbound(self.wire, lambda: None)
        self.meter = PlayedMeter()

    def test_without_a_meter_everything_may_be_moved(self) -> None:
        self.assertTrue(self.outbound.may_move(lambda: None))
        self.outbound.body_ended()
        self.assertEqual(self.outbound.budget, BUDGET)

    def test_all_bytes_are_charged_once(self) -> None:
        self.outbound.meter = self.meter
        self.outbound.write(b"abc")
        self.outbound.moved(5)
        self.assertEqual(self.meter.charged, 8)

    def test_relay_that_waits_is_called_back_once(self) -> None:
        def resume() -> None:
            return None

        self.outbound.meter = self.meter
        self.assertFalse(self.outbound.may_move(resume))
        self.assertFalse(self.outbound.may_move(resume))
        self.assertEqual((self.meter.waiting, self.outbound.held), ([resume], True))
        self.meter.allowed = True
        self.assertTrue(self.outbound.may_move(resume))
        self.assertEqual((self.outbound.held, self.outbound.budget), (False, 1000))

    def test_end_of_the_relay_ends_the_wait(self) -> None:
        self.outbound.meter = self.meter
        self.outbound.may_move(lambda: None)
        self.outbound.body_ended()
        self.assertEqual((self.outbound.held, self.meter.cancelled), (False, 1))
