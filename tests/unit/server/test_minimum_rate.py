"""The rate at which clients must read: what counts as their time, and what they have taken."""

from __future__ import annotations

from natproxy.nat import Outcome
from natproxy.server.minimum_rate import INTERVAL, WINDOW
from tests.support.echo_receiver import CommandsCase

RATE = 1000
ENOUGH = int(RATE * WINDOW)


class MinimumRateTests(CommandsCase):
    at_once = False

    def setUp(self) -> None:
        super().setUp()
        self.factory.minimum_rate.rate = RATE

    def begin(self) -> None:
        """Begin a command, whose client does not read."""
        self.send(b"one\n")
        self.wire.fill()

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / INTERVAL)):
            self.clock.advance(INTERVAL)

    def assert_cut_off(self) -> None:
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.protocol.cancelled, [Outcome.TIMEOUT])

    def test_client_that_does_not_read_is_cut_off_after_the_window(self) -> None:
        self.begin()
        self.wait(WINDOW - INTERVAL)
        self.assertFalse(self.wire.aborted)
        self.wait(INTERVAL)
        self.assert_cut_off()

    def test_client_that_reads_a_byte_too_few(self) -> None:
        self.begin()
        self.protocol.outbound.write(bytes(ENOUGH - 1))
        self.wait(WINDOW)
        self.assert_cut_off()

    def test_client_that_reads_at_the_rate(self) -> None:
        self.begin()
        for _ in range(5):
            self.protocol.outbound.write(bytes(ENOUGH // 2))
            self.protocol.outbound.moved(ENOUGH // 2)
            self.wait(WINDOW)
        self.assertFalse(self.wire.aborted)
        # What it has taken earlier does not count for later.
        self.wait(WINDOW)
        self.assert_cut_off()

    def test_bytes_in_the_queue_of_the_kernel_are_not_taken(self) -> None:
        self.begin()
        outbound = self.protocol.outbound
        self.patch(type(outbound), "taken", lambda self: self.sent - 1 if self.sent else 0)
        outbound.write(bytes(ENOUGH))
        self.wait(WINDOW)
        self.assert_cut_off()

    def test_time_in_which_the_upstream_holds_it_up_does_not_count(self) -> None:
        self.begin()
        self.wait(WINDOW - INTERVAL)
        self.wire.empty()
        self.wait(10 * WINDOW)
        self.assertFalse(self.wire.aborted)
        self.wire.fill()
        self.wait(INTERVAL)
        # The whole of an interval must be the client's.
        self.assertFalse(self.wire.aborted)
        self.wait(INTERVAL)
        self.assert_cut_off()

    def test_time_in_which_a_limit_holds_it_up_does_not_count(self) -> None:
        self.begin()
        self.protocol.outbound.held = True
        self.wait(10 * WINDOW)
        self.assertFalse(self.wire.aborted)
        self.protocol.outbound.held = False
        self.wait(WINDOW + INTERVAL)
        self.assert_cut_off()

    def test_short_replies_of_which_none_is_read(self) -> None:
        self.wire.fill_when_written_to()
        self.send(b"one\n")
        self.protocol.reply()
        self.wait(WINDOW)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.protocol.cancelled, [])

    def test_client_that_reads_is_not_measured_between_commands(self) -> None:
        self.begin()
        self.wire.empty()
        self.protocol.reply()
        self.wait(WINDOW)
        self.assertEqual(len(self.factory.minimum_rate.looks._due), 0)
        self.begin()
        self.wait(WINDOW)
        self.assert_cut_off()

    def test_rate_of_0_is_no_limit(self) -> None:
        self.begin()
        self.factory.minimum_rate.rate = 0
        self.wait(2 * WINDOW)
        self.assertFalse(self.wire.aborted)
        self.wire.empty()
        self.wire.fill()
        self.assertEqual(len(self.factory.minimum_rate.looks._due), 0)

    def test_late_timer_is_not_the_time_of_the_client(self) -> None:
        self.begin()
        self.clock.advance(10 * WINDOW)
        self.assertFalse(self.wire.aborted)

    def test_client_that_disconnects_leaves_no_timer(self) -> None:
        self.begin()
        self.lose()
