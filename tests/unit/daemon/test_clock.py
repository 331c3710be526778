"""A reactor's delayed calls follow the monotonic clock, not the wall clock."""

from __future__ import annotations

import os
import time

from twisted.internet.base import ReactorBase
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python import runtime
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.clock import use_monotonic_time
from natproxy.daemon.fileserver import make_file_server
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy import make_proxy
from natproxy.daemon.proxy_config import ProxyConfig

HOUR = 3600.0


class CallsReactor(ReactorBase):
    """A reactor that has only delayed calls."""

    def installWaker(self) -> None:
        """Do nothing: no thread wakes this reactor."""

    def getThreadPool(self) -> object:
        return self


class MonotonicTimeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wall, self.monotonic = 1_700_000_000.0, 1000.0
        self.patch(runtime, "seconds", lambda: self.wall)
        self.patch(time, "monotonic", lambda: self.monotonic)
        self.reactor = CallsReactor()
        self.reactor.seconds = runtime.seconds
        self.called: list[str] = []

    def later(self, seconds: float, name: str) -> None:
        self.reactor.callLater(seconds, self.called.append, name)

    def advance(self, seconds: float, jump: float = 0.0) -> list[str]:
        """Advance both clocks, the wall clock by a jump more; return the names that are called."""
        self.called.clear()
        self.monotonic += seconds
        self.wall += seconds + jump
        self.reactor.runUntilCurrent()
        return self.called

    def test_delayed_calls_keep_their_time_when_the_wall_clock_jumps(self) -> None:
        use_monotonic_time(self.reactor)
        for jump in (HOUR, -HOUR):
            self.later(10, "a")
            self.later(0, "at once")
            self.assertEqual(self.advance(0.0, jump), ["at once"])
            self.assertEqual(self.advance(9.5), [])
            self.assertAlmostEqual(self.reactor.timeout(), 0.5)
            self.assertEqual(self.advance(0.5), ["a"])

    def test_calls_that_are_pending_keep_the_time_that_they_have_left(self) -> None:
        for seconds in (30, 10, 20, 40):
            self.later(seconds, str(seconds))
        self.advance(5)
        self.later(15, "20 too")
        postponed = self.reactor.callLater(1, self.called.append, "postponed")
        postponed.delay(20)
        use_monotonic_time(self.reactor)
        self.assertEqual(self.advance(4.9, HOUR), [])
        self.assertEqual(self.advance(0.2, -2 * HOUR), ["10"])
        self.assertEqual(sorted(self.advance(10)), ["20", "20 too"])
        self.assertEqual(self.advance(6), ["postponed"])
        self.assertEqual(self.advance(4), ["30"])
        self.assertEqual(self.advance(10), ["40"])

    def test_pending_call_can_still_be_moved_and_cancelled(self) -> None:
        first = self.reactor.callLater(5, self.called.append, "first")
        second = self.reactor.callLater(6, self.called.append, "second")
        use_monotonic_time(self.reactor)
        first.reset(3)
        second.cancel()
        self.assertEqual(self.advance(3), ["first"])
        self.assertEqual(self.advance(HOUR), [])

    def test_call_that_is_overdue_is_not_called_in_the_past(self) -> None:
        self.later(1, "overdue")
        self.wall += HOUR
        use_monotonic_time(self.reactor)
        self.assertEqual(self.advance(0), ["overdue"])

    def test_reactor_with_a_clock_of_its_own_is_not_changed(self) -> None:
        clock = Clock()
        use_monotonic_time(clock)
        clock.advance(5)
        self.assertEqual(clock.seconds(), 5)

    def test_both_daemons_do_it_when_they_are_made(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        make_file_server(self.reactor, FileServerConfig(files=directory))
        self.assertIs(self.reactor.seconds, time.monotonic)
        self.reactor.seconds = runtime.seconds
        make_proxy(self.reactor, ProxyConfig())
        self.assertIs(self.reactor.seconds, time.monotonic)

    def test_reactor_of_a_test_keeps_its_clock(self) -> None:
        reactor = MemoryReactorClock()
        make_proxy(reactor, ProxyConfig())
        reactor.advance(7)
        self.assertEqual(reactor.seconds(), 7)
