"""A bounded executor: which work runs, waits, is refused or is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.server.threads import (
    NO_RESPONSE,
    BoundedExecutor,
    CancellationToken,
    Limits,
    Overloaded,
    Unresponsive,
    Work,
    WorkCancelled,
    WorkRefused,
)
from tests.support.doubles import PlayedThread


class ExecutorTests(SynchronousTestCase):
    """Two pieces of work run, and three are queued."""

    def setUp(self) -> None:
        self.thread = PlayedThread()
        self.executor = BoundedExecutor(self.thread, "dances", Limits(2, 3))
        self.begun: list[int] = []

    def submit(self, number: int) -> Deferred[int]:
        def work() -> int:
            self.begun.append(number)
            return number

        return self.executor.submit(Work(work))

    def test_work_runs_in_order_and_two_at_a_time(self) -> None:
        submitted = [self.submit(number) for number in range(5)]
        self.assertEqual(self.thread.calls, 2)
        for number, done in enumerate(submitted):
            self.assertNoResult(done)
            self.thread.run()
            self.assertEqual(self.successResultOf(done), number)
            self.assertEqual(self.thread.calls, min(5, number + 3))
        self.assertEqual(self.begun, list(range(5)))

    def test_full_queue_refuses_until_work_has_returned(self) -> None:
        for number in range(5):
            self.submit(number)
        refused = self.assertRaises(Overloaded, self.submit, 5)
        self.assertEqual(str(refused), "too many dances at once")
        self.thread.run()
        self.submit(6)
        self.assertRaises(Overloaded, self.submit, 7)

    def test_continued_work_is_not_refused(self) -> None:
        for number in range(5):
            self.submit(number)
        done = self.executor.submit(Work(lambda: "continued"), continued=True)
        for _ in range(6):
            self.thread.run()
        self.assertEqual(self.successResultOf(done), "continued")

    def test_counts(self) -> None:
        executor = self.executor
        for number in range(5):
            self.submit(number)
        self.assertRaises(Overloaded, self.submit, 5)
        self.assertEqual((executor.running, executor.queued), (2, 3))
        self.assertEqual((executor.begun, executor.overloads), (2, 1))
        while self.thread.asked:
            self.thread.run()
        self.assertEqual((executor.running, executor.queued), (0, 0))
        self.assertEqual((executor.begun, executor.overloads), (5, 1))
        self.assertEqual((executor.timeouts, executor.hanging), (0, 0))

    def test_without_a_queue(self) -> None:
        executor = BoundedExecutor(self.thread, "dances", Limits(1, 0))
        first = executor.submit(Work(lambda: 1))
        self.assertRaises(Overloaded, executor.submit, Work(lambda: 2))
        self.thread.run()
        self.assertEqual(self.successResultOf(first), 1)
        executor.submit(Work(lambda: 3))

    def test_failed_work_frees_its_place(self) -> None:
        def fail() -> None:
            raise OSError("no")

        failing = [self.executor.submit(Work(fail)) for _ in range(2)]
        waiting = self.submit(1)
        for done in failing:
            self.thread.run()
            self.failureResultOf(done, OSError)
        self.thread.run()
        self.assertEqual(self.successResultOf(waiting), 1)

    def test_queued_work_that_is_cancelled_is_not_begun(self) -> None:
        submitted = [self.submit(number) for number in range(5)]
        submitted[3].cancel()
        self.failureResultOf(submitted[3], CancelledError)
        self.submit(5)
        for _ in range(5):
            self.thread.run()
        self.assertEqual(self.begun, [0, 1, 2, 4, 5])

    def test_running_work_that_is_cancelled_keeps_its_place(self) -> None:
        submitted = [self.submit(number) for number in range(3)]
        submitted[0].cancel()
        self.failureResultOf(submitted[0], CancelledError)
        self.assertEqual(self.thread.calls, 2)
        self.thread.run()
        self.assertEqual(self.thread.calls, 3)
        self.assertEqual(self.begun, [0])

    def test_work_is_submitted_when_other_work_returns(self) -> None:
        later: list[Deferred[int]] = []
        self.submit(0).addCallback(lambda _: later.append(self.submit(1)))
        self.thread.run()
        self.thread.run()
        self.assertEqual(self.successResultOf(later[0]), 1)

    def test_client_that_resubmits_displaced_work_does_not_lengthen_the_queue(self) -> None:
        refused: list[Exception] = []

        def resubmit(failure: Failure) -> None:
            try:
                self.executor.submit(Work(lambda: None, "crowd"))
            except Overloaded as error:
                refused.append(error)

        for _ in range(5):
            self.executor.submit(Work(lambda: None, "crowd")).addErrback(resubmit)
        self.executor.submit(Work(lambda: None, "other"))
        self.assertEqual(len(refused), 1)
        while self.thread.asked:
            self.thread.run()
        self.assertEqual(self.thread.calls, 5)

    def test_work_that_returns_at_once(self) -> None:
        executor = BoundedExecutor(
            lambda function: succeed(function()), "dances", Limits(running=1, queued=0)
        )
        for number in range(3):
            work = Work(lambda number=number: number)
            self.assertEqual(self.successResultOf(executor.submit(work)), number)

    def test_both_reasons_are_refusals_of_work(self) -> None:
        self.assertTrue(issubclass(Overloaded, WorkRefused))
        self.assertEqual(str(Unresponsive()), NO_RESPONSE)
        self.assertIsInstance(Unresponsive(), WorkRefused)


class FairnessTests(SynchronousTestCase):
    """One piece of work runs, and four are queued; there is a clock."""

    def setUp(self) -> None:
        self.thread = PlayedThread()
        self.clock = Clock()
        self.executor = BoundedExecutor(
            self.thread, "dances", Limits(1, 4, timeout=10.0), self.clock
        )
        self.begun: list[str] = []

    def submit(self, name: str, client: str = "", **fields: Any) -> Deferred[None]:
        return self.executor.submit(Work(lambda: self.begun.append(name), client, **fields))

    def append_to(self, notes: list[str], note: str) -> Callable[[], None]:
        return lambda: notes.append(note)

    def run_all(self) -> None:
        while self.thread.asked:
            self.thread.run()

    def test_clients_are_served_in_rotation(self) -> None:
        for name, client in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c")):
            self.submit(name, client)
        self.run_all()
        self.assertEqual(self.begun, ["a1", "a2", "b1", "c1", "a3"])

    def test_client_with_less_queued_work_displaces_work_of_another(self) -> None:
        submitted = [self.submit(f"a{number}", "a") for number in range(5)]
        self.assertRaises(Overloaded, self.submit, "a5", "a")
        others = [self.submit("b1", "b"), self.submit("b2", "b")]
        for refused in submitted[3:]:
            self.failureResultOf(refused, Overloaded)
        # Now two pieces of each are queued.
        for client in ("a", "b"):
            self.assertRaises(Overloaded, self.submit, "x", client)
        self.run_all()
        self.assertEqual(self.begun, ["a0", "a1", "b1", "a2", "b2"])
        for done in (*submitted[:3], *others):
            self.successResultOf(done)

    def test_work_times_out_and_work_behind_a_thread_that_hangs_is_refused(self) -> None:
        cancelled: list[str] = []
        released: list[str] = []
        first = self.submit(
            "first",
            cancel=self.append_to(cancelled, "first"),
            released=self.append_to(released, "first"),
        )
        second = self.submit("second", released=self.append_to(released, "second"))
        self.clock.advance(9)
        self.assertNoResult(first)
        self.clock.advance(1)
        for done in (first, second):
            self.failureResultOf(done, Unresponsive)
        self.assertEqual((cancelled, released), (["first"], ["second"]))
        self.assertRaises(Unresponsive, self.submit, "third")
        self.thread.run()
        self.assertEqual(released, ["second", "first"])
        self.submit("fourth")
        self.run_all()
        self.assertEqual(self.begun, ["first", "fourth"])

    def test_work_that_makes_progress_does_not_time_out(self) -> None:
        token = CancellationToken()
        done = self.submit("long", cancel=token.cancel, progress=token.progress)
        for _ in range(5):
            token.check()
            self.clock.advance(10)
            self.assertNoResult(done)
        self.clock.advance(10)
        self.failureResultOf(done, Unresponsive)
        self.assertRaises(WorkCancelled, token.check)
        self.run_all()

    def test_cancelling_running_work_sets_its_token(self) -> None:
        token = CancellationToken()
        done = self.submit("long", cancel=token.cancel)
        self.assertFalse(token.cancelled)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertTrue(token.cancelled)
        self.assertRaises(WorkCancelled, token.check)
        self.run_all()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_source_uses_a_limited_number_of_threads(self) -> None:
        executor = BoundedExecutor(self.thread, "dances", Limits(4, 9, per_source=2), self.clock)
        for number in range(4):
            executor.submit(Work(lambda: None, source="one"))
            self.assertEqual(self.thread.calls, min(2, number + 1))
        executor.submit(Work(lambda: None, source="two"))
        self.assertEqual(self.thread.calls, 3)
        self.run_all()
        self.assertEqual(self.thread.calls, 5)
