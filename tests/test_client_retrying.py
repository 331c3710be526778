"""How long is waited between two tries, and to stay below a rate."""

from __future__ import annotations

import threading
from collections.abc import Callable
from unittest import mock

from hypothesis import given
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
)
from natproxy.client.retrying import LATE, Backoff, Limit, Persistence, Stop

BROKEN = ConnectionBroken("lost")


class BackoffTests(SynchronousTestCase):
    def test_each_wait_is_twice_as_long_as_the_last_up_to_a_limit(self) -> None:
        backoff = Backoff(9, chance=lambda: 0.5)
        waits = [backoff.wait(BROKEN) for _ in range(9)]
        self.assertEqual(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30])

    def test_chance_makes_a_wait_shorter_or_longer_by_a_half(self) -> None:
        for chance, expected in ((0.0, 0.25), (1.0, 0.75)):
            self.assertEqual(Backoff(1, lambda chance=chance: chance).wait(BROKEN), expected)  # type: ignore[misc]

    @given(st.integers(1, 3000))
    def test_no_number_of_failures_is_too_large(self, retries: int) -> None:
        backoff = Backoff(retries)
        for _ in range(retries):
            self.assertTrue(0.25 <= backoff.wait(BROKEN) <= 45)
        self.assertRaises(GaveUp, backoff.wait, BROKEN)

    def test_last_failure_is_told_with_the_number_of_tries(self) -> None:
        backoff = Backoff(2)
        backoff.wait(BROKEN)
        backoff.wait(BROKEN)
        error = self.assertRaises(GaveUp, backoff.wait, BROKEN)
        self.assertEqual(str(error), "lost (gave up after 3 tries)")
        self.assertIs(error.__cause__, BROKEN)

    def test_progress_begins_the_count_anew(self) -> None:
        backoff = Backoff(2, chance=lambda: 0.5)
        waits = []
        for _ in range(3):
            waits += [backoff.wait(BROKEN), backoff.wait(BROKEN)]
            backoff.progressed()
        self.assertEqual(waits, [0.5, 1] * 3)

    def test_failure_is_raised_as_it_is_when_no_retry_was_wanted(self) -> None:
        self.assertIs(self.assertRaises(ConnectionBroken, Backoff(0).wait, BROKEN), BROKEN)


class StopTests(SynchronousTestCase):
    def test_it_is_seen_by_those_who_look(self) -> None:
        stop = Stop()
        stop.check()
        stop.sleep(0)
        stop.set()
        stop.set()
        self.assertRaises(Interrupted, stop.check)
        self.assertRaises(Interrupted, stop.sleep, 10**6)

    def test_it_wakes_those_who_sleep(self) -> None:
        stop = Stop()
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
        stop.set()
        thread.join(10)
        self.assertEqual(len(woken), 1)


class PersistenceTests(SynchronousTestCase):
    def persist(self, retries: int = 8) -> Persistence:
        self.told: list[str] = []
        self.stop = Stop()
        self.waits: list[float] = []
        self.patch(self.stop, "sleep", self.waits.append)
        return Persistence(retries, self.stop, self.told.append)

    def step(self, *outcomes: object) -> Callable[[], object]:
        self.steps = mock.Mock(side_effect=outcomes)
        return self.steps

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

    def test_server_that_was_never_there_is_not_tried_again(self) -> None:
        self.assertRaises(CannotConnect, self.persist(), self.step(CannotConnect("refused"), 5))
        self.assertEqual(self.waits, [])

    def test_server_that_was_there_is_tried_again(self) -> None:
        persistently = self.persist()
        persistently(self.step(1))
        self.assertEqual(persistently(self.step(CannotConnect("refused"), 5)), 5)
        # It was there, too, if a connection to it has been lost.
        persistently = self.persist()
        self.assertEqual(persistently(self.step(BROKEN, CannotConnect("refused"), 5)), 5)

    def test_patience_has_an_end(self) -> None:
        error = self.assertRaises(GaveUp, self.persist(2), self.step(*[BROKEN] * 3))
        self.assertEqual(str(error), "lost (gave up after 3 tries)")
        self.assertEqual(len(self.waits), 2)

    def test_failures_are_counted_anew_after_bytes_have_come(self) -> None:
        persistently = self.persist(2)

        def receive() -> None:
            if persistently.received == 10:
                raise NotFound("a")
            persistently.received += 1
            raise BROKEN

        self.assertRaises(NotFound, persistently, receive)
        self.assertEqual(len(self.waits), 10)
        self.assertLessEqual(max(self.waits), 0.75)

    def test_failures_of_one_step_are_not_counted_for_the_next(self) -> None:
        persistently = self.persist(1)
        for _ in range(3):
            self.assertEqual(persistently(self.step(BROKEN, 5)), 5)

    def test_stop_is_stronger_than_any_failure(self) -> None:
        persistently = self.persist()

        def step() -> None:
            self.stop.set()
            raise NotFound("a")

        self.assertRaises(Interrupted, persistently, step)
        never = mock.Mock()
        self.assertRaises(Interrupted, persistently, never)
        never.assert_not_called()

    def test_what_is_no_failure_of_the_server_goes_through(self) -> None:
        for error in (KeyboardInterrupt, ZeroDivisionError):
            self.assertRaises(error, self.persist(), self.step(error))


class LimitTests(SynchronousTestCase):
    def test_bytes_wait_for_those_before_them(self) -> None:
        clock = Clock()
        limit = Limit(100, clock.seconds)
        self.assertEqual(limit.take(50), 0.5)
        self.assertEqual(limit.take(100), 1.5)
        clock.advance(1)
        self.assertEqual(limit.take(0), 0.5)

    def test_idle_time_is_not_saved_up(self) -> None:
        clock = Clock()
        limit = Limit(100, clock.seconds)
        clock.advance(1000)
        self.assertEqual(limit.take(100), 1 - LATE)

    def test_who_wakes_up_late_catches_up(self) -> None:
        clock = Clock()
        limit = Limit(100, clock.seconds)
        for _ in range(10):
            clock.advance(limit.take(100) + 0.1)
        self.assertAlmostEqual(clock.seconds() + limit.take(0), 10.1)

    @given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 2)), max_size=50))
    def test_rate_is_kept_by_those_who_wait(self, takes: list[tuple[int, float]]) -> None:
        clock = Clock()
        limit = Limit(1000, clock.seconds)
        taken = 0
        for size, idle in takes:
            taken += size
            clock.advance(limit.take(size))
            allowed = 1000 * (clock.seconds() + LATE)
            self.assertLessEqual(taken, allowed * (1 + 1e-9) + 1e-6)
            clock.advance(idle)

    def test_several_threads_keep_it_together(self) -> None:
        clock = Clock()
        limit = Limit(100, clock.seconds)
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
            self.assertEqual(Limit(rate).piece, piece)
