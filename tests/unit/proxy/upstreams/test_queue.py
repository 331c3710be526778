"""Commands that wait for an upstream that has a place."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from natproxy.proxy.upstreams import Mode
from natproxy.proxy.upstreams.queue import NONE_OPEN, SERVED
from tests.support.logged_errors import LoggedErrorsCase
from tests.support.played_upstreams import PlayedGroup, PlayedWaiter, abilities_of


class QueueTests(LoggedErrorsCase):
    def setUp(self) -> None:
        self.group = PlayedGroup("a", limit=1)
        self.queue = self.group.upstreams.queue
        self.group.begun()

    def waiting(self, line: bytes = b"LIST") -> PlayedWaiter:
        """Return a command that begins to wait."""
        waiter = PlayedWaiter(self.group.upstreams, line)
        self.assertIsNone(self.group.chosen(line))
        self.group.upstreams.wait(waiter)
        return waiter

    def test_commands_proceed_in_the_order_of_their_arrival(self) -> None:
        waiters = [self.waiting() for _ in range(3)]
        for position, waiter in enumerate(waiters):
            self.assertIsNone(waiter.result)
            self.group["a"].end()
            self.group.clock.advance(0)
            self.assertEqual(waiter.result, "a")
            self.assertEqual(len(self.queue), 2 - position)
        self.assertEqual(self.queue.waited, 3)
        self.group["a"].end()
        self.assertEqual(self.group.clock.getDelayedCalls(), [])

    def test_new_command_does_not_overtake(self) -> None:
        first = self.waiting()
        self.group["a"].end()
        # The place is free, and the first one has not got it yet.
        self.assertIsNone(self.group.chosen())
        self.group.clock.advance(0)
        self.assertEqual(first.result, "a")

    def test_command_that_has_waited_too_long_is_refused(self) -> None:
        self.queue.limit(10, 3.0)
        early = self.waiting()
        self.group.clock.advance(2)
        late = self.waiting()
        self.assertEqual(self.queue.longest, 2.0)
        self.group.clock.advance(1)
        self.assertEqual(early.result, "the servers were busy for 3 s")
        self.assertIsNone(late.result)
        self.assertEqual((len(self.queue), self.queue.longest, self.queue.expired), (1, 1.0, 1))
        self.group.clock.advance(2)
        self.assertEqual(late.result, early.result)
        self.assertEqual(self.queue.longest, 0.0)
        self.assertEqual(self.group.clock.getDelayedCalls(), [])

    def test_queue_that_is_full_refuses_at_once(self) -> None:
        self.queue.limit(2, 3.0)
        for _ in range(2):
            self.waiting()
        refused = self.waiting()
        self.assertEqual(refused.result, "the servers are busy, and 2 commands wait for them")
        self.assertEqual((len(self.queue), self.queue.full), (2, 1))
        self.group.clock.advance(3)

    def test_no_command_may_wait(self) -> None:
        self.queue.limit(0, 3.0)
        self.assertEqual(self.waiting().result, "the servers are busy")
        self.assertEqual(self.group.clock.getDelayedCalls(), [])

    def test_reason_if_no_upstream_takes_commands(self) -> None:
        self.group.upstreams.set_mode("a", Mode.DRAIN)
        self.queue.limit(1, 3.0)
        waiter, refused = self.waiting(), self.waiting()
        self.assertEqual(refused.result, NONE_OPEN)
        self.group.clock.advance(3)
        self.assertEqual(waiter.result, NONE_OPEN)

    def test_command_that_is_no_longer_wanted_leaves_at_once(self) -> None:
        first, second = self.waiting(), self.waiting()
        self.group["a"].end()
        self.group.upstreams.cancel_wait(first)
        self.assertEqual(len(self.queue), 1)
        self.group.clock.advance(0)
        self.assertEqual((first.result, second.result), (None, "a"))
        self.group.upstreams.cancel_wait(first)
        third = self.waiting()
        self.group.upstreams.cancel_wait(third)
        self.assertEqual(self.group.clock.getDelayedCalls(), [])

    def test_one_turn_serves_a_limited_number(self) -> None:
        waiters = [self.waiting() for _ in range(2 * SERVED)]
        self.group.use("a")
        turns = 0
        while self.group.clock.getDelayedCalls() and turns < 10:
            turns += 1
            self.group.clock.turn()
            served = sum(waiter.result is not None for waiter in waiters)
            self.assertLessEqual(served, SERVED * turns)
        self.assertTrue(all(waiter.result == "a" for waiter in waiters))
        self.assertEqual(turns, 2)

    def test_one_whose_verb_is_supported_elsewhere_does_not_delay_the_others(self) -> None:
        group = self.group = PlayedGroup("a", "b", limit=1)
        group["a"].check_passed(abilities_of(b"GET"))
        group["b"].check_passed(abilities_of(b"GET", b"PACK"))
        self.assertEqual({group.begun(), group.begun()}, {"a", "b"})
        packed, other = self.waiting(b"PACK a"), self.waiting(b"GET a")
        group["a"].end()
        group.clock.advance(0)
        self.assertEqual((packed.result, other.result), (None, "a"))
        group["b"].end()
        group.clock.advance(0)
        self.assertEqual(packed.result, "b")

    def test_many_of_such_verbs_do_not_delay_the_others(self) -> None:
        group = self.group = PlayedGroup("a", "b", limit=1)
        group["a"].check_passed(abilities_of(b"GET"))
        group["b"].check_passed(abilities_of(b"GET", b"PACK"))
        self.assertEqual({group.begun(), group.begun()}, {"a", "b"})
        packed = [self.waiting(b"PACK a") for _ in range(300)]
        other = self.waiting(b"GET a")
        group["a"].end()
        group.clock.turn()
        self.assertEqual(other.result, "a")
        # Now there is a place for no other one that waits: a new command takes it at once.
        group["a"].end()
        group.clock.turn()
        self.assertEqual(group.chosen(b"GET a"), "a")
        self.assertIsNone(group.chosen(b"PACK a"))
        self.assertEqual({waiter.result for waiter in packed}, {None})

    def test_what_one_raises_does_not_stop_the_others(self) -> None:
        failing, other = self.waiting(), self.waiting()
        failing.proceed = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        self.group["a"].end()
        self.group.clock.advance(0)
        self.assertEqual(self.flush(ZeroDivisionError), 1)
        self.assertIn("unexpected", str(failing.result))
        self.group.upstreams.queue.wake()
        self.group.clock.advance(0)
        self.assertEqual(other.result, "a")

    def test_what_cannot_be_refused_either_is_logged(self) -> None:
        failing, other = self.waiting(), self.waiting()
        failing.proceed = failing.refuse = lambda *_: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        self.group["a"].end()
        self.group.clock.advance(0)
        self.assertEqual(self.flush(ZeroDivisionError), 2)
        self.group.upstreams.queue.wake()
        self.group.clock.advance(0)
        self.assertEqual(other.result, "a")


class QueueMachine(RuleBasedStateMachine):
    """Commands begin, wait, end and are cancelled in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.group = PlayedGroup("a", "b", limit=2)
        self.group.upstreams.queue.limit(4, 3.0)
        self.waiting: list[PlayedWaiter] = []
        self.places: list[str] = []

    @rule()
    def begin(self) -> None:
        name = self.group.begun()
        if name is not None:
            self.places.append(name)
            return
        waiter = PlayedWaiter(self.group.upstreams)
        self.group.upstreams.wait(waiter)
        if waiter.result is None:
            self.waiting.append(waiter)

    @precondition(lambda self: self.places)
    @rule(index=st.integers(0, 10))
    def end(self, index: int) -> None:
        self.group[self.places.pop(index % len(self.places))].end()

    @precondition(lambda self: self.waiting)
    @rule(index=st.integers(0, 10))
    def cancel(self, index: int) -> None:
        self.group.upstreams.cancel_wait(self.waiting.pop(index % len(self.waiting)))

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.0]))
    def advance(self, seconds: float) -> None:
        self.group.clock.advance(seconds)
        done = [waiter for waiter in self.waiting if waiter.result is not None]
        self.places += [str(one.result) for one in done if one.result in ("a", "b")]
        # Those that have proceeded are the first ones.
        assert done == self.waiting[: len(done)]
        del self.waiting[: len(done)]

    @invariant()
    def limits_are_kept(self) -> None:
        for upstream in self.group.upstreams:
            assert upstream.active == self.places.count(upstream.name) <= 2
        assert len(self.group.upstreams.queue) == len(self.waiting) <= 4

    def teardown(self) -> None:
        self.group.clock.advance(3.0)
        assert len(self.group.upstreams.queue) == 0
        assert self.group.clock.getDelayedCalls() == []


class QueueMachineTests(SynchronousTestCase):
    def test_any_order(self) -> None:
        checked = settings(deadline=None, derandomize=True, stateful_step_count=40)
        run_state_machine_as_test(QueueMachine, settings=checked)
