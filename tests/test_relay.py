"""Bodies in motion: exact counts, backpressure both ways, and every way that they end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.interfaces import IHalfCloseableDescriptor, ISSLTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides, implementer

from natproxy.relay import Outflow, SourceShort, outflow_of
from natproxy.relay.copying import CopyRelay
from natproxy.relay.outflow import DIRECT, SocketOutflow
from natproxy.wire import CountedBody, ListingBody
from tests.doubles import HIGH_WATER, BufferedWire, SocketWire, Wire


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


class OutflowTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wire = Wire(9000, 43_210)
        self.told: list[str] = []
        self.outflow = Outflow(self.wire, self.changed)
        self.relay = SpiedRelay(self.told)

    def changed(self) -> None:
        self.told.append("paused" if self.outflow.paused else "flowing")

    def test_it_is_the_transports_streaming_producer(self) -> None:
        self.assertIs(self.wire.producer, self.outflow)
        self.assertIs(self.wire.streaming, True)

    def test_relay_is_told_and_then_the_change_announced(self) -> None:
        self.outflow.attach(self.relay)
        self.outflow.pauseProducing()
        self.assertEqual(self.told, ["pause", "paused"])
        self.outflow.resumeProducing()
        self.assertEqual(self.told, ["pause", "paused", "resume", "flowing"])

    def test_what_is_no_change_is_not_told(self) -> None:
        self.outflow.attach(self.relay)
        self.outflow.resumeProducing()
        self.assertEqual(self.told, [])
        self.outflow.pauseProducing()
        self.outflow.pauseProducing()
        self.assertEqual(self.told, ["pause", "paused"])

    def test_pause_between_replies_is_noticed(self) -> None:
        self.outflow.pauseProducing()
        self.outflow.attach(self.relay)
        self.assertEqual(self.told, ["paused", "pause"])

    def test_lost_connection_is_told_to_the_relay_but_not_once_detached(self) -> None:
        self.outflow.attach(self.relay)
        self.outflow.stopProducing()
        self.assertEqual(self.told, ["stop"])
        self.told.clear()
        self.outflow.detach()
        self.outflow.pauseProducing()
        self.outflow.resumeProducing()
        self.outflow.stopProducing()
        self.assertEqual(self.told, ["paused", "flowing"])

    def test_close_unregisters_first(self) -> None:
        wire = HalfCloseableWire(9000, 43_210)
        Outflow(wire, self.changed).close()
        self.assertTrue(wire.disconnecting)
        self.assertFalse(wire.aborted)

    def test_half_close_ends_our_side_only(self) -> None:
        wire = HalfCloseableWire(9000, 43_210)
        self.assertIs(Outflow(wire, self.changed).half_close(), True)
        self.assertTrue(wire.write_closed)
        self.assertTrue(wire.open)

    def test_half_close_does_nothing_where_it_cannot_be_done(self) -> None:
        tls = HalfCloseableWire(9000, 43_210)
        directlyProvides(tls, ISSLTransport)
        self.assertTrue(IHalfCloseableDescriptor.providedBy(tls))
        for wire in (Wire(9000, 43_210), tls):
            outflow = Outflow(wire, self.changed)
            self.assertIs(outflow.half_close(), False)
            self.assertTrue(wire.open)
            self.assertIs(wire.producer, outflow)
        self.assertFalse(tls.write_closed)


class SocketOutflowTests(SynchronousTestCase):
    """An outflow that writes to the socket itself, or lets a relay do so."""

    def setUp(self) -> None:
        self.wire = SocketWire(9000, 43_210)
        self.addCleanup(self.wire.socket.close)
        self.told: list[str] = []
        self.outflow = outflow_of(self.wire, self.changed)
        self.relay = SpiedRelay(self.told)

    def changed(self) -> None:
        self.told.append("paused" if self.outflow.paused else "flowing")

    def lend(self) -> None:
        self.outflow.lend(self.relay, lambda: self.told.append("ready"))

    def test_it_is_for_bare_tcp_only(self) -> None:
        self.assertIsInstance(self.outflow, SocketOutflow)
        self.assertNotIsInstance(outflow_of(Wire(9000, 1), self.changed), SocketOutflow)

    def test_short_write_goes_straight_to_the_socket(self) -> None:
        self.outflow.write(b"x" * DIRECT)
        self.assertEqual(self.wire.socket.taken(), b"x" * DIRECT)
        self.assertEqual((self.wire.value(), self.wire.producer, self.told), (b"", None, []))

    def test_long_write_waits_for_its_turn(self) -> None:
        self.outflow.write(b"x" * (DIRECT + 1))
        self.assertEqual(self.wire.socket.taken(), b"")
        self.assertEqual(self.told, ["paused"])
        self.assertEqual(self.wire.drain(), b"x" * (DIRECT + 1))
        self.assertEqual(self.told, ["paused", "flowing"])

    def test_what_the_socket_does_not_take_is_kept_in_order(self) -> None:
        for room in (0, 3):
            self.setUp()
            self.wire.socket.room = room
            self.outflow.write(b"abcde")
            self.assertIs(self.outflow.paused, True)
            self.wire.socket.room = 100
            self.outflow.write(b"fgh")
            self.assertEqual(self.wire.socket.taken() + self.wire.drain(), b"abcdefgh")
            self.assertEqual(self.told, ["paused", "flowing"])
            self.assertIsNone(self.wire.producer)
            self.outflow.write(b"ijk")
            self.assertEqual(self.wire.socket.taken(), b"ijk")

    def test_relay_that_writes_is_paused_and_resumed(self) -> None:
        self.outflow.attach(self.relay)
        self.wire.socket.room = 0
        self.outflow.write(b"x")
        self.wire.drain()
        self.assertEqual(self.told, ["pause", "paused", "resume", "flowing"])

    def test_relay_may_fill_it_again_at_once(self) -> None:
        self.outflow.attach(self.relay)
        self.wire.socket.room = 0
        self.patch(self.relay, "resumeProducing", lambda: self.outflow.write(b"more"))
        self.outflow.write(b"x")
        for _ in range(3):
            self.wire.drain()
            self.assertTrue(self.outflow.paused)
            self.assertEqual(self.wire.value(), b"more")

    def test_broken_socket_is_left_to_the_transport_to_find_out(self) -> None:
        self.wire.socket.broken = BrokenPipeError()
        self.outflow.attach(self.relay)
        self.outflow.write(b"x")
        self.assertEqual(self.wire.value(), b"x")
        self.wire.producer.stopProducing()
        self.assertEqual(self.told[-1], "stop")

    def test_it_is_lent_at_once_if_everything_has_been_sent(self) -> None:
        self.outflow.write(b"header")
        self.lend()
        self.assertEqual((self.told, self.outflow.paused), (["ready"], False))
        self.assertEqual(self.outflow.descriptor(), self.wire.fileno())

    def test_it_is_lent_once_when_all_that_was_written_has_left(self) -> None:
        self.wire.socket.room = 3
        self.outflow.write(b"header")
        self.outflow.write(b"first")
        self.lend()
        self.assertTrue(self.outflow.paused)
        self.assertNotIn("ready", self.told)
        self.assertEqual(self.wire.drain(), b"derfirst")
        self.assertEqual(self.told[-1], "ready")
        self.assertFalse(self.outflow.paused)
        self.wire.drain()
        self.assertEqual(self.told.count("ready"), 1)

    def test_borrower_says_whose_turn_it_is(self) -> None:
        self.lend()
        self.told.clear()
        for paused in (True, True, False):
            self.outflow.stalled(paused)
            self.assertIs(self.outflow.paused, paused)
        # Each is a sign of life, even if it changes nothing.
        self.assertEqual(self.told, ["paused", "paused", "flowing"])

    def test_connection_lost_before_it_is_lent_is_told(self) -> None:
        self.wire.socket.room = 0
        self.outflow.write(b"header")
        self.lend()
        self.wire.producer.stopProducing()
        self.assertEqual((self.told[-1], self.told.count("ready")), ("stop", 0))

    def test_taken_back_it_flows_and_can_be_written_to_and_lent_again(self) -> None:
        for _ in range(3):
            self.told.clear()
            self.lend()
            self.outflow.stalled(True)
            self.outflow.take_back()
            self.assertFalse(self.outflow.paused)
            self.outflow.write(b"x")
            self.assertEqual(self.wire.socket.taken(), b"x")
            self.assertEqual(self.told, ["ready", "paused"])

    def test_taken_back_before_it_was_lent_it_stays_paused_until_it_is_empty(self) -> None:
        self.wire.socket.room = 0
        self.outflow.write(b"header")
        self.lend()
        self.outflow.take_back()
        self.assertTrue(self.outflow.paused)
        self.assertEqual(self.told, ["paused"])
        self.wire.drain()
        self.assertEqual((self.told, self.outflow.paused), (["paused", "flowing"], False))

    def test_it_is_closed_with_or_without_something_to_send(self) -> None:
        for room in (0, 100):
            self.setUp()
            self.wire.socket.room = room
            self.outflow.write(b"x")
            self.outflow.close()
            self.assertIsNone(self.wire.producer)
            self.assertTrue(self.wire.disconnecting)


class CountingSink:
    """Writes to an outflow, and keeps each piece."""

    def __init__(self, outflow: Outflow) -> None:
        self.outflow = outflow
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.outflow.write(data)

    def count(self, size: int) -> None:
        raise AssertionError("a copy is counted as it is written")


class CopyRelayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.new_client()
        self.source = Wire(50_000, 9001)
        self.ends: list[object] = []

    def new_client(self) -> None:
        self.client = BufferedWire(9000, 43_210)
        self.outflow = Outflow(self.client, lambda: None)
        self.sink = CountingSink(self.outflow)

    def relay(self, body: CountedBody | ListingBody) -> CopyRelay:
        relay = CopyRelay(b"", body, self.source, self.outflow, self.sink)
        relay.start()
        return relay

    def test_header_leaves_in_one_write_with_what_came_along(self) -> None:
        for pieces in ([b"abc"], [b"a", b"bc"]):
            self.new_client()
            relay = CopyRelay(b"OK 9\n", CountedBody(9), self.source, self.outflow, self.sink)
            for piece in pieces:
                relay.deliver(piece)
            relay.start()
            self.assertEqual(self.sink.written, [b"OK 9\n" + pieces[0], *pieces[1:]])

    def test_header_that_comes_alone_leaves_alone(self) -> None:
        relay = CopyRelay(b"OK 9\n", CountedBody(9), self.source, self.outflow, self.sink)
        relay.start()
        self.assertEqual(self.sink.written, [b"OK 9\n"])
        relay.deliver(b"abc")
        self.assertEqual(self.sink.written, [b"OK 9\n", b"abc"])

    def test_relay_that_has_ended_before_its_start_is_not_started(self) -> None:
        relay = CopyRelay(b"OK 1\n", CountedBody(1), self.source, self.outflow, self.sink)
        relay.deliver(b"a and more")
        relay.start()
        self.assertEqual(self.sink.written, [b"OK 1\na"])
        self.outflow.pauseProducing()
        self.assertEqual(self.source.producerState, "producing")

    def test_body_is_relayed_by_the_sink_and_surplus_dropped(self) -> None:
        relay = self.relay(CountedBody(5))
        relay.deliver(b"abc")
        self.assertNoResult(relay.finished)
        relay.deliver(b"defg")
        relay.deliver(b"hij")
        relay.source_lost()
        self.assertIsNone(self.successResultOf(relay.finished))
        self.assertEqual(self.sink.written, [b"abc", b"de"])
        self.assertEqual(self.client.value(), b"abcde")

    def test_listing_ends_at_its_end_line(self) -> None:
        relay = self.relay(ListingBody())
        relay.deliver(b"a\nEN")
        self.assertNoResult(relay.finished)
        relay.deliver(b"D\nb\nEND\n")
        self.successResultOf(relay.finished)
        self.assertEqual(self.client.value(), b"a\nEND\n")

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.binary(max_size=8), max_size=12), st.integers(1, 60))
    def test_any_pieces_give_exactly_the_promised_bytes(
        self, pieces: list[bytes], size: int
    ) -> None:
        self.new_client()
        relay = self.relay(CountedBody(size))
        for piece in pieces:
            relay.deliver(piece)
        relay.source_lost()
        sent = b"".join(pieces)
        self.assertEqual(self.client.value(), sent[:size])
        if len(sent) >= size:
            self.successResultOf(relay.finished)
        else:
            lost = self.failureResultOf(relay.finished, SourceShort).value
            self.assertEqual(lost.missing, f"{size - len(sent)} bytes")

    def test_source_is_paused_while_the_client_does_not_read(self) -> None:
        relay = self.relay(CountedBody(HIGH_WATER + 10))
        relay.deliver(b"x" * HIGH_WATER)
        self.assertEqual(self.source.producerState, "producing")
        relay.deliver(b"x")
        self.assertEqual(self.source.producerState, "paused")
        self.client.drain()
        self.assertEqual(self.source.producerState, "producing")
        relay.deliver(b"x" * 9)
        self.successResultOf(relay.finished)

    def test_source_is_paused_at_once_if_the_outflow_is(self) -> None:
        self.client.write(b"x" * (HIGH_WATER + 1))
        relay = self.relay(CountedBody(5))
        self.assertEqual(self.source.producerState, "paused")
        # What had been received before the pause is not lost.
        relay.deliver(b"ab")
        self.assertEqual(self.client.drain()[-2:], b"ab")
        self.assertEqual(self.source.producerState, "producing")
        relay.stop()

    def test_source_is_left_alone_after_the_end(self) -> None:
        for end in ("deliver", "source_lost", "stop"):
            relay = self.relay(CountedBody(1))
            relay.finished.addErrback(lambda failure: failure.trap(SourceShort))
            getattr(relay, end)(*([b"x"] if end == "deliver" else []))
            self.outflow.pauseProducing()
            self.assertEqual(self.source.producerState, "producing", end)
            self.outflow.resumeProducing()

    def test_lost_source_is_short_and_says_by_how_much(self) -> None:
        relay = self.relay(CountedBody(5))
        relay.deliver(b"ab")
        relay.source_lost()
        short = self.failureResultOf(relay.finished, SourceShort).value
        self.assertEqual((short.missing, str(short)), ("3 bytes", "3 bytes missing"))
        relay = self.relay(ListingBody())
        relay.deliver(b"a\nEND")
        relay.source_lost()
        short = self.failureResultOf(relay.finished, SourceShort).value
        self.assertEqual(short.missing, "the rest up to END")

    def test_nothing_is_relayed_or_told_after_stop_or_without_a_client(self) -> None:
        for stop in (CopyRelay.stop, lambda _: self.client.producer.stopProducing()):
            relay = self.relay(CountedBody(5))
            relay.finished.addBoth(self.ends.append)
            relay.deliver(b"ab")
            stop(relay)
            relay.deliver(b"cdefg")
            relay.source_lost()
            relay.stop()
            self.assertEqual((self.client.taken(), self.ends), (b"ab", []))

    def test_stop_in_the_middle_of_the_last_write_is_a_stop(self) -> None:
        self.patch(self.sink, "write", lambda data: relay.stop())
        relay = self.relay(CountedBody(2))
        relay.finished.addBoth(self.ends.append)
        relay.deliver(b"ab")
        self.assertEqual(self.ends, [])

    def test_next_relay_may_start_from_the_end_of_the_last(self) -> None:
        first = self.relay(CountedBody(1))
        later: list[CopyRelay] = []
        first.finished.addCallback(lambda _: later.append(self.relay(CountedBody(1))))
        first.deliver(b"x")
        self.outflow.pauseProducing()
        self.assertEqual(self.source.producerState, "paused")
        later[0].deliver(b"y")
        self.successResultOf(later[0].finished)
        self.assertEqual(self.client.value(), b"xy")
