"""Lines of delayed connections: their order, their times, and the work of a turn."""

from __future__ import annotations

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.server.delays import Delays, Place
from natproxy.server.rotation import RESULTS
from tests.support.doubles import TurnClock

PLACE = Place("client.commands", "10.0.0.1")


class Member:
    """Waits again as often as a test wants.

    :ivar again: seconds of its next delays; without any, it begins.
    """

    def __init__(self, case: DelaysTests, name: str, place: Place, *again: float) -> None:
        self.case, self.name, self.place, self.again = case, name, place, list(again)

    def join(self, seconds: float, until: float = 5.0) -> None:
        self.until = until
        due = self.case.clock.seconds() + seconds if seconds else until
        self.case.delays.join(self, self.place, due, until, not seconds)

    def retry(self) -> None:
        self.case.asked.append(self.name)
        if self.again:
            self.join(self.again.pop(0), self.until)

    def fail(self, failure: Failure) -> None:
        self.case.asked.append(f"{self.name} failed")


class DelaysTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.delays = Delays(self.clock)
        self.asked: list[str] = []

    def taken(self) -> list[str]:
        taken, self.asked = self.asked, []
        return taken

    def member(self, name: str, host: str = "10.0.0.1", *again: float) -> Member:
        return Member(self, name, Place("client.commands", host), *again)

    def test_member_is_asked_after_its_time(self) -> None:
        self.member("a").join(2.0)
        self.clock.advance(1.9)
        self.assertEqual(self.taken(), [])
        self.assertEqual(len(self.delays), 1)
        self.clock.advance(0.1)
        self.assertEqual(self.taken(), ["a"])
        self.assertEqual(len(self.delays), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_only_the_first_of_a_line_is_asked(self) -> None:
        self.member("a", "10.0.0.1", 1.0, 1.0).join(1.0)
        self.member("b", "10.0.0.1", 1.0).join(1.0)
        self.member("c").join(1.0)
        self.clock.advance(1)
        self.clock.advance(1)
        self.assertEqual(self.taken(), ["a", "a"])
        # It begins, so that the next one is asked at once; that waits a second, and so the last.
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertEqual(self.taken(), ["a", "b"])
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertEqual(self.taken(), ["b", "c"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_all_are_asked_when_what_delays_them_has_changed(self) -> None:
        for host in ("10.0.0.1", "10.0.0.2"):
            for number in range(2):
                self.member(f"{host} {number}", host).join(4.0)
        self.member("waits again", "10.0.0.3", 1.0).join(4.0)
        self.member("waits for an end", "10.0.0.4").join(0.0)
        self.clock.advance(1)
        self.delays.retry_all()
        for _ in range(3):
            self.clock.advance(0)
        self.assertEqual(len(self.taken()), 6)
        self.assertEqual(len(self.delays), 1)
        self.clock.advance(1)
        self.assertEqual(self.taken(), ["waits again"])
        self.delays.retry_all()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_host_has_a_line(self) -> None:
        for host in ("10.0.0.1", "10.0.0.2"):
            for number in range(3):
                self.member(f"{host} {number}", host, 1.0).join(1.0)
        self.clock.advance(1)
        self.assertEqual(self.taken(), ["10.0.0.1 0", "10.0.0.2 0"])

    def test_sooner_time_of_another_line(self) -> None:
        self.member("a").join(3.0)
        self.member("b", "10.0.0.2").join(1.0)
        self.clock.advance(1)
        self.assertEqual(self.taken(), ["b"])
        self.clock.advance(2)
        self.assertEqual(self.taken(), ["a"])

    def test_end_of_a_command(self) -> None:
        self.member("a").join(0.0)
        self.member("b", "10.0.0.2").join(2.0)
        self.delays.wake()
        self.assertEqual(self.taken(), [])
        self.clock.advance(0)
        self.assertEqual(self.taken(), ["a"])

    def test_member_that_waits_for_an_end_is_asked_at_last(self) -> None:
        self.member("a").join(0.0, until=5.0)
        self.clock.advance(4.9)
        self.assertEqual(self.taken(), [])
        self.clock.advance(0.1)
        self.assertEqual(self.taken(), ["a"])

    def test_many_ends_do_not_grow_the_schedule(self) -> None:
        waiting = self.member("a", "10.0.0.1", *[0.0] * 1000)
        waiting.join(0.0)
        for _ in range(500):
            self.delays.wake()
            self.clock.advance(0)
        self.assertEqual(len(self.asked), 500)
        self.assertLess(len(self.delays._due), 5)

    def test_member_that_leaves_makes_place(self) -> None:
        first, second = self.member("a"), self.member("b")
        first.join(3.0)
        second.join(3.0)
        self.delays.leave(first)
        self.clock.advance(0)
        self.assertEqual(self.taken(), ["b"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_member_in_the_middle_leaves(self) -> None:
        first, second, third = (self.member(name) for name in "abc")
        for one in (first, second, third):
            one.join(1.0)
        self.delays.leave(second)
        self.assertNotIn(second, self.delays)
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertEqual(self.taken(), ["a", "c"])

    def test_last_member_that_leaves_stops_the_timer(self) -> None:
        waiting = self.member("a")
        waiting.join(3.0)
        self.delays.leave(waiting)
        self.delays.leave(waiting)
        self.delays.wake()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_work_of_a_turn_is_bounded(self) -> None:
        for seconds in (1.0, 0.0):
            for number in range(RESULTS * 2 + 1):
                self.member("a", f"{seconds} {number}").join(seconds)
            self.clock.rightNow += seconds
            self.delays.wake()
            turns = []
            while self.clock.getDelayedCalls():
                self.clock.turn()
                turns.append(len(self.taken()))
            self.assertEqual(turns, [RESULTS, RESULTS, 1])

    def test_exception_is_of_its_member_only(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        broken = self.member("a")
        self.patch(broken, "retry", fail)
        broken.join(1.0)
        self.member("b").join(1.0)
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertEqual(self.taken(), ["a failed", "b"])
