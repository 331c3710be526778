"""The rotation of relays: the bytes of a turn, the order of the line, and every way out of it."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from natproxy.relay.rotation import SLICE, TURN, VISIT, Rotation
from tests.support.doubles import TurnClock
from tests.support.logged_errors import LoggedErrorsCase


class PlayedRelay:
    """A relay that always has bytes to move.

    :ivar moved: the sizes that it has moved.
    :ivar failed: the exceptions that were passed to it.
    """

    def __init__(self, rotation: Rotation, size: int = SLICE) -> None:
        self.rotation = rotation
        self.size = size
        self.moved: list[int] = []
        self.failed: list[Exception] = []
        self.then: Callable[[], object] = lambda: None

    def ready(self, first: bool = False) -> bool:
        """Move a slice, at once or later; return whether it was at once."""
        return self.rotation.enter(self, first)

    def take_turn(self) -> None:
        self.moved.append(self.size)
        self.rotation.count(self.size)
        self.then()

    def fail_turn(self, error: Exception) -> None:
        self.failed.append(error)


class RotationTests(LoggedErrorsCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.rotation = Rotation(self.clock)

    def relay(self, size: int = SLICE) -> PlayedRelay:
        return PlayedRelay(self.rotation, size)

    def spend(self) -> None:
        """Use up the bytes of this turn."""
        self.rotation.count(TURN)

    def waiting(self, *relays: PlayedRelay) -> None:
        self.spend()
        for relay in relays:
            self.assertFalse(relay.ready())

    def test_relays_move_at_once_until_the_bytes_of_the_turn_are_used_up(self) -> None:
        relays = [self.relay(TURN // 2) for _ in range(5)]
        self.assertEqual([relay.ready() for relay in relays], [True, True, False, False, False])
        self.assertEqual(len(self.rotation), 3)
        self.clock.turn()
        self.assertEqual([len(relay.moved) for relay in relays], [1, 1, 1, 1, 0])
        self.clock.turn()
        self.assertEqual([len(relay.moved) for relay in relays], [1] * 5)

    def test_nothing_is_scheduled_while_no_relay_waits(self) -> None:
        self.relay().ready()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.waiting(self.relay())
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_relay_does_not_overtake_the_line(self) -> None:
        first, second = self.relay(), self.relay()
        self.waiting(first)
        self.rotation.count(-TURN)
        self.assertFalse(second.ready())
        self.assertIn(second, self.rotation)

    def test_relay_that_enters_twice_has_one_place(self) -> None:
        first, second = self.relay(0), self.relay(0)
        self.waiting(first, second, first)
        self.assertEqual(len(self.rotation), 2)
        self.clock.turn()
        self.assertEqual((len(first.moved), len(second.moved)), (1, 1))

    def test_relay_that_enters_in_its_turn_waits_for_the_next(self) -> None:
        relay = self.relay(1)
        relay.then = relay.ready
        self.waiting(relay)
        for turn in range(1, 4):
            self.clock.turn()
            self.assertEqual(len(relay.moved), turn)
        self.rotation.leave(relay)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_relay_that_has_to_empty_a_pipe_goes_to_the_head(self) -> None:
        order: list[PlayedRelay] = []
        relays = [self.relay(0) for _ in range(3)]
        for relay in relays:
            relay.then = lambda relay=relay: order.append(relay)
        self.waiting(*relays[:2])
        self.assertFalse(relays[2].ready(first=True))
        self.clock.turn()
        self.assertEqual(order, [relays[2], relays[0], relays[1]])

    def test_relay_that_has_to_empty_a_pipe_does_so_at_once_if_bytes_are_left(self) -> None:
        self.waiting(self.relay())
        self.rotation.count(-TURN)
        self.assertTrue(self.relay().ready(first=True))

    def test_relay_that_moves_nothing_counts_as_well(self) -> None:
        relays = [self.relay(0) for _ in range(2 * TURN // VISIT)]
        self.waiting(*relays)
        self.clock.turn()
        self.assertEqual(sum(len(relay.moved) for relay in relays), TURN // VISIT)

    def test_relay_that_leaves_has_no_turn(self) -> None:
        gone, left = self.relay(), self.relay()
        self.waiting(gone, left)
        self.rotation.leave(gone)
        self.rotation.leave(gone)
        self.clock.turn()
        self.assertEqual((gone.moved, left.moved), ([], [SLICE]))

    def test_last_relay_that_leaves_ends_the_turns(self) -> None:
        relay = self.relay()
        self.waiting(relay)
        self.rotation.leave(relay)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_relay_may_make_others_leave_in_its_turn(self) -> None:
        first, second = self.relay(0), self.relay(0)
        first.then = lambda: self.rotation.leave(second)
        self.waiting(first, second)
        self.clock.turn()
        self.assertEqual((first.moved, second.moved), ([0], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_exception_is_logged_and_passed_to_its_relay_and_the_next_has_its_turn(self) -> None:
        broken, next_one = self.relay(0), self.relay(0)
        broken.then = lambda: 1 // 0
        self.waiting(broken, next_one)
        self.clock.turn()
        self.assertEqual([type(error) for error in broken.failed], [ZeroDivisionError])
        self.assertEqual(self.flush(ZeroDivisionError), 1)
        self.assertEqual(next_one.moved, [0])

    def test_exception_of_a_turn_at_once_is_passed_to_its_relay_as_well(self) -> None:
        broken = self.relay(0)
        broken.then = lambda: 1 // 0
        self.assertTrue(broken.ready())
        self.assertEqual([type(error) for error in broken.failed], [ZeroDivisionError])
        self.assertEqual(self.flush(ZeroDivisionError), 1)

    def test_line_goes_on_when_a_relay_cannot_handle_its_exception(self) -> None:
        broken, next_one = self.relay(0), self.relay(0)
        broken.then = lambda: 1 // 0
        broken.fail_turn = lambda error: 1 // 0
        self.waiting(broken, next_one)
        self.assertRaises(ZeroDivisionError, self.clock.turn)
        self.flush(ZeroDivisionError)
        self.clock.turn()
        self.assertEqual(next_one.moved, [0])

    def test_without_a_clock_every_relay_is_admitted(self) -> None:
        rotation = Rotation(None)
        relay = PlayedRelay(rotation)
        self.assertEqual([relay.ready() for _ in range(5)], [True] * 5)
        self.assertFalse(rotation.wait(relay))
        rotation.leave(relay)

    def test_relay_that_has_used_its_slice_waits_although_bytes_are_left(self) -> None:
        relay = self.relay()
        self.assertTrue(self.rotation.wait(relay))
        self.assertFalse(self.relay().ready())
        self.clock.turn()
        self.assertEqual(relay.moved, [SLICE])

    @given(
        sizes=st.lists(st.integers(0, SLICE), min_size=1, max_size=40),
        busy=st.lists(st.booleans(), min_size=1, max_size=40),
    )
    def test_turns_are_bounded_and_fair_whatever_the_relays_move(
        self, sizes: list[int], busy: list[bool]
    ) -> None:
        self.setUp()
        relays = [self.relay(size) for size in sizes]
        for index, relay in enumerate(relays):
            # Some enter again as soon as they have moved, as those do whose sockets are ready.
            if busy[index % len(busy)]:
                relay.then = relay.ready
        self.waiting(*relays)
        # No relay waits longer than the others need for one turn each.
        most = sum(map(VISIT.__add__, sizes)) // TURN + 1
        waited = 0
        while not all(relay.moved for relay in relays):
            before = sum(sum(relay.moved) for relay in relays)
            self.clock.turn()
            moved = sum(sum(relay.moved) for relay in relays) - before
            self.assertLess(moved, TURN + SLICE)
            waited += 1
            self.assertLessEqual(waited, most)
        turns = [len(relay.moved) for relay in relays if relay.then == relay.ready]
        for _ in range(10):
            self.clock.turn()
            turns = [len(relay.moved) for relay in relays if relay.then == relay.ready]
            if turns:
                self.assertLessEqual(max(turns) - min(turns), 1)
        for relay in relays:
            self.rotation.leave(relay)
        self.assertEqual(self.clock.getDelayedCalls(), [])
