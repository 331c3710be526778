"""How long is waited between two tries, and to stay below a rate."""

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
    NotFound,
    Unavailable,
    UsageError,
)
from natproxy.client.rate import CATCH_UP, RateLimit, RateMonitor
from natproxy.client.retry import (
    Cancellation,
    FailureCount,
    Outage,
    Retrier,
    RetryContext,
    RetryPolicy,
    backoff,
    format_duration,
    parse_duration,
)

BROKEN = ConnectionBroken("lost")


class BackoffTests(SynchronousTestCase):
    def test_each_wait_is_twice_as_long_as_the_last_up_to_a_limit(self) -> None:
        waits = [backoff(failures, lambda: 0.5) for failures in range(1, 10)]
        self.assertEqual(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30])

    def test_chance_makes_a_wait_shorter_or_longer_by_a_half(self) -> None:
        for chance, expected in ((0.0, 0.25), (1.0, 0.75)):
            self.assertEqual(backoff(1, lambda chance=chance: chance), expected)  # type: ignore[misc]

    @settings(deadline=None)
    @given(st.integers(1, 10**9))
    def test_no_number_of_failures_is_too_large(self, failures: int) -> None:
        self.assertTrue(0.25 <= backoff(failures) <= 45)


class DurationTests(SynchronousTestCase):
    def test_forms_that_are_understood(self) -> None:
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

    def test_forms_that_are_refused(self) -> None:
        for text in ("", "-1", "1d", "m", "nan", "1e3", "infinity", "1 h", "\u0665", "9" * 500):
            error = self.assertRaises(ValueError, parse_duration, text)
            self.assertIn("must be a duration", str(error))

    def test_it_is_shown_in_its_largest_unit(self) -> None:
        for seconds, text in ((1800, "30 min"), (7200, "2 h"), (90, "90 s"), (0.5, "0.5 s")):
            self.assertEqual(format_duration(seconds), text)


class ContactTests(SynchronousTestCase):
    def test_interrupt_ends_each_wait_between_two_tries(self) -> None:
        contact = RetryContext()
        contact.interrupt()
        told = threading.Semaphore(0)
        ended: list[Exception] = []

        def step() -> None:
            raise BROKEN

        def persist() -> None:
            policy = RetryPolicy(math.inf)
            retry = Retrier(contact, policy, Cancellation(), lambda _: told.release())
            try:
                retry(step)
            except Interrupted as error:
                ended.append(error)

        with mock.patch("natproxy.client.retry.backoff", return_value=10**6):
            threads = [threading.Thread(target=persist) for _ in range(2)]
            for thread in threads:
                thread.start()
            for _ in threads:
                told.acquire(timeout=10)
            for thread in threads:
                while thread.is_alive():
                    # A thread may have been about to wait.
                    contact.interrupt()
                    thread.join(0.05)
        self.assertEqual(len(ended), 2)


class PaceTests(SynchronousTestCase):
    def test_body_that_drips_is_a_temporary_failure(self) -> None:
        pace = RateMonitor("h:1", 1)
        for _ in range(60):
            pace.received(1023, 1)
        error = self.assertRaises(ConnectionBroken, pace.received, 1, 1)
        self.assertEqual(str(error), "h:1 sent less than 1024 bytes a second")
        self.assertTrue(error.passing)

    def test_least_rate_is_enough(self) -> None:
        pace = RateMonitor("h:1", 1)
        for _ in range(1000):
            pace.received(1024, 1)

    def test_long_time_out_is_a_long_window(self) -> None:
        pace = RateMonitor("h:1", 500)
        pace.received(1, 500)
        pace.received(1, 500)
        self.assertRaises(ConnectionBroken, pace.received, 1, 1)


class StopTests(SynchronousTestCase):
    def test_it_is_seen_by_those_who_look(self) -> None:
        stop = Cancellation()
        stop.check()
        stop.sleep(0)
        stop.cancel()
        stop.cancel()
        self.assertRaises(Interrupted, stop.check)
        self.assertRaises(Interrupted, stop.sleep, 10**6)

    def test_it_wakes_those_who_sleep(self) -> None:
        stop = Cancellation()
        asleep = threading.Event()
        woken: list[Exception] = []

        def sleep() -> None:
            asleep.set()
            try:
                stop.sleep(60)
            except Interrupted as error:
                woken.append(error)

        thread = threading.Thread(target=sleep)
        thread.start()
        asleep.wait(10)
        stop.cancel()
        thread.join(10)
        self.assertEqual(len(woken), 1)


class PersistenceCase(SynchronousTestCase):
    """Steps that fail while a clock runs: nobody really waits."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.retry_context = RetryContext()

    def persist(
        self,
        retry_for: float = 1800,
        retries: int | None = None,
        wait: bool = False,
        outage: Outage | None = None,
    ) -> Retrier:
        self.told: list[str] = []
        self.stop = Cancellation()
        self.waits: list[float] = []

        def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            self.clock.advance(seconds)

        self.patch(self.stop, "sleep", sleep)
        policy = RetryPolicy(retry_for, retries, wait)
        return Retrier(
            self.retry_context,
            policy,
            self.stop,
            self.told.append,
            outage=outage,
            clock=self.clock.seconds,
        )

    def step(self, *outcomes: object) -> Callable[[], object]:
        self.steps = mock.Mock(side_effect=outcomes)
        return self.steps

    def failing(self, error: Exception, lasting: float = 0.0, until: float = math.inf) -> object:
        """Give a step that fails after some seconds each time, until a moment."""

        def step() -> float:
            self.clock.advance(lasting)
            if self.clock.seconds() < until:
                raise error
            return self.clock.seconds()

        return step


class PersistenceTests(PersistenceCase):
    def test_step_that_succeeds_is_taken_once(self) -> None:
        self.assertEqual(self.persist()(self.step(5)), 5)
        self.assertEqual((self.told, self.waits), ([], []))

    def test_what_passes_is_waited_out_and_told(self) -> None:
        result = self.persist()(self.step(BROKEN, Unavailable("full"), BROKEN, 5))
        self.assertEqual(result, 5)
        self.assertEqual(len(self.waits), 3)
        for wait, told, reason in zip(self.waits, self.told, ("lost", "full", "lost"), strict=True):
            self.assertEqual(told, f"{reason}; trying again in {wait:.1f} s")

    def test_what_does_not_pass_is_raised_at_once(self) -> None:
        for error in (NotFound("a"), Changed("a"), Interrupted("a")):
            self.assertIs(self.assertRaises(type(error), self.persist(), self.step(error)), error)
            self.assertEqual(self.waits, [])

    def test_failure_is_raised_as_it_is_when_no_retry_was_wanted(self) -> None:
        for policy in ({"retry_for": 0}, {"retries": 0}):
            retry = self.persist(**policy)
            error = self.assertRaises(ConnectionBroken, retry, self.step(BROKEN, 5))
            self.assertIs(error, BROKEN)

    def test_server_that_was_never_there_is_not_tried_again(self) -> None:
        self.assertRaises(CannotConnect, self.persist(), self.step(CannotConnect("refused"), 5))
        self.assertEqual(self.waits, [])

    def test_server_that_was_never_there_is_waited_for_if_that_is_wanted(self) -> None:
        retry = self.persist(60, wait=True)
        self.assertEqual(retry(self.step(CannotConnect("refused"), 5)), 5)
        self.retry_context.reached = False
        retry = self.persist(60, wait=True)
        self.assertRaises(GaveUp, retry, self.failing(CannotConnect("refused")))

    def test_server_that_was_there_is_tried_again_by_every_later_call(self) -> None:
        self.persist()(self.step(1))
        # Another call of the same session.
        self.assertEqual(self.persist()(self.step(CannotConnect("refused"), 5)), 5)
        # It was there, too, if a connection to it has been lost.
        self.retry_context = RetryContext()
        self.assertEqual(self.persist()(self.step(BROKEN, CannotConnect("refused"), 5)), 5)

    def test_stop_is_stronger_than_any_failure(self) -> None:
        retry = self.persist()

        def step() -> None:
            self.stop.cancel()
            raise NotFound("a")

        self.assertRaises(Interrupted, retry, step)
        never = mock.Mock()
        self.assertRaises(Interrupted, retry, never)
        never.assert_not_called()

    def test_what_is_no_failure_of_the_server_goes_through(self) -> None:
        for error in (KeyboardInterrupt, ZeroDivisionError):
            self.assertRaises(error, self.persist(), self.step(error))


class PatienceTests(PersistenceCase):
    def test_it_lasts_so_long_from_the_first_failure(self) -> None:
        error = self.assertRaises(GaveUp, self.persist(), self.failing(BROKEN))
        self.assertEqual(str(error), "lost (gave up after 30 min without progress)")
        self.assertIs(error.__cause__, BROKEN)
        # The last try is made when the time is over.
        self.assertAlmostEqual(self.clock.seconds(), 1800)

    def test_length_of_the_tries_makes_no_difference(self) -> None:
        for lasting in (0.1, 5, 60):
            self.clock = Clock()
            step = self.failing(BROKEN, lasting, until=1700)
            self.assertGreater(self.persist()(step), 1700)

    def test_outage_of_ten_minutes_is_survived(self) -> None:
        self.retry_context.reached = True
        step = self.failing(CannotConnect("refused"), until=600)
        self.assertGreater(self.persist()(step), 600)

    def test_it_may_have_no_end(self) -> None:
        step = self.failing(BROKEN, 1000, until=10**7)
        self.assertGreater(self.persist(math.inf)(step), 10**7)

    def test_long_step_that_fails_in_the_end_is_tried_again(self) -> None:
        self.assertGreater(self.persist()(self.failing(BROKEN, 5000, until=6000)), 6000)

    def test_number_of_tries_may_end_it_sooner_and_not_later(self) -> None:
        error = self.assertRaises(GaveUp, self.persist(retries=2), self.step(*[BROKEN] * 3))
        self.assertEqual(str(error), "lost (gave up after 3 tries)")
        self.assertEqual(len(self.waits), 2)
        self.clock = Clock()
        self.assertRaises(GaveUp, self.persist(10, retries=1000), self.failing(BROKEN))
        self.assertAlmostEqual(self.clock.seconds(), 10)

    def test_failures_of_one_step_are_not_counted_for_the_next(self) -> None:
        retry = self.persist(retries=1)
        for _ in range(3):
            self.assertEqual(retry(self.step(BROKEN, 5)), 5)


class ProgressTests(PersistenceCase):
    def test_server_that_breaks_off_after_each_byte_is_given_up(self) -> None:
        retry = self.persist()

        def step() -> None:
            retry.received(1)
            raise BROKEN

        self.assertRaises(GaveUp, retry, step)
        self.assertAlmostEqual(self.clock.seconds(), 1800)

    def test_server_that_breaks_off_after_much_is_not(self) -> None:
        retry = self.persist(retries=2)

        def step() -> None:
            retry.received(60 * 1024)
            if self.clock.seconds() < 10_000:
                self.clock.advance(20)
                raise BROKEN

        retry(step)
        # Each wait is a first one.
        self.assertLessEqual(max(self.waits), 0.75)

    def test_bytes_that_drip_without_an_end_are_given_up(self) -> None:
        retry = self.persist()

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

    def test_rate_of_a_kibibyte_a_second_is_progress(self) -> None:
        self.receive(self.persist(), 1024, 10_000)
        self.receive(self.persist(1), 1024, 10_000)
        self.assertRaises(GaveUp, self.receive, self.persist(), 1000, 10_000)

    def test_limited_transfer_may_be_slower(self) -> None:
        retry = self.persist()
        retry._minimum_rate = 5.0
        self.receive(retry, 100, 10_000)

    def test_process_that_was_stopped_for_hours_goes_on(self) -> None:
        retry = self.persist()
        retry.received(1)
        self.clock.advance(10**5)
        retry.received(1)

    def test_progress_of_one_thread_counts_for_all(self) -> None:
        retry = self.persist(retries=2)
        left = iter(range(10))

        def step() -> None:
            if next(left, None) is not None:
                # Another segment's.
                retry.received(1 << 20)
                raise BROKEN

        retry(step)

    def test_bytes_that_drip_are_given_up_without_patience_too(self) -> None:
        for options in ({"retry_for": 0}, {"retries": 0}):
            retry = self.persist(**options)  # type: ignore[arg-type]
            began = self.clock.seconds()
            error = self.assertRaises(GaveUp, self.receive, retry, 1, 10_000)
            self.assertEqual(str(error), "less than 1024 bytes a second for 2 min")
            self.assertLess(self.clock.seconds() - began, 130)
        self.receive(self.persist(0), 1024, 10_000)

    def test_two_silences_are_none_of_the_rate_without_patience(self) -> None:
        retry = Retrier(
            RetryContext(),
            RetryPolicy(),
            Cancellation(),
            self.fail,
            clock=self.clock.seconds,
            timeout=500,
        )
        retry.received(1)
        for _ in range(3):
            self.clock.advance(499)
            retry.received(1)
        self.clock.advance(499)
        self.assertRaises(GaveUp, retry.received, 1)

    def test_process_that_was_stopped_goes_on_without_patience(self) -> None:
        retry = self.persist(0)
        retry.received(1)
        self.clock.advance(10**5)
        retry.received(1)

    def test_receiver_that_pauses_is_not_measured(self) -> None:
        for retry_for in (0, 60, 1800):
            retry = self.persist(retry_for)
            retry.resume()
            for _ in range(1000):
                retry.pause()
                self.clock.advance(100)
                retry.pause()
                self.clock.advance(100)
                retry.resume()
                retry.received(1)


class OutageTests(PersistenceCase):
    def test_transfer_that_begins_in_an_outage_has_no_more_patience_than_the_others(self) -> None:
        outage = Outage()
        self.assertRaises(GaveUp, self.persist(100, outage=outage), self.failing(BROKEN))
        self.assertAlmostEqual(self.clock.seconds(), 100)
        self.assertRaises(GaveUp, self.persist(100, outage=outage), self.step(BROKEN))
        self.assertAlmostEqual(self.clock.seconds(), 100)

    def test_transfer_that_succeeds_while_another_fails(self) -> None:
        outage = Outage()

        class Succeeding(Outage):
            def since(self, now: float) -> float:
                since = outage.failed(now)
                outage.end()
                return since

        retry = self.persist(60, outage=Succeeding())
        self.clock.advance(7)
        for _ in range(2):
            self.assertGreater(retry.delay_after(BROKEN, FailureCount()), 0)
        self.assertEqual(outage.failed(9), 9)

    def test_each_is_tried_once(self) -> None:
        outage = Outage()
        self.assertRaises(GaveUp, self.persist(100, outage=outage), self.failing(BROKEN))
        self.assertEqual(self.persist(100, outage=outage)(self.step(5)), 5)
        # After a success there is no outage.
        self.assertEqual(self.persist(100, outage=outage)(self.step(BROKEN, 5)), 5)


class LimitTests(SynchronousTestCase):
    def test_rate_that_is_none_is_refused(self) -> None:
        for rate in (0.0, -1.0, math.nan, math.inf):
            self.assertRaises(UsageError, RateLimit, rate)

    def test_bytes_wait_for_those_before_them(self) -> None:
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

    def test_who_wakes_up_late_catches_up(self) -> None:
        clock = Clock()
        limit = RateLimit(100, clock.seconds)
        for _ in range(10):
            clock.advance(limit.take(100) + 0.1)
        self.assertAlmostEqual(clock.seconds() + limit.take(0), 10.1)

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 2)), max_size=50))
    def test_rate_is_kept_by_those_who_wait(self, takes: list[tuple[int, float]]) -> None:
        clock = Clock()
        limit = RateLimit(1000, clock.seconds)
        taken = 0
        for size, idle in takes:
            taken += size
            clock.advance(limit.take(size))
            allowed = 1000 * (clock.seconds() + CATCH_UP)
            self.assertLessEqual(taken, allowed * (1 + 1e-9) + 1e-6)
            clock.advance(idle)

    def test_several_threads_keep_it_together(self) -> None:
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

    def test_pieces_are_small_enough_to_be_smooth_and_large_enough_to_be_cheap(self) -> None:
        for rate, piece in ((1, 4096), (10**6, 10**5), (10**12, 1 << 20)):
            self.assertEqual(RateLimit(rate).chunk_size, piece)
