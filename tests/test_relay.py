"""Bodies in motion: exact counts, backpressure both ways, and every way that they end."""

from __future__ import annotations

import errno
import gc
import weakref
from io import BytesIO

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.interfaces import IHalfCloseableDescriptor, ISSLTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides, implementer

from natproxy.relay import FileRelay, Outflow, SourceShort, TransportRelay
from natproxy.relay.files import CHUNK
from natproxy.wire import CountedBody, ListingBody
from tests.doubles import Wire

HIGH_WATER = 2**16


class BufferedWire(Wire):
    """A transport that pauses its producer as Twisted's own does, and is drained by hand."""

    most = 0

    def write(self, data: bytes) -> None:
        super().write(data)
        held = len(self.value())
        self.most = max(self.most, held)
        if held > HIGH_WATER and self.producer is not None:
            self.producer.pauseProducing()

    def drain(self) -> bytes:
        """Take all that is held, and let the producer go on."""
        data = self.taken()
        if self.producer is not None:
            self.producer.resumeProducing()
        return data


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


class SpiedFile(BytesIO):
    """A file that counts how often it was read, and can fail."""

    failing = False

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads: list[int] = []

    def read(self, size: int = -1) -> bytes:
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        self.reads.append(size)
        assert len(self.reads) < 100, "it reads on and on"
        return super().read(size)


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


class RelayCase(SynchronousTestCase):
    """A client's transport and its outflow."""

    def setUp(self) -> None:
        self.client = BufferedWire(9000, 43_210)
        self.outflow = Outflow(self.client, lambda: None)
        self.ends: list[object] = []


class TransportRelayTests(RelayCase):
    def setUp(self) -> None:
        super().setUp()
        self.source = Wire(50_000, 9001)
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.outflow.write(data)

    def relay(self, body: CountedBody | ListingBody) -> TransportRelay:
        return TransportRelay(body, self.source, self.outflow, self.write)

    def test_body_is_relayed_by_the_callers_write_and_surplus_dropped(self) -> None:
        relay = self.relay(CountedBody(5))
        relay.deliver(b"abc")
        self.assertNoResult(relay.finished)
        relay.deliver(b"defg")
        relay.deliver(b"hij")
        relay.source_lost()
        self.assertIsNone(self.successResultOf(relay.finished))
        self.assertEqual(self.written, [b"abc", b"de"])
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
        self.client = BufferedWire(9000, 43_210)
        self.outflow = Outflow(self.client, lambda: None)
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
        for stop in (TransportRelay.stop, lambda _: self.client.producer.stopProducing()):
            relay = self.relay(CountedBody(5))
            relay.finished.addBoth(self.ends.append)
            relay.deliver(b"ab")
            stop(relay)
            relay.deliver(b"cdefg")
            relay.source_lost()
            relay.stop()
            self.assertEqual((self.client.taken(), self.ends), (b"ab", []))

    def test_stop_in_the_middle_of_the_last_write_is_a_stop(self) -> None:
        relay = TransportRelay(CountedBody(2), self.source, self.outflow, lambda data: relay.stop())
        relay.finished.addBoth(self.ends.append)
        relay.deliver(b"ab")
        self.assertEqual(self.ends, [])

    def test_next_relay_may_start_from_the_end_of_the_last(self) -> None:
        first = self.relay(CountedBody(1))
        later: list[TransportRelay] = []
        first.finished.addCallback(lambda _: later.append(self.relay(CountedBody(1))))
        first.deliver(b"x")
        self.outflow.pauseProducing()
        self.assertEqual(self.source.producerState, "paused")
        later[0].deliver(b"y")
        self.successResultOf(later[0].finished)
        self.assertEqual(self.client.value(), b"xy")


class FileRelayTests(RelayCase):
    def relay(self, source: SpiedFile, size: int) -> FileRelay:
        relay = FileRelay(source, size, self.outflow)
        self.addCleanup(lambda: self.assertTrue(source.closed))
        return relay

    def test_file_is_sent_from_where_it_stands_and_closed_and_the_end_told(self) -> None:
        source = SpiedFile(b">>hello")
        source.seek(2)
        relay = self.relay(source, 5)
        self.assertEqual((source.reads, self.client.value()), ([], b""))
        relay.start()
        self.assertIsNone(self.successResultOf(relay.finished))
        self.assertEqual((relay.sent, self.client.value()), (5, b"hello"))
        self.assertTrue(source.closed)

    def test_empty_file_is_sent_even_to_a_paused_outflow(self) -> None:
        self.outflow.pauseProducing()
        relay = self.relay(SpiedFile(b""), 0)
        relay.start()
        self.assertIsNone(self.successResultOf(relay.finished))

    def test_one_chunk_is_read_for_each_time_that_the_transport_is_empty(self) -> None:
        content = bytes(range(256)) * 4096 + b"the rest"
        source = SpiedFile(content)
        relay = self.relay(source, len(content))
        relay.start()
        received, rounds = b"", 0
        while not relay.finished.called:
            rounds += 1
            self.assertEqual(source.reads, [CHUNK] * rounds)
            self.assertEqual(relay.sent, CHUNK * rounds)
            received += self.client.drain()
        self.assertEqual(received + self.client.drain(), content)
        self.assertEqual(source.reads, [CHUNK] * 8 + [8])
        self.assertEqual((rounds, self.client.most), (8, CHUNK))
        self.successResultOf(relay.finished)

    def test_paused_outflow_gets_nothing_until_it_is_empty(self) -> None:
        self.outflow.pauseProducing()
        relay = self.relay(SpiedFile(b"hello"), 5)
        relay.start()
        self.assertEqual((relay.sent, self.client.value()), (0, b""))
        self.assertNoResult(relay.finished)
        self.client.producer.resumeProducing()
        self.assertEqual(self.client.value(), b"hello")
        self.successResultOf(relay.finished)

    def test_shrunk_file_is_short_and_says_by_how_much(self) -> None:
        relay = self.relay(SpiedFile(b"hel"), 5)
        relay.start()
        short = self.failureResultOf(relay.finished, SourceShort).value
        self.assertEqual(short.missing, "2 bytes")
        self.assertEqual((relay.sent, self.client.value()), (3, b"hel"))

    def test_grown_file_is_sent_up_to_the_promised_size(self) -> None:
        for size in (5, CHUNK, CHUNK + 1):
            self.setUp()
            source = SpiedFile(b"x" * (size + 10))
            relay = self.relay(source, size)
            relay.start()
            sent = self.client.drain() + self.client.drain()
            self.assertEqual((len(sent), relay.sent, sum(source.reads)), (size, size, size))
            self.successResultOf(relay.finished)

    def test_failing_read_is_told(self) -> None:
        source = SpiedFile(b"x" * (CHUNK + 5))
        relay = self.relay(source, CHUNK + 5)
        relay.start()
        source.failing = True
        self.client.drain()
        self.assertEqual(self.failureResultOf(relay.finished, OSError).value.errno, errno.EIO)

    def test_nothing_is_sent_or_told_after_stop_or_without_a_client(self) -> None:
        for stop in (FileRelay.stop, lambda _: self.client.producer.stopProducing()):
            source = SpiedFile(b"x" * (CHUNK + 5))
            relay = self.relay(source, CHUNK + 5)
            relay.finished.addBoth(self.ends.append)
            relay.start()
            stop(relay)
            self.assertTrue(source.closed)
            relay.stop()
            self.client.drain()
            relay.resumeProducing()
            self.assertEqual((self.client.value(), relay.sent, self.ends), (b"", CHUNK, []))

    def test_stop_in_the_middle_of_the_last_write_is_a_stop(self) -> None:
        relay = self.relay(SpiedFile(b"x"), 1)
        relay.finished.addBoth(self.ends.append)
        self.patch(self.client, "write", lambda data: relay.stop())
        relay.start()
        self.assertEqual(self.ends, [])

    def test_relay_that_has_ended_is_not_kept(self) -> None:
        relay = self.relay(SpiedFile(b"x"), 1)
        relay.start()
        kept = weakref.ref(relay)
        del relay
        gc.collect()
        self.assertIsNone(kept())

    def test_next_relay_may_start_from_the_end_of_the_last(self) -> None:
        first = self.relay(SpiedFile(b"a"), 1)
        second = self.relay(SpiedFile(b"b" * (CHUNK + 1)), CHUNK + 1)
        first.finished.addCallback(lambda _: second.start())
        first.start()
        self.client.drain()
        self.assertEqual(self.client.drain(), b"b")
        self.successResultOf(second.finished)
