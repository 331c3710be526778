"""One timer for many deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.server.deadlines import Deadlines


class Waiting:
    """Somebody with a deadline."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rung: list[float] = []

    def time_is_up(self) -> None:
        self.rung.append(self.clock.seconds())


class Again(Waiting):
    """Sets its deadline again from within the callback, three times in all."""

    def __init__(self, deadlines: Deadlines, clock: Clock) -> None:
        super().__init__(clock)
        self.deadlines = deadlines

    def time_is_up(self) -> None:
        super().time_is_up()
        if len(self.rung) < 3:
            self.deadlines.set(self.time_is_up)


class DeadlinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock, 10)

    def test_each_is_called_once_when_its_own_time_is_over(self) -> None:
        first, second = Waiting(self.clock), Waiting(self.clock)
        self.deadlines.set(first.time_is_up)
        self.clock.advance(3)
        self.deadlines.set(second.time_is_up)
        self.clock.pump([1] * 20)
        self.assertEqual((first.rung, second.rung), ([10], [13]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_setting_anew_begins_anew(self) -> None:
        waiting = Waiting(self.clock)
        for _ in range(5):
            self.deadlines.set(waiting.time_is_up)
            self.clock.advance(9)
        self.assertEqual(waiting.rung, [])
        self.clock.advance(1)
        self.assertEqual(waiting.rung, [46])

    def test_who_is_called_may_set_and_cancel(self) -> None:
        other = Waiting(self.clock)
        again = Waiting(self.clock)

        def ring() -> None:
            self.deadlines.cancel(other.time_is_up)
            self.deadlines.set(again.time_is_up)

        self.deadlines.set(ring)
        self.deadlines.set(other.time_is_up)
        self.clock.pump([10, 10])
        self.assertEqual((other.rung, again.rung), ([], [20]))

    def test_deadline_set_by_a_callback_does_not_delay_those_that_are_due_before(self) -> None:
        again, other = Waiting(self.clock), Waiting(self.clock)
        self.deadlines.set(lambda: self.deadlines.set(again.time_is_up))
        self.clock.advance(1)
        self.deadlines.set(other.time_is_up)
        self.clock.pump([9, 1])
        self.assertEqual(other.rung, [11])
        self.clock.advance(9)
        self.assertEqual(again.rung, [20])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @given(st.lists(st.integers(0, 10), min_size=2, max_size=12))
    def test_deadlines_that_are_set_again_by_their_callbacks_are_never_late(
        self, pauses: list[int]
    ) -> None:
        clock = Clock()
        deadlines = Deadlines(clock, 10)
        waiting = [Again(deadlines, clock) for _ in pauses]
        begun = []
        for one, pause in zip(waiting, pauses, strict=True):
            begun.append(clock.seconds())
            deadlines.set(one.time_is_up)
            for _ in range(pause):
                clock.advance(1)
        clock.pump([1] * 40)
        expected = [[start + 10, start + 20, start + 30] for start in begun]
        self.assertEqual([one.rung for one in waiting], expected)

    def test_one_timer_serves_all_and_rests_when_nobody_waits(self) -> None:
        everybody = [Waiting(self.clock) for _ in range(100)]
        for waiting in everybody:
            self.deadlines.set(waiting.time_is_up)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.deadlines.cancel_timer()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for waiting in everybody:
            self.deadlines.cancel(waiting.time_is_up)
        self.deadlines.cancel_timer()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 12)), max_size=40))
    def test_it_does_what_a_timer_for_each_would(self, steps: list[tuple[int, bool, int]]) -> None:
        clock = Clock()
        deadlines = Deadlines(clock, 10)
        everybody = [Waiting(clock) for _ in range(5)]
        expected: list[list[float]] = [[] for _ in everybody]
        due: dict[int, float] = {}
        for who, setting, pause in [*steps, (0, False, 30)]:
            if setting:
                deadlines.set(everybody[who].time_is_up)
                due[who] = clock.seconds() + 10
            else:
                deadlines.cancel(everybody[who].time_is_up)
                due.pop(who, None)
            for _ in range(pause):
                clock.advance(1)
                for number in [number for number, at in due.items() if at <= clock.seconds()]:
                    expected[number].append(due.pop(number))
        self.assertEqual([waiting.rung for waiting in everybody], expected)
