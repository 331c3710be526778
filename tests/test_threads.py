"""Turns: who begins, who waits, who is refused and who leaves."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from natproxy.threads import Turns
from natproxy.wire import Refusal
from tests.doubles import PlayedThread


class TurnsTests(SynchronousTestCase):
    """Two at a time, and three in line."""

    def setUp(self) -> None:
        self.thread = PlayedThread()
        self.turns = Turns(self.thread, at_once=2, in_line=3, what="dances")
        self.begun: list[int] = []

    def take(self, number: int) -> Deferred[int]:
        def work() -> int:
            self.begun.append(number)
            return number

        return self.turns.take(work)

    def test_some_at_a_time_and_all_in_order(self) -> None:
        taken = [self.take(number) for number in range(5)]
        self.assertEqual(self.thread.calls, 2)
        for number, done in enumerate(taken):
            self.assertNoResult(done)
            self.thread.run()
            self.assertEqual(self.successResultOf(done), number)
            self.assertEqual(self.thread.calls, min(5, number + 3))
        self.assertEqual(self.begun, list(range(5)))

    def test_full_line_refuses_until_there_is_room(self) -> None:
        for number in range(5):
            self.take(number)
        refused = self.assertRaises(Refusal, self.take, 5)
        self.assertEqual((refused.code, refused.message), (429, "too many dances at once"))
        self.thread.run()
        self.take(6)
        self.assertRaises(Refusal, self.take, 7)

    def test_nobody_needs_to_wait(self) -> None:
        turns = Turns(self.thread, at_once=1, in_line=0, what="dances")
        first = turns.take(lambda: 1)
        self.assertRaises(Refusal, turns.take, lambda: 2)
        self.thread.run()
        self.assertEqual(self.successResultOf(first), 1)
        turns.take(lambda: 3)

    def test_failed_work_makes_room_as_well(self) -> None:
        def fail() -> None:
            raise OSError("no")

        failing = [self.turns.take(fail) for _ in range(2)]
        waiting = self.take(1)
        for done in failing:
            self.thread.run()
            self.failureResultOf(done, OSError)
        self.thread.run()
        self.assertEqual(self.successResultOf(waiting), 1)

    def test_work_in_line_that_is_cancelled_is_not_begun(self) -> None:
        taken = [self.take(number) for number in range(5)]
        taken[3].cancel()
        self.failureResultOf(taken[3], CancelledError)
        self.take(5)
        for _ in range(5):
            self.thread.run()
        self.assertEqual(self.begun, [0, 1, 2, 4, 5])

    def test_work_that_has_begun_keeps_its_place_when_it_is_cancelled(self) -> None:
        taken = [self.take(number) for number in range(3)]
        taken[0].cancel()
        self.failureResultOf(taken[0], CancelledError)
        self.assertEqual(self.thread.calls, 2)
        self.thread.run()
        self.assertEqual(self.thread.calls, 3)
        self.assertEqual(self.begun, [0])

    def test_next_work_may_be_asked_for_at_the_end_of_the_last(self) -> None:
        again: list[Deferred[int]] = []
        self.take(0).addCallback(lambda _: again.append(self.take(1)))
        self.thread.run()
        self.thread.run()
        self.assertEqual(self.successResultOf(again[0]), 1)

    def test_work_that_is_done_at_once(self) -> None:
        turns = Turns(lambda function: succeed(function()), at_once=1, in_line=0, what="dances")
        for number in range(3):
            self.assertEqual(self.successResultOf(turns.take(lambda number=number: number)), number)
