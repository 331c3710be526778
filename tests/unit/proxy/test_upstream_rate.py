"""An upstream that sends a body slowly: what counts as its time, and what follows."""

from __future__ import annotations

from natproxy.nat import Event, Outcome, Removed
from natproxy.server.minimum_rate import INTERVAL, WINDOW
from tests.support.doubles import Upstream
from tests.support.proxies import ProxyCase

RATE = 10
TIMEOUT = 20.0


class SlowUpstreamTests(ProxyCase):
    def setUp(self) -> None:
        super().setUp()
        self.factory.minimum_rate.rate = RATE
        self.factory.resources.replies.change(TIMEOUT)
        self.outcomes: list[Outcome] = []
        self.factory.table.subscribe(self.note, (Removed,))

    def note(self, event: Event) -> None:
        assert isinstance(event, Removed)
        self.outcomes.append(event.outcome)

    def begin(self) -> Upstream:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 100000\n")
        return upstream

    def drip(self, upstream: Upstream, seconds: float, size: int) -> None:
        """Send bytes at each look."""
        for _ in range(int(seconds / INTERVAL)):
            upstream.send(bytes(size))
            self.clock.advance(INTERVAL)

    def test_upstream_that_drips(self) -> None:
        upstream = self.begin()
        self.drip(upstream, WINDOW - INTERVAL, 1)
        self.assertFalse(self.wire.aborted)
        self.drip(upstream, INTERVAL, 1)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.outcomes, [Outcome.TIMEOUT])
        line = self.journal.line_with("fewer")
        self.assertIn("sent fewer than 10 bytes a second to 127.0.0.1:43210", line)

    def test_upstream_that_sends_at_the_rate(self) -> None:
        self.drip(self.begin(), 5 * WINDOW, int(RATE * INTERVAL))
        self.assertFalse(self.wire.aborted)

    def test_rate_of_0_is_no_limit(self) -> None:
        self.factory.minimum_rate.rate = 0
        self.drip(self.begin(), 5 * WINDOW, 1)
        self.assertFalse(self.wire.aborted)

    def test_time_in_which_the_client_holds_the_reply_up_does_not_count(self) -> None:
        upstream = self.begin()
        self.drip(upstream, WINDOW - INTERVAL, 1)
        self.wire.fill()
        self.drip(upstream, WINDOW - INTERVAL, 0)
        self.wire.empty()
        # The whole of an interval must be the upstream's.
        self.drip(upstream, INTERVAL, 1)
        self.assertFalse(self.wire.aborted)
        self.drip(upstream, INTERVAL, 1)
        self.assertTrue(self.wire.aborted)

    def test_time_in_which_a_limit_holds_the_reply_up_does_not_count(self) -> None:
        upstream = self.begin()
        self.protocol.outbound.held = True
        self.drip(upstream, 3 * WINDOW, 0)
        self.assertFalse(self.wire.aborted)

    def test_silence_that_is_allowed_is_not_slow(self) -> None:
        self.factory.resources.replies.change(4 * WINDOW)
        upstream = self.begin()
        self.drip(upstream, 4 * WINDOW - INTERVAL, 0)
        self.assertFalse(self.wire.aborted)
        self.drip(upstream, INTERVAL, 1)
        self.assertTrue(self.wire.aborted)

    def test_end_of_the_body_ends_the_measurement(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 2\na")
        upstream.send(b"b")
        self.assertEqual(self.outcomes, [Outcome.COMPLETED])
        self.assertEqual(len(self.factory.minimum_rate.looks._due), 0)

    def test_total_time_of_a_body(self) -> None:
        self.factory.minimum_rate.rate = 0
        self.factory.bodies.change(4 * WINDOW)
        upstream = self.begin()
        self.drip(upstream, 4 * WINDOW - INTERVAL, 100)
        self.assertFalse(self.wire.aborted)
        self.drip(upstream, INTERVAL, 100)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.outcomes, [Outcome.TIMEOUT])
