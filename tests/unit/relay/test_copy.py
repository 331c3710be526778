"""Copying a body: exact counts, backpressure in both directions, and every end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.counts import byte_count
from natproxy.protocol import CountedBody, ListingBody
from natproxy.relay import Outbound, SocketJob, SourceShort
from natproxy.relay.copy import CopyRelay
from natproxy.relay.job import Ended
from natproxy.relay.outbound import DIRECT
from natproxy.relay.rotation import TURN, Rotation
from tests.support.doubles import HIGH_WATER, BufferedWire, TurnClock, Wire
from tests.support.relay_cases import HEADER, Account, Ends


class CopyRelayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.new_client()
        self.source = Wire(50_000, 9001)
        self.ends = Ends()
        self.clock = TurnClock()
        self.rotation = Rotation(self.clock)

    def new_client(self) -> None:
        self.client = BufferedWire(9000, 43_210)
        self.outbound = Outbound(self.client, lambda: None)
        self.account = Account(self.outbound)

    def job(self, body: CountedBody | ListingBody, ended: Ended) -> SocketJob:
        account, source = self.account, self.source
        return SocketJob(
            HEADER, body, 0, source, source, self.outbound, account, lambda: None, ended
        )

    def relay(self, body: CountedBody | ListingBody) -> CopyRelay:
        """Return a relay that has been started; what it has written is forgotten."""
        self.ends.clear()
        relay = CopyRelay(self.job(body, self.ends), self.rotation)
        relay.start()
        self.account.written.clear()
        self.client.taken()
        return relay

    def test_header_is_written_at_the_start(self) -> None:
        relay = CopyRelay(self.job(CountedBody(9), self.ends), self.rotation)
        self.assertEqual((relay.begun, relay.sent, self.account.written), (False, 0, []))
        relay.start()
        relay.deliver(b"abc")
        self.assertEqual(self.account.written, [HEADER, b"abc"])
        self.assertEqual((relay.begun, relay.sent), (True, len(HEADER) + 3))
        self.assertEqual(relay._header, b"", "held until the end of the body")

    def test_body_is_written_by_the_account_and_surplus_dropped(self) -> None:
        relay = self.relay(CountedBody(5))
        relay.deliver(b"abc")
        self.assertEqual(self.ends, [])
        relay.deliver(b"defg")
        relay.deliver(b"hij")
        relay.source_lost()
        self.assertEqual(self.ends, [None])
        self.assertEqual(self.account.written, [b"abc", b"de"])
        self.assertEqual(self.client.value(), b"abcde")

    def test_listing_ends_at_its_end_line(self) -> None:
        relay = self.relay(ListingBody())
        relay.deliver(b"a\nEN")
        self.assertEqual(self.ends, [])
        relay.deliver(b"D\nb\nEND\n")
        self.assertEqual(self.ends, [None])
        self.assertEqual(self.client.value(), b"a\nEND\n")

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.binary(max_size=8), max_size=12), st.integers(1, 60))
    def test_promised_bytes_are_written_whatever_the_pieces(
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
            self.assertEqual(self.ends, [None])
        else:
            lost = self.ends.error(SourceShort)
            self.assertEqual(lost.missing, byte_count(size - len(sent)))

    def test_source_is_paused_while_the_client_does_not_read(self) -> None:
        relay = self.relay(CountedBody(HIGH_WATER + 10))
        relay.deliver(b"x" * HIGH_WATER)
        self.assertEqual(self.source.producerState, "producing")
        relay.deliver(b"x")
        self.assertEqual(self.source.producerState, "paused")
        self.client.drain()
        self.assertEqual(self.source.producerState, "producing")
        relay.deliver(b"x" * 9)
        self.assertEqual(self.ends, [None])

    def test_source_is_paused_at_once_if_the_outbound_is(self) -> None:
        self.client.write(b"x" * (HIGH_WATER + 1))
        relay = self.relay(CountedBody(5))
        self.assertEqual(self.source.producerState, "paused")
        # What had been received before the pause is not lost.
        relay.deliver(b"ab")
        self.assertEqual(self.client.drain()[-2:], b"ab")
        self.assertEqual(self.source.producerState, "producing")
        relay.cancel()

    def test_source_is_paused_until_its_turn_when_the_bytes_of_a_turn_are_used_up(self) -> None:
        relay = self.relay(CountedBody(1 << 30))
        read = b"x" * DIRECT
        for _ in range(TURN // DIRECT):
            self.assertEqual(self.source.producerState, "producing")
            relay.deliver(read)
            self.client.drain()
        self.assertEqual((self.source.producerState, relay in self.rotation), ("paused", True))
        self.clock.turn()
        self.assertEqual((self.source.producerState, relay in self.rotation), ("producing", False))
        # One read was counted when the turn began, and the other relays may use up the rest.
        self.rotation.count(TURN - DIRECT)
        relay.deliver(read)
        self.client.drain()
        self.assertEqual((self.source.producerState, relay in self.rotation), ("paused", True))
        relay.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_read_after_that_of_a_turn_is_counted(self) -> None:
        relay = self.relay(CountedBody(1 << 30))
        self.rotation.count(TURN)
        relay.deliver(b"x")
        self.clock.turn()
        for _ in range(TURN // DIRECT):
            relay.deliver(b"x" * DIRECT)
            self.client.drain()
        self.assertIn(relay, self.rotation)
        relay.cancel()

    def test_source_that_waits_for_its_turn_is_not_resumed_by_the_client(self) -> None:
        relay = self.relay(CountedBody(1 << 30))
        self.rotation.count(TURN)
        relay.deliver(b"x" * (HIGH_WATER + 1))
        self.assertTrue(self.outbound.paused)
        self.client.drain()
        self.assertEqual(self.source.producerState, "paused")
        self.clock.turn()
        self.assertEqual(self.source.producerState, "producing")

    def test_turn_does_not_resume_a_source_that_the_client_pauses(self) -> None:
        relay = self.relay(CountedBody(1 << 30))
        self.rotation.count(TURN)
        relay.deliver(b"x" * (HIGH_WATER + 1))
        self.clock.turn()
        self.assertEqual(self.source.producerState, "paused")
        self.client.drain()
        self.assertEqual(self.source.producerState, "producing")
        relay.cancel()

    def test_source_is_left_alone_after_the_end(self) -> None:
        for end in ("deliver", "source_lost", "cancel"):
            relay = self.relay(CountedBody(1))
            getattr(relay, end)(*([b"x"] if end == "deliver" else []))
            self.outbound.pauseProducing()
            self.assertEqual(self.source.producerState, "producing", end)
            self.outbound.resumeProducing()

    def test_lost_source_is_short_and_the_error_states_by_how_much(self) -> None:
        relay = self.relay(CountedBody(5))
        relay.deliver(b"ab")
        relay.source_lost()
        short = self.ends.error(SourceShort)
        self.assertEqual((short.missing, str(short)), ("3 bytes", "3 bytes missing"))
        relay = self.relay(ListingBody())
        relay.deliver(b"a\nEND")
        relay.source_lost()
        short = self.ends.error(SourceShort)
        self.assertEqual(short.missing, "the rest up to END")

    def test_nothing_is_written_or_reported_after_cancel_or_without_a_client(self) -> None:
        for cancel in (CopyRelay.cancel, lambda _: self.client.producer.stopProducing()):
            relay = self.relay(CountedBody(5))
            relay.deliver(b"ab")
            cancel(relay)
            relay.deliver(b"cdefg")
            relay.source_lost()
            relay.cancel()
            self.assertEqual((self.client.taken(), self.ends), (b"ab", []))

    def test_cancel_during_the_last_write_reports_nothing(self) -> None:
        relay = self.relay(CountedBody(2))
        self.patch(self.account, "write", lambda data: relay.cancel())
        relay.deliver(b"ab")
        self.assertEqual(self.ends, [])

    def test_cancel_during_the_write_of_the_header_leaves_the_outbound_free(self) -> None:
        relay = CopyRelay(self.job(CountedBody(2), self.ends), self.rotation)
        self.patch(self.account, "write", lambda data: relay.cancel())
        relay.start()
        self.outbound.pauseProducing()
        self.assertEqual(self.source.producerState, "producing")

    def test_next_relay_may_start_from_the_end_of_the_last(self) -> None:
        later: list[CopyRelay] = []
        first = CopyRelay(
            self.job(CountedBody(1), lambda _: later.append(self.relay(CountedBody(1)))),
            self.rotation,
        )
        first.start()
        first.deliver(b"x")
        self.outbound.pauseProducing()
        self.assertEqual(self.source.producerState, "paused")
        later[0].deliver(b"y")
        self.assertEqual(self.ends, [None])
