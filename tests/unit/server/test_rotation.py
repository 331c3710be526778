"""The rotation of connections that have used up their share, and results fired in turns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.server.rotation import (
    RESULTS,
    TURN,
    RoundRobin,
    fire_in_turns,
)
from tests.support.doubles import TurnClock


class RotationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.rotation = RoundRobin(self.clock)

    def member(self, work: Callable[[], int]) -> Any:
        return mock.Mock(take_turn=mock.Mock(side_effect=work))

    def test_member_that_uses_no_units_does_not_extend_a_turn_for_ever(self) -> None:
        def again() -> int:
            self.rotation.join(member)
            return 0

        member = self.member(again)
        self.rotation.join(member)
        self.clock.turn()
        self.assertLess(member.take_turn.call_count, TURN)
        self.rotation.leave(member)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_turn_is_scheduled_when_no_member_waits(self) -> None:
        def once_more() -> int:
            if member.take_turn.call_count == 1:
                self.rotation.join(member)
            return 1

        member = self.member(once_more)
        self.rotation.join(member)
        self.clock.turn()
        self.assertEqual(member.take_turn.call_count, 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_rotation_continues_when_a_member_cannot_handle_its_exception(self) -> None:
        broken, next_one = self.member(lambda: 1 // 0), self.member(lambda: 1)
        broken.fail.side_effect = ZeroDivisionError
        self.rotation.join(broken)
        self.rotation.join(next_one)
        self.assertRaises(ZeroDivisionError, self.clock.turn)
        self.clock.turn()
        next_one.take_turn.assert_called_once_with()

    def test_units_are_renewed_only_when_a_member_waits(self) -> None:
        self.rotation.left -= TURN
        self.assertTrue(self.rotation.exhausted)
        self.clock.turn()
        self.assertTrue(self.rotation.exhausted)
        self.rotation.join(self.member(lambda: 1))
        self.clock.turn()
        self.assertFalse(self.rotation.exhausted)

    def test_exception_of_a_member_is_passed_to_it_and_the_next_has_its_turn(self) -> None:
        broken = self.member(lambda: 1 // 0)
        next_one = self.member(lambda: 1)
        self.rotation.join(broken)
        self.rotation.join(next_one)
        self.clock.turn()
        (failure,) = broken.fail.call_args.args
        self.assertIsInstance(failure, Failure)
        self.assertIsNotNone(failure.check(ZeroDivisionError))
        next_one.take_turn.assert_called_once_with()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_member_that_has_left_has_no_turn(self) -> None:
        first, second = self.member(lambda: 1), self.member(lambda: 1)
        self.rotation.join(first)
        self.rotation.join(second)
        self.rotation.leave(first)
        self.assertIn(second, self.rotation)
        self.clock.turn()
        first.take_turn.assert_not_called()
        second.take_turn.assert_called_once_with()


class FireInTurnsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.fired: list[int] = []

    def waiting(self, count: int) -> OrderedDict[Deferred[str], None]:
        deferreds: OrderedDict[Deferred[str], None] = OrderedDict()
        for number in range(count):
            deferred: Deferred[str] = Deferred()
            deferred.addBoth(lambda _, number=number: self.fired.append(number))
            deferreds[deferred] = None
        return deferreds

    def test_a_limited_number_fires_in_each_turn(self) -> None:
        waiting = self.waiting(RESULTS + 1)
        fire_in_turns(waiting, "result", self.clock)
        self.assertEqual(self.fired, list(range(RESULTS)))
        self.clock.turn()
        self.assertEqual(self.fired, list(range(RESULTS + 1)))
        self.assertEqual((len(waiting), self.clock.getDelayedCalls()), (0, []))

    def test_all_fire_at_once_without_a_clock(self) -> None:
        fire_in_turns(self.waiting(3 * RESULTS), "result", None)
        self.assertEqual(len(self.fired), 3 * RESULTS)

    def test_cancelled_deferred_does_not_fire_again(self) -> None:
        waiting = self.waiting(2)
        next(iter(waiting)).cancel()
        fire_in_turns(waiting, "result", self.clock)
        self.assertEqual(self.fired, [0, 1])
