"""Bodies in motion by copying: exact counts, backpressure both ways, and every end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import CountedBody, ListingBody
from natproxy.relay import Outbound, SourceShort
from natproxy.relay.copy import CopyRelay
from tests.support.doubles import HIGH_WATER, BufferedWire, Wire


class CountingSink:
    """Writes to an outbound, and keeps each piece."""

    def __init__(self, outbound: Outbound) -> None:
        self.outbound = outbound
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.outbound.write(data)

    def count(self, size: int) -> None:
        raise AssertionError("a copy is counted as it is written")


class CopyRelayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.new_client()
        self.source = Wire(50_000, 9001)
        self.ends: list[object] = []

    def new_client(self) -> None:
        self.client = BufferedWire(9000, 43_210)
        self.outbound = Outbound(self.client, lambda: None)
        self.sink = CountingSink(self.outbound)

    def relay(self, body: CountedBody | ListingBody) -> CopyRelay:
        relay = CopyRelay(b"", body, self.source, self.outbound, self.sink)
        relay.start()
        return relay

    def test_header_leaves_in_one_write_with_what_came_along(self) -> None:
        for pieces in ([b"abc"], [b"a", b"bc"]):
            self.new_client()
            relay = CopyRelay(b"OK 9\n", CountedBody(9), self.source, self.outbound, self.sink)
            for piece in pieces:
                relay.deliver(piece)
            relay.start()
            self.assertEqual(self.sink.written, [b"OK 9\n" + pieces[0], *pieces[1:]])

    def test_header_that_comes_alone_leaves_alone(self) -> None:
        relay = CopyRelay(b"OK 9\n", CountedBody(9), self.source, self.outbound, self.sink)
        relay.start()
        self.assertEqual(self.sink.written, [b"OK 9\n"])
        relay.deliver(b"abc")
        self.assertEqual(self.sink.written, [b"OK 9\n", b"abc"])

    def test_relay_that_has_ended_before_its_start_is_not_started(self) -> None:
        relay = CopyRelay(b"OK 1\n", CountedBody(1), self.source, self.outbound, self.sink)
        relay.deliver(b"a and more")
        relay.start()
        self.assertEqual(self.sink.written, [b"OK 1\na"])
        self.outbound.pauseProducing()
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

    def test_source_is_paused_at_once_if_the_outbound_is(self) -> None:
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
            self.outbound.pauseProducing()
            self.assertEqual(self.source.producerState, "producing", end)
            self.outbound.resumeProducing()

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
        self.outbound.pauseProducing()
        self.assertEqual(self.source.producerState, "paused")
        later[0].deliver(b"y")
        self.successResultOf(later[0].finished)
        self.assertEqual(self.client.value(), b"xy")
