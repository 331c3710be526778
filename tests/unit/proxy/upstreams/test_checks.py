"""When upstreams are checked: intervals, modes, reloads, and the end."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.proxy.upstreams import Health, Mode, State, Target
from natproxy.proxy.upstreams.checks import HealthChecks
from tests.support.played_upstreams import FEAT_REPLY, PlayedConnector, PlayedGroup

HEALTH = Health(interval=2, timeout=1, rise=2, fall=2, failures=3)


class ChecksCase(SynchronousTestCase):
    chance = 0.5

    def setUp(self) -> None:
        self.group = PlayedGroup("a", "b")
        self.clock = self.group.clock
        upstreams = self.group.upstreams
        upstreams.checks = HealthChecks(self.clock, lambda: self.chance)
        upstreams.set_health(HEALTH)
        upstreams.start()

    def attempts(self, name: str = "a") -> int:
        """Return the number of checks so far."""
        return len(self.group.connectors[name].attempts)

    def reply(self, name: str = "a") -> None:
        """Let the newest check pass."""
        self.group.connectors[name].last.reply(FEAT_REPLY)

    def stop(self) -> None:
        """Stop, and check that nothing is left."""
        self.group.upstreams.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for connector in self.group.connectors.values():
            for attempt in connector.attempts:
                if attempt.protocol is None:
                    self.assertTrue(attempt.cancelled)
                else:
                    self.assertTrue(attempt.wire.aborted)


class IntervalTests(ChecksCase):
    def tearDown(self) -> None:
        self.stop()

    def test_each_upstream_is_checked_at_its_own_interval(self) -> None:
        self.clock.advance(0)
        self.assertEqual((self.attempts("a"), self.attempts("b")), (1, 1))
        self.reply("a")
        self.clock.advance(1)
        # The check of b has timed out; the next one is due when the interval is over.
        self.clock.advance(0.9)
        self.assertEqual((self.attempts("a"), self.attempts("b")), (1, 1))
        self.clock.advance(0.1)
        self.assertEqual((self.attempts("a"), self.attempts("b")), (2, 2))

    def test_interval_varies(self) -> None:
        self.clock.advance(0)
        for self.chance, interval in ((0.0, 1.8), (1.0, 2.2)):
            before = self.attempts()
            self.reply()
            # That of the present interval.
            self.clock.advance(2.3)
            self.assertEqual(self.attempts(), before + 1)
            self.reply()
            self.clock.advance(interval - 0.01)
            self.assertEqual(self.attempts(), before + 1)
            self.clock.advance(0.02)
            self.assertEqual(self.attempts(), before + 2)

    def test_check_that_takes_longer_than_the_interval(self) -> None:
        self.group.upstreams.set_health(HEALTH._replace(timeout=5))
        self.clock.advance(0)
        self.clock.advance(4.9)
        self.assertEqual(self.attempts(), 1)
        self.clock.advance(0.1)
        self.clock.advance(0)
        self.assertEqual(self.attempts(), 2)

    def test_upstream_that_dies_and_comes_back(self) -> None:
        states = []
        for passes in (True, False, False, False, True, True):
            self.clock.advance(0)
            attempt = self.group.connectors["a"].last
            if passes:
                attempt.reply(FEAT_REPLY)
            else:
                attempt.refuse()
            states.append(self.group["a"].state)
            self.clock.advance(2)
        up, down = State.UP, State.DOWN
        self.assertEqual(states, [up, up, down, down, down, up])

    def test_ends_of_a_check_that_runs(self) -> None:
        checks = self.group.upstreams.checks
        self.clock.advance(0)
        self.assertEqual(checks.ends(), [])
        self.group.connectors["a"].last.accept()
        (ends,) = checks.ends()
        self.assertEqual(ends.upstream, ("127.0.0.1", 9001))
        self.assertTrue(checks.is_own(ends.local))
        self.assertFalse(checks.is_own(Address("127.0.0.1", 1)))
        self.group.connectors["a"].last.send(FEAT_REPLY)
        self.assertFalse(checks.is_own(ends.local))
        self.assertEqual(checks.ends(), [])


class ChangeTests(ChecksCase):
    def tearDown(self) -> None:
        self.stop()

    def test_upstream_in_maintenance_is_not_checked(self) -> None:
        self.clock.advance(0)
        self.group.upstreams.set_mode("a", Mode.MAINTENANCE)
        self.assertTrue(self.group.connectors["a"].last.cancelled)
        self.clock.advance(10)
        self.assertEqual(self.attempts("a"), 1)
        self.group.upstreams.set_mode("a", Mode.READY)
        self.clock.advance(0)
        self.assertEqual(self.attempts("a"), 2)

    def test_upstream_that_drains_is_checked(self) -> None:
        self.group.upstreams.set_mode("a", Mode.DRAIN)
        self.clock.advance(0)
        self.assertEqual(self.attempts("a"), 1)

    def test_members_change(self) -> None:
        self.clock.advance(0)
        self.group.use("a", "c")
        self.assertTrue(self.group.connectors["b"].last.cancelled)
        self.assertFalse(self.group.connectors["a"].last.cancelled)
        self.clock.advance(0)
        self.assertEqual([self.attempts(name) for name in "abc"], [1, 1, 1])

    def test_other_endpoint_is_checked_at_once(self) -> None:
        self.clock.advance(0)
        old, connector = self.group.connectors["a"], PlayedConnector()
        self.group.upstreams.use([Target("a", "tcp:other:1", connector)])
        self.assertTrue(old.last.cancelled)
        self.clock.advance(0)
        self.assertEqual((len(old.attempts), len(connector.attempts)), (1, 1))
        connector.last.reply(FEAT_REPLY)
        self.assertEqual(self.group["a"].checks, 1)

    def test_new_interval_counts_at_once(self) -> None:
        self.clock.advance(0)
        self.reply("a")
        self.group.upstreams.set_health(HEALTH._replace(interval=60))
        self.clock.advance(0)
        self.assertEqual(self.attempts("a"), 2)
        self.reply("a")
        self.clock.advance(59)
        self.assertEqual(self.attempts("a"), 2)
        self.clock.advance(1)
        self.assertEqual(self.attempts("a"), 3)

    def test_other_thresholds_change_no_interval(self) -> None:
        self.clock.advance(0)
        self.group.upstreams.set_health(HEALTH._replace(rise=7))
        self.assertFalse(self.group.connectors["a"].last.cancelled)
        self.assertEqual(self.attempts("a"), 1)

    def test_result_that_changes_the_state_stops_no_series(self) -> None:
        for _ in range(4):
            self.clock.advance(0)
            self.group.connectors["a"].last.refuse()
            self.clock.advance(2)
        self.assertIs(self.group["a"].state, State.DOWN)
        self.assertEqual(self.attempts("a"), 5)

    def test_subscriber_that_stops_the_checks(self) -> None:
        self.group.upstreams.subscribe(
            lambda change: self.group.upstreams.set_mode(change.upstream.name, Mode.MAINTENANCE)
        )
        for _ in range(4):
            self.clock.advance(0)
            self.group.connectors["a"].last.refuse()
            self.clock.advance(2)
            if self.group["a"].mode is Mode.MAINTENANCE:
                break
        self.clock.advance(20)
        self.assertEqual(self.attempts("a"), 2)


class EndTests(ChecksCase):
    def test_stop(self) -> None:
        self.stop()
        self.group.upstreams.start()
        self.clock.advance(0)
        self.stop()
        self.group.upstreams.start()
        self.clock.advance(0)
        self.group.connectors["a"].last.accept()
        self.reply("b")
        self.stop()
        self.clock.advance(10)
        self.assertEqual(self.group["a"].checks, 0)

    def test_one_upstream_without_an_interval_is_not_checked(self) -> None:
        group = PlayedGroup("a")
        group.upstreams.start()
        self.assertEqual(group.clock.getDelayedCalls(), [])
        self.assertFalse(group.upstreams.checking)
        self.stop()
