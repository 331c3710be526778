"""Work in portions: no turn walks more entries than its limit."""

from __future__ import annotations

from collections.abc import Generator

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.control.jobs import ENTRIES, SHARE, TURN, JobQueue
from tests.support.control_resources import run_turn


class JobQueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.jobs = JobQueue(self.clock)
        self.walked = 0

    def count(self, number: int) -> Generator[None, None, str]:
        for _ in range(number):
            self.walked += 1
            yield
        return "done"

    def test_one_turn_walks_500_entries_at_most_for_all_jobs_together(self) -> None:
        results = [self.jobs.walk(self.count(1000)) for _ in range(3)]
        before = 0
        while self.clock.calls:
            run_turn(self.clock)
            self.assertLessEqual(self.walked - before, ENTRIES)
            before = self.walked
        self.assertEqual(self.walked, 3000)
        self.assertEqual([self.successResultOf(result) for result in results], ["done"] * 3)

    def test_jobs_take_turns(self) -> None:
        long = self.jobs.walk(self.count(10_000))
        short = self.jobs.walk(self.count(10))
        run_turn(self.clock)
        self.assertEqual(self.successResultOf(short), "done")
        self.assertNoResult(long)

    def test_turn_ends_if_the_entries_take_long(self) -> None:
        def slow() -> Generator[None, None, None]:
            for _ in self.count(SHARE * 4):
                self.clock.rightNow += TURN / SHARE
                yield

        result = self.jobs.walk(slow())
        before = 0
        while self.clock.calls:
            run_turn(self.clock)
            self.assertLessEqual(self.walked - before, 2 * SHARE)
            before = self.walked
        self.assertIsNone(self.successResultOf(result))
        self.assertEqual(self.walked, 4 * SHARE)

    def test_cancelled_walk_ends_its_generator(self) -> None:
        closed: list[int] = []

        def walk() -> Generator[None, None, None]:
            try:
                yield from self.count(10_000)
            finally:
                closed.append(self.walked)

        result = self.jobs.walk(walk())
        run_turn(self.clock)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(closed, [ENTRIES])
        run_turn(self.clock)
        self.assertEqual((self.walked, self.clock.calls), (ENTRIES, []))

    def test_failure_is_passed_on(self) -> None:
        def walk() -> Generator[None, None, None]:
            yield
            raise ZeroDivisionError

        result = self.jobs.walk(walk())
        run_turn(self.clock)
        self.failureResultOf(result, ZeroDivisionError)

    def test_job_that_walks_nothing_does_not_keep_the_turn(self) -> None:
        calls = 0

        def job(limit: int) -> int:
            nonlocal calls
            self.assertLessEqual(limit, SHARE)
            calls += 1
            self.jobs.schedule(job)
            return 0

        self.jobs.schedule(job)
        run_turn(self.clock)
        self.assertEqual(calls, ENTRIES)
