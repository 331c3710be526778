"""The choice of an upstream, the members of a group, and what they support in common."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import VERSION_1
from natproxy.proxy.upstreams import Health, Mode, State, Target
from tests.support.doubles import Journal
from tests.support.upstreams import PlayedConnector, PlayedGroup, PlayedWaiter, abilities_of


class ChoiceTests(SynchronousTestCase):
    def test_only_upstream_is_always_chosen(self) -> None:
        group = PlayedGroup("a")
        self.assertEqual([group.begun() for _ in range(3)], ["a"] * 3)
        self.assertEqual(group.chosen(b"LIST", "a"), "a")

    def test_idle_upstreams_are_chosen_in_turn(self) -> None:
        group = PlayedGroup("a", "b", "c")
        chosen = [group.chosen() for _ in range(9)]
        self.assertEqual(chosen[:3], chosen[3:6])
        self.assertEqual(chosen[:3], chosen[6:])
        self.assertEqual(sorted(map(str, chosen[:3])), ["a", "b", "c"])

    @given(st.integers(1, 6), st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
    def test_the_one_with_the_fewest_tries_is_chosen(
        self, count: int, steps: list[tuple[bool, int]]
    ) -> None:
        group = PlayedGroup(*(f"u{number}" for number in range(count)))
        members = list(group.upstreams)
        for begins, index in steps:
            if begins:
                least = min(each.active for each in members)
                name = group.chosen()
                assert name is not None
                self.assertEqual(group[name].active, least)
                group[name].begin()
            else:
                busy = [each for each in members if each.active]
                if busy:
                    busy[index % len(busy)].end()

    def test_ties_of_busy_upstreams_rotate(self) -> None:
        group = PlayedGroup("a", "b")
        for name in ("a", "b"):
            group[name].begin()
        self.assertEqual({group.chosen(), group.chosen()}, {"a", "b"})

    def test_tried_upstream_is_chosen_if_no_other_is_left(self) -> None:
        group = PlayedGroup("a", "b")
        group["b"].begin()
        self.assertEqual([group.chosen(b"LIST", "a") for _ in range(3)], ["b"] * 3)
        self.assertIn(group.chosen(b"LIST", "a", "b"), ("a", "b"))

    def test_upstream_that_is_down_is_chosen_only_if_all_are(self) -> None:
        group = PlayedGroup("a", "b")
        group.upstreams.set_health(Health(interval=2, failures=1))
        group.upstreams.start()
        group["a"].failed("refused")
        self.assertEqual([group.chosen() for _ in range(4)], ["b"] * 4)
        # For another try, it is the last one.
        self.assertEqual(group.chosen(b"LIST", "b"), "a")
        self.assertEqual(group.chosen(b"LIST", "b", "a"), "b")
        self.assertTrue(group.upstreams.may_respond([group["a"], group["b"]]))
        group["b"].failed("refused")
        self.assertFalse(group.upstreams.may_respond([group["a"], group["b"]]))
        self.assertEqual({group.chosen() for _ in range(4)}, {"a", "b"})
        group.upstreams.stop()

    def test_upstream_that_is_down_is_chosen_only_for_what_it_supports(
        self,
    ) -> None:
        group = PlayedGroup("a", "b", "c")
        group.upstreams.set_health(Health(interval=2, failures=1))
        group.upstreams.start()
        group["a"].check_passed(abilities_of(b"STAT"))
        group["a"].failed("refused")
        group.upstreams.set_mode("b", Mode.DRAIN)
        self.assertEqual(group.chosen(b"LIST", "c"), "a")
        self.assertEqual(group.chosen(b"GET a", "c"), "c")
        group.upstreams.set_mode("a", Mode.DRAIN)
        self.assertEqual(group.chosen(b"LIST", "c"), "c")
        group.upstreams.stop()

    def test_full_upstream_is_left_for_later(self) -> None:
        group = PlayedGroup("a", "b", limit=1)
        group["b"].begin()
        self.assertEqual(group.chosen(b"LIST", "a"), "a")
        self.assertTrue(group.upstreams.may_respond([group["a"]]))
        self.assertFalse(group.upstreams.may_respond([group["a"], group["b"]]))

    def test_upstream_with_a_limit_is_left_out_while_it_is_full(self) -> None:
        group = PlayedGroup("a", "b", limit=1)
        self.assertEqual({group.begun(), group.begun()}, {"a", "b"})
        self.assertIsNone(group.begun())
        group["a"].end()
        self.assertEqual(group.begun(), "a")

    def test_limit_of_the_only_upstream(self) -> None:
        group = PlayedGroup("a", limit=2)
        self.assertEqual([group.begun() for _ in range(3)], ["a", "a", None])


class ModeTests(SynchronousTestCase):
    def test_upstream_takes_commands_in_the_mode_ready_alone(self) -> None:
        group = PlayedGroup("a", "b")
        for mode in (Mode.DRAIN, Mode.MAINTENANCE):
            self.assertTrue(group.upstreams.set_mode("a", mode))
            self.assertEqual([group.chosen() for _ in range(3)], ["b"] * 3)
        group.upstreams.set_mode("a", Mode.READY)
        self.assertEqual({group.chosen(), group.chosen()}, {"a", "b"})
        self.assertFalse(group.upstreams.set_mode("c", Mode.DRAIN))

    def test_no_upstream_takes_commands(self) -> None:
        group = PlayedGroup("a")
        group.upstreams.set_mode("a", Mode.DRAIN)
        self.assertIsNone(group.chosen())
        waiter = PlayedWaiter(group.upstreams)
        group.upstreams.wait(waiter)
        group.upstreams.set_mode("a", Mode.READY)
        group.clock.advance(0)
        self.assertEqual(waiter.result, "a")
        self.assertEqual(group.clock.getDelayedCalls(), [])

    def test_change_is_logged_and_published_once(self) -> None:
        journal = Journal(self)
        group = PlayedGroup("a", "b")
        for _ in range(2):
            group.upstreams.set_mode("a", Mode.DRAIN)
        ((time, upstream, state, mode, reason),) = group.changes
        self.assertEqual((time, upstream, state, mode), (0.0, group["a"], State.UP, Mode.DRAIN))
        self.assertEqual(reason, "set by command")
        self.assertEqual(journal.lines(), ["upstream a is up, mode drain: set by command"])


class ReloadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.group = PlayedGroup("a", "b")
        self.group.upstreams.set_health(Health(interval=2, failures=1))
        self.group.upstreams.start()
        self.addCleanup(self.group.upstreams.stop)
        self.group["a"].failed("refused")

    def test_upstream_that_stays_keeps_health_and_mode(self) -> None:
        self.group.upstreams.set_mode("b", Mode.DRAIN)
        before = self.group["a"], self.group["b"]
        self.group.use("b", "c", "a")
        self.assertEqual((self.group["a"], self.group["b"]), before)
        self.assertEqual((before[0].state, before[1].mode), (State.DOWN, Mode.DRAIN))
        self.assertEqual([each.name for each in self.group.upstreams], ["b", "c", "a"])
        self.assertEqual(self.group.chosen(), "c")

    def test_health_is_forgotten_if_the_endpoint_changes(self) -> None:
        upstream, connector = self.group["a"], PlayedConnector()
        upstream.begin()
        self.group.upstreams.set_mode("a", Mode.DRAIN)
        self.group.upstreams.use([Target("a", "tcp:other:1", connector, True, 3)])
        self.assertIs(self.group["a"], upstream)
        self.assertEqual((upstream.state, upstream.mode), (State.UP, Mode.DRAIN))
        self.assertEqual((upstream.header, upstream.limit, upstream.active), (True, 3, 1))
        self.assertIs(upstream.connector, connector)
        self.assertIsNone(upstream.last_error)

    def test_what_runs_on_one_that_is_removed_is_finished(self) -> None:
        removed = self.group["b"]
        removed.begin()
        self.group.use("a")
        self.assertEqual(removed.active, 1)
        removed.succeeded()
        removed.failed("lost")
        removed.end()
        self.assertEqual(removed.active, 0)
        self.assertEqual([each.name for each in self.group.upstreams], ["a"])

    def test_upstreams_are_up_when_they_are_no_longer_checked(self) -> None:
        self.group.upstreams.set_health(Health(interval=0))
        self.assertIs(self.group["a"].state, State.UP)
        self.group["a"].failed("refused")
        self.assertIs(self.group["a"].state, State.UP)


class AbilitiesTests(SynchronousTestCase):
    def test_nothing_is_known_of_the_only_upstream(self) -> None:
        group = PlayedGroup("a")
        group["a"].check_passed(abilities_of(b"STAT"))
        self.assertIsNone(group.upstreams.common)

    def test_what_the_upstreams_have_in_common(self) -> None:
        group = PlayedGroup("a", "b")
        self.assertIsNone(group.upstreams.common)
        group["a"].check_passed(abilities_of(b"GET offset length", b"STAT"))
        group["b"].check_passed(abilities_of(b"GET length if-match", b"HASH"))
        common = group.upstreams.common
        assert common is not None
        self.assertEqual(common.verbs, {b"FEAT": frozenset(), b"GET": frozenset({b"length"})})

    def test_verb_is_sent_to_an_upstream_that_supports_it(self) -> None:
        group = PlayedGroup("a", "b")
        group["a"].check_passed(abilities_of(b"GET"))
        group["b"].check_passed(abilities_of(b"GET", b"PACK"))
        self.assertEqual([group.chosen(b"PACK a") for _ in range(3)], ["b"] * 3)
        self.assertEqual(group.chosen(b"PACK a", "b"), "b")
        for line in (b"GET a", b"HASH a", b"FEAT", b"LIST", b"WHO"):
            self.assertEqual({group.chosen(line), group.chosen(line)}, {"a", "b"}, line)

    def test_upstream_that_was_never_checked_supports_every_verb(self) -> None:
        group = PlayedGroup("a", "b")
        group["a"].check_passed(abilities_of(b"GET"))
        self.assertEqual({group.chosen(b"GET a"), group.chosen(b"GET a")}, {"a", "b"})
        self.assertEqual([group.chosen(b"PACK a") for _ in range(2)], ["b"] * 2)

    def test_feat_is_sent_to_an_upstream_of_version_1(self) -> None:
        group = PlayedGroup("a", "b")
        group["a"].check_passed(VERSION_1)
        group["b"].check_passed(abilities_of(b"GET"))
        self.assertEqual([group.chosen(b"FEAT") for _ in range(2)], ["a"] * 2)
        self.assertEqual([group.chosen(b"GET a") for _ in range(2)], ["b"] * 2)
        self.assertEqual({group.chosen(b"LIST"), group.chosen(b"LIST")}, {"a", "b"})

    def test_one_that_is_down_does_not_count(self) -> None:
        group = PlayedGroup("a", "b")
        group.upstreams.set_health(Health(interval=2, failures=1))
        group.upstreams.start()
        group["a"].check_passed(VERSION_1)
        group["b"].check_passed(abilities_of(b"GET"))
        group["a"].failed("refused")
        self.assertEqual(group.upstreams.common, group["b"].abilities)
        self.assertEqual(group.chosen(b"FEAT"), "b")
        group.upstreams.stop()
