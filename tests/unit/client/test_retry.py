"""Retries of temporary failures: delays, limits, progress, outages and cancellation."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import (
    CannotConnect,
    Changed,
    ConnectionBroken,
    GaveUp,
    Interrupted,
    Limited,
    NotFound,
    Unavailable,
)
from natproxy.client.errors import error_of
from natproxy.client.retry import (
    LONGEST_LIMITED,
    Cancellation,
    FailureCount,
    Outage,
    ProgressRule,
    Retrier,
    RetryContext,
    RetryPolicy,
    backoff,
    format_duration,
    parse_duration,
)

BROKEN = ConnectionBroken("lost")


class BackoffTests(SynchronousTestCase):
    def test_each_delay_is_twice_the_previous_one_up_to_a_limit(self) -> None:
        delays = [backoff(failures, lambda: 0.5) for failures in range(1, 10)]
        self.assertEqual(delays, [0.5, 1, 2, 4, 8, 16, 30, 30, 30])

    def test_jitter_varies_a_delay_by_half(self) -> None:
        for jitter, expected in ((0.0, 0.25), (1.0, 0.75)):
            self.assertEqual(backoff(1, lambda jitter=jitter: jitter), expected)  # type: ignore[misc]

    @settings(deadline=None)
    @given(st.integers(1, 10**9))
    def test_any_number_of_failures(self, failures: int) -> None:
        self.assertTrue(0.25 <= backoff(failures) <= 45)


class DurationTests(SynchronousTestCase):
    def test_valid_durations(self) -> None:
        for text, seconds in (
            ("90", 90),
            ("90s", 90),
            ("0", 0),
            ("1.5", 1.5),
            ("30m", 1800),
            ("2h", 7200),
            ("2H", 7200),
            ("inf", math.inf),
        ):
            self.assertEqual(parse_duration(text), seconds)

    def test_invalid_durations(self) -> None:
        for text in ("", "-1", "1d", "m", "nan", "1e3", "infinity", "1 h", "\u0665", "9" * 500):
            error = self.assertRaises(ValueError, parse_duration, text)
            self.assertIn("must be a duration", str(error))

    def test_format_uses_the_largest_unit(self) -> None:
        for seconds, text in ((1800, "30 min"), (7200, "2 h"), (90, "90 s"), (0.5, "0.5 s")):
            self.assertEqual(format_duration(seconds), text)


class RetryContextTests(SynchronousTestCase):
    def test_interrupt_cancels_each_delay(self) -> None:
        context = RetryContext()
        context.interrupt()
        reported = threading.Semaphore(0)
        ended: list[Exception] = []

        def step() -> None:
            raise BROKEN

        def run() -> None:
            policy = RetryPolicy(math.inf)
            retry = Retrier(context, policy, Cancellation(), lambda _: reported.release())
            try:
                retry(step)
            except Interrupted as error:
                ended.append(error)

        with mock.patch("natproxy.client.retry.backoff", return_value=10**6):
            threads = [threading.Thread(target=run) for _ in range(2)]
            for thread in threads:
                thread.start()
            for _ in threads:
                reported.acquire(timeout=10)
            for thread in threads:
                while thread.is_alive():
                    # A thread may not have begun to wait before the last call.
                    context.interrupt()
                    thread.join(0.05)
        self.assertEqual(len(ended), 2)


class CancellationTests(SynchronousTestCase):
    def test_check_and_sleep_raise_after_cancel(self) -> None:
        cancellation = Cancellation()
        cancellation.check()
        cancellation.sleep(0)
        cancellation.cancel()
        cancellation.cancel()
        self.assertRaises(Interrupted, cancellation.check)
        self.assertRaises(Interrupted, cancellation.sleep, 10**6)

    def test_cancel_ends_a_sleep(self) -> None:
        cancellation = Cancellation()
        asleep = threading.Event()
        woken: list[Exception] = []

        def sleep() -> None:
            asleep.set()
            try:
                cancellation.sleep(60)
            except Interrupted as error:
                woken.append(error)

        thread = threading.Thread(target=sleep)
        thread.start()
        asleep.wait(10)
        cancellation.cancel()
        thread.join(10)
        self.assertEqual(len(woken), 1)


class RetrierCase(SynchronousTestCase):
    """Steps that fail while a simulated clock advances."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.retry_context = RetryContext(self.clock.seconds)

    def retrier(
        self,
        retry_for: float = 1800,
        retries: int | None = None,
        wait: bool = False,
        outage: Outage | None = None,
    ) -> Retrier:
        self.reports: list[str] = []
        self.cancellation = Cancellation()
        self.delays: list[float] = []

        def sleep(seconds: float) -> None:
            self.delays.append(seconds)
            self.clock.advance(seconds)

        self.patch(self.cancellation, "sleep", sleep)
        policy = RetryPolicy(retry_for, retries, wait)
        return Retrier(
            self.retry_context,
            policy,
            self.cancellation,
            self.reports.append,
            outage,
        )

    def step(self, *outcomes: object) -> Callable[[], object]:
        self.steps = mock.Mock(side_effect=outcomes)
        return self.steps

    def failing(self, error: Exception, lasting: float = 0.0, until: float = math.inf) -> object:
        """Return a step that lasts some seconds and fails until a point in time."""

        def step() -> float:
            self.clock.advance(lasting)
            if self.clock.seconds() < until:
                raise error
            return self.clock.seconds()

        return step


class RetrierTests(RetrierCase):
    def test_successful_step_runs_once(self) -> None:
        self.assertEqual(self.retrier()(self.step(5)), 5)
        self.assertEqual((self.reports, self.delays), ([], []))

    def test_temporary_failures_are_retried_and_reported(self) -> None:
        result = self.retrier()(self.step(BROKEN, Unavailable("full"), BROKEN, 5))
        self.assertEqual(result, 5)
        self.assertEqual(len(self.delays), 3)
        for delay, report, reason in zip(
            self.delays, self.reports, ("lost", "full", "lost"), strict=True
        ):
            self.assertEqual(report, f"{reason}; trying again in {delay:.1f} s")

    def test_permanent_failures_are_raised_at_once(self) -> None:
        for error in (NotFound("a"), Changed("a"), Interrupted("a")):
            self.assertIs(self.assertRaises(type(error), self.retrier(), self.step(error)), error)
            self.assertEqual(self.delays, [])

    def test_error_is_raised_unchanged_without_retries(self) -> None:
        for policy in ({"retry_for": 0}, {"retries": 0}):
            retry = self.retrier(**policy)
            error = self.assertRaises(ConnectionBroken, retry, self.step(BROKEN, 5))
            self.assertIs(error, BROKEN)

    def test_first_connection_is_not_retried(self) -> None:
        self.assertRaises(CannotConnect, self.retrier(), self.step(CannotConnect("refused"), 5))
        self.assertEqual(self.delays, [])

    def test_first_connection_is_retried_with_wait(self) -> None:
        retry = self.retrier(60, wait=True)
        self.assertEqual(retry(self.step(CannotConnect("refused"), 5)), 5)
        self.retry_context.reached = False
        retry = self.retrier(60, wait=True)
        self.assertRaises(GaveUp, retry, self.failing(CannotConnect("refused")))

    def test_later_connections_are_retried(self) -> None:
        self.retrier()(self.step(1))
        # Another call of the same session.
        self.assertEqual(self.retrier()(self.step(CannotConnect("refused"), 5)), 5)
        # A lost connection shows that the server has been reached.
        self.retry_context = RetryContext(self.clock.seconds)
        self.assertEqual(self.retrier()(self.step(BROKEN, CannotConnect("refused"), 5)), 5)

    def test_cancellation_takes_precedence_over_failures(self) -> None:
        retry = self.retrier()

        def step() -> None:
            self.cancellation.cancel()
            raise NotFound("a")

        self.assertRaises(Interrupted, retry, step)
        never = mock.Mock()
        self.assertRaises(Interrupted, retry, never)
        never.assert_not_called()

    def test_other_exceptions_are_not_caught(self) -> None:
        for error in (KeyboardInterrupt, ZeroDivisionError):
            self.assertRaises(error, self.retrier(), self.step(error))


class RetryPolicyTests(RetrierCase):
    def test_retry_for_counts_from_the_first_failure(self) -> None:
        error = self.assertRaises(GaveUp, self.retrier(), self.failing(BROKEN))
        self.assertEqual(str(error), "lost (gave up after 30 min without progress)")
        self.assertIs(error.__cause__, BROKEN)
        # The last attempt is made at the end of that time.
        self.assertAlmostEqual(self.clock.seconds(), 1800)

    def test_duration_of_attempts_does_not_matter(self) -> None:
        for lasting in (0.1, 5, 60):
            self.clock = Clock()
            step = self.failing(BROKEN, lasting, until=1700)
            self.assertGreater(self.retrier()(step), 1700)

    def test_outage_of_ten_minutes_is_survived(self) -> None:
        self.retry_context.reached = True
        step = self.failing(CannotConnect("refused"), until=600)
        self.assertGreater(self.retrier()(step), 600)

    def test_infinite_retry_for(self) -> None:
        step = self.failing(BROKEN, 1000, until=10**7)
        self.assertGreater(self.retrier(math.inf)(step), 10**7)

    def test_failure_of_a_long_step_is_retried(self) -> None:
        self.assertGreater(self.retrier()(self.failing(BROKEN, 5000, until=6000)), 6000)

    def test_retries_may_end_before_retry_for(self) -> None:
        error = self.assertRaises(GaveUp, self.retrier(retries=2), self.step(*[BROKEN] * 3))
        self.assertEqual(str(error), "lost (gave up after 3 tries)")
        self.assertEqual(len(self.delays), 2)
        began = self.clock.seconds()
        self.assertRaises(GaveUp, self.retrier(10, retries=1000), self.failing(BROKEN))
        self.assertAlmostEqual(self.clock.seconds() - began, 10)

    def test_failures_are_counted_for_each_step(self) -> None:
        retry = self.retrier(retries=1)
        for _ in range(3):
            self.assertEqual(retry(self.step(BROKEN, 5)), 5)


class LimitedTests(SynchronousTestCase):
    """The server says after how many seconds a limited client may send its command again."""

    def delay(self, reply: bytes, policy: RetryPolicy) -> float:
        clock = Clock()
        context = RetryContext(clock.seconds)
        retrier = Retrier(context, policy, Cancellation(), lambda _: None)
        return retrier.delay_after(error_of(reply), FailureCount())

    def test_delay_is_at_least_that(self) -> None:
        for code in (b"429 ", b""):
            delay = self.delay(code + b"too many commands retry-after=7", RetryPolicy(1800.0))
            self.assertTrue(7 < delay < 8, delay)

    def test_without_it_the_delay_is_that_of_every_failure(self) -> None:
        self.assertLess(self.delay(b"429 too many digests at once", RetryPolicy(1800.0)), 1)

    def test_delay_is_bounded(self) -> None:
        reply = b"429 too many commands retry-after=100000"
        self.assertLess(self.delay(reply, RetryPolicy(1800.0)), LONGEST_LIMITED + 1)
        self.assertEqual(self.delay(reply, RetryPolicy(60.0)), 60.0)

    def test_text_and_exit_status(self) -> None:
        error = error_of(b"429 too many commands of this client retry-after=7", b"a")
        assert isinstance(error, Limited)
        self.assertEqual(str(error), "a: too many commands of this client; try again in 7 s")
        self.assertEqual((error.retry_after, error.exit_status, error.passing), (7, 13, True))


class ProgressTests(RetrierCase):
    def test_single_bytes_are_no_progress(self) -> None:
        retry = self.retrier()

        def step() -> None:
            retry.received(1)
            raise BROKEN

        self.assertRaises(GaveUp, retry, step)
        self.assertAlmostEqual(self.clock.seconds(), 1800)

    def test_many_bytes_are_progress(self) -> None:
        retry = self.retrier(retries=2)

        def step() -> None:
            retry.received(60 * 1024)
            if self.clock.seconds() < 10_000:
                self.clock.advance(20)
                raise BROKEN

        retry(step)
        # After progress, each delay is a first one.
        self.assertLessEqual(max(self.delays), 0.75)

    def test_too_low_rate_fails(self) -> None:
        retry = self.retrier()

        def step() -> None:
            while True:
                self.clock.advance(50)
                retry.received(1)

        error = self.assertRaises(GaveUp, retry, step)
        self.assertEqual(str(error), "less than 1024 bytes a second for 30 min")
        self.assertLess(self.clock.seconds(), 4000)

    def receive(self, retry: Retrier, rate: int, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            retry.received(rate)

    def test_minimum_rate_is_progress(self) -> None:
        self.receive(self.retrier(), 1024, 10_000)
        self.receive(self.retrier(1), 1024, 10_000)
        self.assertRaises(GaveUp, self.receive, self.retrier(), 1000, 10_000)

    def test_minimum_rate_can_be_lower(self) -> None:
        retry = self.retrier()
        retry._minimum_rate = 5.0
        self.receive(retry, 100, 10_000)

    def test_stopped_process_continues(self) -> None:
        retry = self.retrier()
        retry.received(1)
        self.clock.advance(10**5)
        retry.received(1)

    def test_progress_of_one_thread_counts_for_all(self) -> None:
        retry = self.retrier(retries=2)
        left = iter(range(10))

        def step() -> None:
            if next(left, None) is not None:
                # Another segment's.
                retry.received(1 << 20)
                raise BROKEN

        retry(step)

    def test_too_low_rate_fails_without_retries(self) -> None:
        for options in ({"retry_for": 0}, {"retries": 0}):
            retry = self.retrier(**options)  # type: ignore[arg-type]
            began = self.clock.seconds()
            error = self.assertRaises(GaveUp, self.receive, retry, 1, 10_000)
            self.assertEqual(str(error), "less than 1024 bytes a second for 2 min")
            self.assertLess(self.clock.seconds() - began, 130)
        self.receive(self.retrier(0), 1024, 10_000)

    def test_window_is_at_least_the_timeout_without_retries(self) -> None:
        retry = Retrier(
            self.retry_context,
            RetryPolicy(),
            Cancellation(),
            self.fail,
            progress=ProgressRule(timeout=500),
        )
        retry.received(1)
        for _ in range(3):
            self.clock.advance(499)
            retry.received(1)
        self.clock.advance(499)
        self.assertRaises(GaveUp, retry.received, 1)

    def test_stopped_process_continues_without_retries(self) -> None:
        retry = self.retrier(0)
        retry.received(1)
        self.clock.advance(10**5)
        retry.received(1)

    def test_pauses_are_not_measured(self) -> None:
        for retry_for in (0, 60, 1800):
            retry = self.retrier(retry_for)
            retry.resume()
            for _ in range(1000):
                retry.pause()
                self.clock.advance(100)
                retry.pause()
                self.clock.advance(100)
                retry.resume()
                retry.received(1)


class OutageTests(RetrierCase):
    def test_transfer_that_begins_in_an_outage_fails_with_the_others(self) -> None:
        outage = Outage()
        self.assertRaises(GaveUp, self.retrier(100, outage=outage), self.failing(BROKEN))
        self.assertAlmostEqual(self.clock.seconds(), 100)
        self.assertRaises(GaveUp, self.retrier(100, outage=outage), self.step(BROKEN))
        self.assertAlmostEqual(self.clock.seconds(), 100)

    def test_success_of_another_transfer_during_a_failure(self) -> None:
        outage = Outage()

        class Succeeding(Outage):
            def failed(self, now: float) -> float:
                since = outage.failed(now)
                outage.end()
                return since

        retry = self.retrier(60, outage=Succeeding())
        self.clock.advance(7)
        for _ in range(2):
            self.assertGreater(retry.delay_after(BROKEN, FailureCount()), 0)
        self.assertEqual(outage.failed(9), 9)

    def test_each_transfer_is_attempted_once(self) -> None:
        outage = Outage()
        self.assertRaises(GaveUp, self.retrier(100, outage=outage), self.failing(BROKEN))
        self.assertEqual(self.retrier(100, outage=outage)(self.step(5)), 5)
        # After a success there is no outage.
        self.assertEqual(self.retrier(100, outage=outage)(self.step(BROKEN, 5)), 5)
