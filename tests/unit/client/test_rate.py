"""The lowest rate that counts as progress, and the limit of the rate of several transfers."""

from __future__ import annotations

import math
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import ConnectionBroken, UsageError
from natproxy.client.rate import CATCH_UP, RateLimit, RateMonitor


class RateMonitorTests(SynchronousTestCase):
    def test_too_low_rate_is_a_temporary_failure(self) -> None:
        monitor = RateMonitor("h:1", 1)
        for _ in range(60):
            monitor.received(1023, 1)
        error = self.assertRaises(ConnectionBroken, monitor.received, 1, 1)
        self.assertEqual(str(error), "h:1 sent less than 1024 bytes a second")
        self.assertTrue(error.passing)

    def test_minimum_rate_suffices(self) -> None:
        monitor = RateMonitor("h:1", 1)
        for _ in range(1000):
            monitor.received(1024, 1)

    def test_window_is_at_least_twice_the_timeout(self) -> None:
        monitor = RateMonitor("h:1", 500)
        monitor.received(1, 500)
        monitor.received(1, 500)
        self.assertRaises(ConnectionBroken, monitor.received, 1, 1)


class RateLimitTests(SynchronousTestCase):
    def test_invalid_rates_are_rejected(self) -> None:
        for rate in (0.0, -1.0, math.nan, math.inf):
            self.assertRaises(UsageError, RateLimit, rate)

    def test_delay_includes_earlier_bytes(self) -> None:
        clock = Clock()
        limit = RateLimit(100, clock.seconds)
        self.assertEqual(limit.take(50), 0.5)
        self.assertEqual(limit.take(100), 1.5)
        clock.advance(1)
        self.assertEqual(limit.take(0), 0.5)

    def test_idle_time_is_not_saved_up(self) -> None:
        clock = Clock()
        limit = RateLimit(100, clock.seconds)
        clock.advance(1000)
        self.assertEqual(limit.take(100), 1 - CATCH_UP)

    def test_late_transfer_catches_up(self) -> None:
        clock = Clock()
        limit = RateLimit(100, clock.seconds)
        for _ in range(10):
            clock.advance(limit.take(100) + 0.1)
        self.assertAlmostEqual(clock.seconds() + limit.take(0), 10.1)

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 2)), max_size=50))
    def test_rate_is_never_exceeded(self, takes: list[tuple[int, float]]) -> None:
        clock = Clock()
        limit = RateLimit(1000, clock.seconds)
        taken = 0
        for size, idle in takes:
            taken += size
            clock.advance(limit.take(size))
            allowed = 1000 * (clock.seconds() + CATCH_UP)
            self.assertLessEqual(taken, allowed * (1 + 1e-9) + 1e-6)
            clock.advance(idle)

    def test_threads_share_the_limit(self) -> None:
        clock = Clock()
        limit = RateLimit(100, clock.seconds)
        threads = [
            threading.Thread(target=lambda: [limit.take(1) for _ in range(500)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        self.assertAlmostEqual(limit.take(0), 20)

    def test_chunk_size_is_bounded(self) -> None:
        for rate, chunk_size in ((1, 4096), (10**6, 10**5), (10**12, 1 << 20)):
            self.assertEqual(RateLimit(rate).chunk_size, chunk_size)
