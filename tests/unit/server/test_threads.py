"""Turns: who begins, who waits, who is refused and who leaves."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import Refusal
from natproxy.server.threads import NO_RESPONSE, Abandoned, Abandonment, Turns
from tests.support.doubles import PlayedThread


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


class FairTurnsTests(SynchronousTestCase):
    """One at a time, and four in line, with a clock."""

    def setUp(self) -> None:
        self.thread = PlayedThread()
        self.clock = Clock()
        self.turns = Turns(self.thread, 1, 4, "dances", self.clock, patience=10)
        self.begun: list[str] = []

    def take(self, name: str, client: str = "", **named: Any) -> Deferred[None]:
        return self.turns.take(lambda: self.begun.append(name), client, **named)

    def run_all(self) -> None:
        while self.thread.asked:
            self.thread.run()

    def test_clients_take_turns(self) -> None:
        for name, client in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c")):
            self.take(name, client)
        self.run_all()
        self.assertEqual(self.begun, ["a1", "a2", "b1", "c1", "a3"])

    def test_full_line_makes_room_for_a_client_with_less_in_it(self) -> None:
        taken = [self.take(f"a{number}", "a") for number in range(5)]
        self.assertRaises(Refusal, self.take, "a5", "a")
        others = [self.take("b1", "b"), self.take("b2", "b")]
        for refused in taken[3:]:
            self.assertEqual(self.failureResultOf(refused, Refusal).value.code, 429)
        # Now both have two places.
        for client in ("a", "b"):
            self.assertRaises(Refusal, self.take, "x", client)
        self.run_all()
        self.assertEqual(self.begun, ["a0", "a1", "b1", "a2", "b2"])
        for done in (*taken[:3], *others):
            self.successResultOf(done)

    def test_nobody_is_kept_waiting_for_what_hangs(self) -> None:
        abandoned: list[str] = []
        ended: list[str] = []
        first = self.take(
            "first", abandon=lambda: abandoned.append("1"), ended=lambda: ended.append("1")
        )
        second = self.take("second", ended=lambda: ended.append("2"))
        self.clock.advance(9)
        self.assertNoResult(first)
        self.clock.advance(1)
        for done in (first, second):
            self.assertEqual(self.failureResultOf(done, Refusal).value.code, 503)
        self.assertEqual((abandoned, ended), (["1"], ["2"]))
        refusal = self.assertRaises(Refusal, self.take, "third")
        self.assertEqual((refusal.code, refusal.message), (503, NO_RESPONSE))
        self.thread.run()
        self.assertEqual(ended, ["2", "1"])
        self.take("fourth")
        self.run_all()
        self.assertEqual(self.begun, ["first", "fourth"])

    def test_work_that_goes_on_is_waited_for(self) -> None:
        steps = Abandonment()
        done = self.take("long", abandon=steps.abandon, progress=steps.progress)
        for _ in range(5):
            steps.check()
            self.clock.advance(10)
            self.assertNoResult(done)
        self.clock.advance(10)
        self.failureResultOf(done, Refusal)
        self.assertRaises(Abandoned, steps.check)
        self.run_all()

    def test_cancelled_work_that_has_begun_is_told_to_end(self) -> None:
        steps = Abandonment()
        done = self.take("long", abandon=steps.abandon)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertRaises(Abandoned, steps.check)
        self.run_all()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_source_has_its_share_of_the_threads(self) -> None:
        turns = Turns(self.thread, 4, 9, "dances", self.clock, share=2)
        for number in range(4):
            turns.take(lambda: None, source="one")
            self.assertEqual(self.thread.calls, min(2, number + 1))
        turns.take(lambda: None, source="two")
        self.assertEqual(self.thread.calls, 3)
        self.run_all()
        self.assertEqual(self.thread.calls, 5)
