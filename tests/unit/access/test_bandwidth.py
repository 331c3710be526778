"""Bytes a second: how precise they are, equal shares, and what waits."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access import Bandwidth, Caller
from natproxy.access.bandwidth import LEAST, MOST, Meter
from natproxy.address import Address
from tests.support.logged_errors import LoggedErrorsCase


def client(number: int, identity: str | None = None) -> Caller:
    return Caller.at(Address(f"10.0.0.{number}", 1), identity)


class Bulk:
    """A connection that moves as much as it is granted, and then asks for more.

    :ivar moved: bytes that it has moved.
    :ivar speed: bytes that it moves of each grant, at most.
    """

    def __init__(self, bandwidth: Bandwidth, caller: Caller, speed: int = MOST) -> None:
        self.meter: Meter = bandwidth.meter(caller)
        self.moved = 0
        self.speed = speed
        self.stopped = False

    def go(self) -> None:
        while not self.stopped and self.meter.ready():
            size = min(self.meter.budget, self.speed)
            self.moved += size
            self.meter.charge(size)
        if not self.stopped:
            self.meter.wait(self.go)


class BandwidthCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.bandwidth = Bandwidth(self.clock)

    def start(self, *callers: Caller) -> list[Bulk]:
        bulks = [Bulk(self.bandwidth, caller) for caller in callers]
        for one in bulks:
            one.go()
        return bulks

    def run_for(self, seconds: float, step: float = 0.002) -> None:
        for _ in range(round(seconds / step)):
            self.clock.advance(step)


class PrecisionTests(BandwidthCase):
    def test_within_five_percent_over_two_seconds(self) -> None:
        for rate in (50_000, 1_000_000, 100_000_000, 400_000_000):
            for scope in ("client", "identity", "total"):
                limits: dict[str, int | None] = {"client": None, "identity": None, "total": None}
                self.bandwidth = Bandwidth(self.clock)
                self.bandwidth.set(**{**limits, scope: rate})
                (bulk,) = self.start(client(1, "alice"))
                # Timers of the reactor are late by a millisecond or more.
                self.run_for(2.0)
                self.assertApproximates(bulk.moved / (2 * rate), 1, 0.05)
                bulk.stopped = True
                bulk.meter.cancel()
                self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_all_connections_of_a_host_are_limited_together(self) -> None:
        self.bandwidth.set(1_000_000, None, None)
        bulks = self.start(*[client(1)] * 10, client(2))
        self.run_for(2.0)
        self.assertApproximates(sum(one.moved for one in bulks[:10]) / 2_000_000, 1, 0.05)
        self.assertApproximates(bulks[10].moved / 2_000_000, 1, 0.05)

    def test_an_identity_is_limited_wherever_it_comes_from(self) -> None:
        self.bandwidth.set(None, 1_000_000, None)
        bulks = self.start(client(1, "alice"), client(2, "alice"))
        self.run_for(2.0)
        self.assertApproximates(sum(one.moved for one in bulks) / 2_000_000, 1, 0.05)
        self.assertTrue(self.bandwidth.meter(client(3)).ready())

    def test_slice_is_bounded(self) -> None:
        for rate, expected in ((1024, LEAST), (1_000_000, 30_000), (1 << 40, MOST)):
            self.bandwidth.set(rate, None, None)
            meter = self.bandwidth.meter(client(1))
            self.assertTrue(meter.ready())
            self.assertEqual(meter.granted, expected)
            meter.cancel()


class ShareTests(BandwidthCase):
    def test_host_with_ten_connections_gets_as_much_as_one_with_a_single_one(self) -> None:
        self.bandwidth.set(None, None, 10_000_000)
        bulks = self.start(*[client(1)] * 10, client(2))
        self.run_for(4.0)
        many, single = sum(one.moved for one in bulks[:10]), bulks[10].moved
        self.assertApproximates((many + single) / 40_000_000, 1, 0.05)
        self.assertApproximates(many / single, 1, 0.05)

    def test_what_a_slow_host_leaves_goes_to_the_others(self) -> None:
        self.bandwidth.set(100_000, None, 10_000_000)
        bulks = [Bulk(self.bandwidth, client(number)) for number in (1, 2)]
        self.bandwidth.set(None, None, 10_000_000)
        bulks[1].speed = 1000
        bulks[1].go()
        bulks[1].stopped = True
        bulks[0].go()
        self.run_for(2.0)
        self.assertApproximates(bulks[0].moved / 20_000_000, 1, 0.05)

    def test_many_hosts_are_all_served_within_seconds(self) -> None:
        self.bandwidth.set(None, None, 10_000_000)
        bulks = self.start(*[client(number) for number in range(1, 201)])
        self.run_for(2.5)
        self.assertGreater(min(one.moved for one in bulks), 0)
        self.assertApproximates(sum(one.moved for one in bulks) / 25_000_000, 1, 0.05)

    def test_short_replies_of_others_are_paid_by_the_bulk(self) -> None:
        self.bandwidth.set(None, None, 10_000_000)
        (bulk,) = self.start(client(1))
        other = self.bandwidth.meter(client(2))
        for _ in range(200):
            other.charge(50_000)
            self.run_for(0.01)
        # The other one has taken half of it.
        self.assertApproximates(bulk.moved / 10_000_000, 1, 0.1)

    def test_identities_of_one_host_are_one_host(self) -> None:
        self.bandwidth.set(None, None, 10_000_000)
        bulks = self.start(client(1, "alice"), client(1, "bob"), client(2))
        self.run_for(4.0)
        self.assertApproximates((bulks[0].moved + bulks[1].moved) / bulks[2].moved, 1, 0.1)


class WaitTests(BandwidthCase):
    def test_cancelled_meter_pays_back_and_leaves_no_timer(self) -> None:
        self.bandwidth.set(1_000_000, None, 1_000_000)
        first, second = (self.bandwidth.meter(client(1)) for _ in range(2))
        first.charge(30_000)
        self.assertTrue(first.ready())
        self.assertFalse(second.ready())
        second.wait(lambda: self.fail("it is called back"))
        second.cancel()
        first.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(second.ready())

    def test_limits_that_are_removed_release_all(self) -> None:
        self.bandwidth.set(1024, None, 1024)
        called: list[int] = []
        for number in range(3):
            meter = self.bandwidth.meter(client(number))
            meter.charge(1_000_000)
            meter.wait(lambda number=number: called.append(number))
        self.bandwidth.set(None, None, None)
        self.clock.advance(0)
        self.assertEqual(sorted(called), [0, 1, 2])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_limits_that_are_lowered_hold_for_those_that_wait(self) -> None:
        self.bandwidth.set(10_000_000, None, None)
        (bulk,) = self.start(client(1))
        self.run_for(1.0)
        before = bulk.moved
        self.bandwidth.set(1_000_000, None, None)
        self.run_for(2.0)
        self.assertApproximates((bulk.moved - before) / 2_000_000, 1, 0.3)

    def test_without_limits_nothing_is_counted(self) -> None:
        meter = self.bandwidth.meter(client(1))
        meter.charge(1 << 40)
        self.assertTrue(meter.ready())
        self.assertEqual(self.bandwidth.hosts.by_key, {})

    def test_what_is_kept_does_not_grow(self) -> None:
        self.bandwidth.set(1024, None, None)
        meter = self.bandwidth.meter(client(1))
        meter.charge(1_000_000)
        for _ in range(1000):
            meter.wait(lambda: None)
            meter.cancel()
        self.assertLess(len(self.bandwidth._later), 100)
        self.assertEqual(len(self.bandwidth), 0)


class FailingRelayTests(LoggedErrorsCase):
    def test_others_continue(self) -> None:
        clock = Clock()
        bandwidth = Bandwidth(clock)
        bandwidth.set(1_000_000, None, None)
        called: list[str] = []

        def fail() -> None:
            raise ZeroDivisionError

        first, second = (bandwidth.meter(client(1)) for _ in range(2))
        first.charge(10_000)
        first.wait(fail)
        second.wait(lambda: called.append("second"))
        clock.advance(1)
        clock.advance(1)
        self.assertEqual(called, ["second"])
        self.assertEqual(self.flush(ZeroDivisionError), 1)
