"""One timer for many deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.server.deadlines import CALLBACKS, Deadlines
from tests.support.doubles import TurnClock


class Owner:
    """The owner of a deadline. It notes when the deadline expires."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.expirations: list[float] = []

    def expired(self) -> None:
        self.expirations.append(self.clock.seconds())


class RepeatingOwner(Owner):
    """Sets its deadline again from within the callback, three times in all."""

    def __init__(self, deadlines: Deadlines, clock: Clock) -> None:
        super().__init__(clock)
        self.deadlines = deadlines

    def expired(self) -> None:
        super().expired()
        if len(self.expirations) < 3:
            self.deadlines.set(self.expired)


class DeadlinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock, 10)

    def test_each_callback_is_called_once_at_its_deadline(self) -> None:
        first, second = Owner(self.clock), Owner(self.clock)
        self.deadlines.set(first.expired)
        self.clock.advance(3)
        self.deadlines.set(second.expired)
        self.clock.pump([1] * 20)
        self.assertEqual((first.expirations, second.expirations), ([10], [13]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_setting_a_deadline_again_replaces_it(self) -> None:
        waiting = Owner(self.clock)
        for _ in range(5):
            self.deadlines.set(waiting.expired)
            self.clock.advance(9)
        self.assertEqual(waiting.expirations, [])
        self.clock.advance(1)
        self.assertEqual(waiting.expirations, [46])

    def test_many_deadlines_expire_in_several_turns(self) -> None:
        clock = TurnClock()
        deadlines = Deadlines(clock, 10)
        owners = [Owner(clock) for _ in range(2 * CALLBACKS + 1)]
        for waiting in owners:
            deadlines.set(waiting.expired)
        clock.rightNow += 10
        for expired in (CALLBACKS, 2 * CALLBACKS, len(owners)):
            clock.turn()
            self.assertEqual(sum(len(waiting.expirations) for waiting in owners), expired)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_callback_may_set_and_cancel_deadlines(self) -> None:
        other = Owner(self.clock)
        again = Owner(self.clock)

        def change_others() -> None:
            self.deadlines.cancel(other.expired)
            self.deadlines.set(again.expired)

        self.deadlines.set(change_others)
        self.deadlines.set(other.expired)
        self.clock.pump([10, 10])
        self.assertEqual((other.expirations, again.expirations), ([], [20]))

    def test_deadline_set_by_a_callback_does_not_delay_earlier_ones(self) -> None:
        again, other = Owner(self.clock), Owner(self.clock)
        self.deadlines.set(lambda: self.deadlines.set(again.expired))
        self.clock.advance(1)
        self.deadlines.set(other.expired)
        self.clock.pump([9, 1])
        self.assertEqual(other.expirations, [11])
        self.clock.advance(9)
        self.assertEqual(again.expirations, [20])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @given(st.lists(st.integers(0, 10), min_size=2, max_size=12))
    def test_deadlines_set_again_by_their_callbacks_are_not_late(self, pauses: list[int]) -> None:
        clock = Clock()
        deadlines = Deadlines(clock, 10)
        waiting = [RepeatingOwner(deadlines, clock) for _ in pauses]
        begun = []
        for one, pause in zip(waiting, pauses, strict=True):
            begun.append(clock.seconds())
            deadlines.set(one.expired)
            for _ in range(pause):
                clock.advance(1)
        clock.pump([1] * 40)
        expected = [[start + 10, start + 20, start + 30] for start in begun]
        self.assertEqual([one.expirations for one in waiting], expected)

    def test_one_timer_serves_all_and_is_cancelled_when_no_deadline_is_pending(self) -> None:
        owners = [Owner(self.clock) for _ in range(100)]
        for waiting in owners:
            self.deadlines.set(waiting.expired)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.deadlines.cancel_timer()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for waiting in owners:
            self.deadlines.cancel(waiting.expired)
        self.deadlines.cancel_timer()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 12)), max_size=40))
    def test_it_behaves_like_a_timer_for_each_deadline(
        self, steps: list[tuple[int, bool, int]]
    ) -> None:
        clock = Clock()
        deadlines = Deadlines(clock, 10)
        owners = [Owner(clock) for _ in range(5)]
        expected: list[list[float]] = [[] for _ in owners]
        due: dict[int, float] = {}
        for index, setting, pause in [*steps, (0, False, 30)]:
            if setting:
                deadlines.set(owners[index].expired)
                due[index] = clock.seconds() + 10
            else:
                deadlines.cancel(owners[index].expired)
                due.pop(index, None)
            for _ in range(pause):
                clock.advance(1)
                for number in [number for number, at in due.items() if at <= clock.seconds()]:
                    expected[number].append(due.pop(number))
        self.assertEqual([waiting.expirations for waiting in owners], expected)

    def test_change_counts_for_the_deadlines_that_are_set_after_it(self) -> None:
        before, after = Owner(self.clock), Owner(self.clock)
        self.deadlines.set(before.expired)
        self.clock.advance(1)
        self.deadlines.change(3)
        self.deadlines.set(after.expired)
        self.clock.pump([1] * 20)
        self.assertEqual((before.expirations, after.expirations), ([10], [4]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_earlier_deadline_is_replaced_and_cancelled_after_a_change(self) -> None:
        again, cancelled = Owner(self.clock), Owner(self.clock)
        self.deadlines.set(again.expired)
        self.deadlines.set(cancelled.expired)
        self.deadlines.change(20)
        self.deadlines.set(again.expired)
        self.deadlines.cancel(cancelled.expired)
        self.clock.pump([1] * 40)
        self.assertEqual((again.expirations, cancelled.expirations), ([20], []))
        self.deadlines.cancel_timer()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_shorter_deadline_is_not_late_whenever_it_is_set(self) -> None:
        before, after = Owner(self.clock), Owner(self.clock)
        self.deadlines.set(before.expired)
        self.deadlines.change(2)
        self.clock.pump([1] * 3)
        self.deadlines.cancel(before.expired)
        self.deadlines.set(after.expired)
        self.clock.pump([1] * 10)
        self.assertEqual((before.expirations, after.expirations), ([], [5]))

    def test_timer_does_not_run_on_end_while_there_is_no_time_out_any_more(self) -> None:
        before = Owner(self.clock)
        self.deadlines.set(before.expired)
        self.deadlines.change(0)
        (timer,) = self.clock.getDelayedCalls()
        self.assertEqual(timer.getTime(), 10)
        self.clock.advance(10)
        self.assertEqual(before.expirations, [10])

    def test_timer_stays_while_only_an_earlier_deadline_is_pending(self) -> None:
        before = Owner(self.clock)
        self.deadlines.set(before.expired)
        self.deadlines.change(20)
        self.deadlines.cancel_timer()
        self.clock.advance(10)
        self.assertEqual(before.expirations, [10])

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 4), st.sampled_from(["set", "cancel", "change"]), st.integers(0, 12)
            ),
            max_size=40,
        )
    )
    def test_changed_deadlines_behave_like_a_timer_for_each(
        self, steps: list[tuple[int, str, int]]
    ) -> None:
        clock = Clock()
        seconds = 10
        deadlines = Deadlines(clock, seconds)
        owners = [Owner(clock) for _ in range(5)]
        expected: list[list[float]] = [[] for _ in owners]
        due: dict[int, float] = {}
        for index, step, pause in [*steps, (0, "cancel", 40)]:
            if step == "set":
                deadlines.set(owners[index].expired)
                due[index] = clock.seconds() + seconds
            elif step == "cancel":
                deadlines.cancel(owners[index].expired)
                due.pop(index, None)
            else:
                seconds = 1 + 4 * index
                deadlines.change(seconds)
            for _ in range(pause):
                clock.advance(1)
                for number in [number for number, at in due.items() if at <= clock.seconds()]:
                    expected[number].append(due.pop(number))
        self.assertEqual([waiting.expirations for waiting in owners], expected)
        self.assertEqual(clock.getDelayedCalls(), [])
