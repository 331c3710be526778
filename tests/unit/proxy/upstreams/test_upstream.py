"""The health of an upstream: what checks and commands change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.proxy.upstreams import Health, Mode, State
from natproxy.proxy.upstreams.state import TRANSITIONS, Event
from natproxy.server.state import IllegalTransition
from tests.support.doubles import Journal
from tests.support.played_upstreams import VERSION_2, PlayedGroup
from tests.support.state_diagrams import documented_diagrams, state_diagram

HEALTH = Health(interval=2, timeout=2, rise=2, fall=3, failures=3)


class UpstreamCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.group = PlayedGroup("a", "b")
        self.group.upstreams.set_health(HEALTH)
        self.group.upstreams.start()
        self.addCleanup(self.group.upstreams.stop)
        self.upstream = self.group["a"]

    def check(self, results: str) -> str:
        """Note results of checks: ``+`` or ``-``; return ``u`` or ``d`` after each."""
        states = ""
        for result in results:
            if result == "+":
                self.upstream.check_passed(VERSION_2)
            else:
                self.upstream.check_failed("silent")
            states += self.upstream.state.value[0]
        return states


class TableTests(SynchronousTestCase):
    def test_transitions(self) -> None:
        expected = {
            (State.UP, Event.FALL): State.DOWN,
            (State.UP, Event.RESET): State.UP,
            (State.DOWN, Event.RISE): State.UP,
            (State.DOWN, Event.RESET): State.UP,
        }
        for state in State:
            for event in Event:
                if (state, event) in expected:
                    self.assertIs(TRANSITIONS[state][event], expected[state, event])
                else:
                    self.assertRaises(IllegalTransition, TRANSITIONS[state].__getitem__, event)


class DiagramTests(SynchronousTestCase):
    def test_documentation_shows_the_table(self) -> None:
        self.assertIn(state_diagram(TRANSITIONS, State.UP), documented_diagrams())


class CheckTests(UpstreamCase):
    def test_upstream_is_down_after_checks_in_a_row_have_failed(self) -> None:
        self.assertEqual(self.check("--+--+---"), "uuuuuuuud")
        self.assertEqual(self.upstream.last_error, "silent")
        self.assertEqual((self.upstream.checks, self.upstream.failed_checks), (9, 7))

    def test_upstream_is_up_after_checks_in_a_row_have_passed(self) -> None:
        self.assertEqual(self.check("---+-+-++--"), "uudddddduuu")

    @given(st.text("+-", max_size=40), st.integers(1, 4), st.integers(1, 4))
    def test_rise_and_fall(self, results: str, rise: int, fall: int) -> None:
        self.group = PlayedGroup("a", "b")
        self.group.upstreams.set_health(HEALTH._replace(rise=rise, fall=fall))
        self.upstream = self.group["a"]
        expected, state, run = "", "u", 0
        for result in results:
            run = run + 1 if (result == "-") is (state == "u") else 0
            if run == (fall if state == "u" else rise):
                state, run = ("d" if state == "u" else "u"), 0
            expected += state
        self.assertEqual(self.check(results), expected)

    def test_times(self) -> None:
        self.assertIsNone(self.upstream.last_check)
        self.group.upstreams.stop()
        self.group.clock.advance(7)
        self.check("---")
        self.assertEqual((self.upstream.last_check, self.upstream.since), (7.0, 7.0))
        self.group.clock.advance(1)
        self.check("+")
        self.assertEqual((self.upstream.last_check, self.upstream.since), (8.0, 7.0))

    def test_change_is_logged_and_published_once_with_its_reason(self) -> None:
        journal = Journal(self)
        self.check("-----")
        self.check("+++")
        fallen = "3 checks in a row have failed; the last: silent"
        self.assertEqual(
            journal.lines(),
            [
                f"upstream a is down, mode ready: {fallen}",
                "upstream a is up, mode ready: 2 checks in a row have passed",
            ],
        )
        self.assertEqual([change.state for change in self.group.changes], [State.DOWN, State.UP])
        self.assertEqual(self.group.changes[0].reason, fallen)


class CommandTests(UpstreamCase):
    def test_upstream_is_down_at_once_after_commands_in_a_row_have_failed(self) -> None:
        for _ in range(2):
            self.upstream.failed("refused")
        self.upstream.succeeded()
        for _ in range(2):
            self.upstream.failed("refused")
        self.assertIs(self.upstream.state, State.UP)
        self.upstream.failed("lost")
        self.assertIs(self.upstream.state, State.DOWN)
        self.assertEqual(
            self.group.changes[0].reason, "3 commands in a row have failed; the last: lost"
        )
        self.assertEqual((self.upstream.failures, self.upstream.failed_commands), (3, 5))

    def test_checks_bring_it_up_again(self) -> None:
        for _ in range(3):
            self.upstream.failed("refused")
        self.upstream.succeeded()
        self.assertIs(self.upstream.state, State.DOWN)
        self.assertEqual(self.check("+-++"), "dddu")
        self.assertEqual(self.upstream.failures, 0)

    def test_failures_do_not_count_if_they_are_not_to(self) -> None:
        self.group.upstreams.set_health(HEALTH._replace(failures=0))
        for _ in range(20):
            self.upstream.failed("refused")
        self.assertIs(self.upstream.state, State.UP)

    def test_failures_do_not_count_without_checks(self) -> None:
        self.group.upstreams.stop()
        for _ in range(20):
            self.upstream.failed("refused")
        self.assertIs(self.upstream.state, State.UP)
        self.assertEqual((self.upstream.failures, self.upstream.last_error), (20, "refused"))

    def test_tries_are_counted(self) -> None:
        for _ in range(3):
            self.upstream.begin()
        self.upstream.end()
        self.assertEqual((self.upstream.active, self.upstream.commands), (2, 3))
        self.assertEqual(repr(self.upstream), "<Upstream a up ready>")

    def test_health_and_mode_are_independent(self) -> None:
        self.group.upstreams.set_mode("a", Mode.DRAIN)
        self.check("---")
        self.assertEqual((self.upstream.state, self.upstream.mode), (State.DOWN, Mode.DRAIN))
        self.group.upstreams.set_mode("a", Mode.READY)
        self.assertIs(self.upstream.state, State.DOWN)
