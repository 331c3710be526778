"""The upstreams of a process as records, and the events of their health."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.control.group import HealthEvents, LocalUpstreams
from natproxy.nat import NATTable
from natproxy.nat.ring import EventRing
from natproxy.protocol import Abilities
from natproxy.proxy.upstreams import Health, Mode, Target, Upstreams
from natproxy.records.event_rows import EVENT, REASON, UID
from natproxy.records.record import Origin
from natproxy.records.upstreams import QueueRecord, UpstreamRecord

WALL = 1_700_000_000


class GroupCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.group = Upstreams(self.clock)
        self.group.health = Health(rise=1, fall=2)
        connector: Any = None
        self.group.use(
            [Target("a", "tcp:10.0.0.1:1", connector), Target("b", "unix:/b", connector)]
        )
        self.first, self.second = self.group

    def wall(self) -> float:
        return WALL + self.clock.seconds() - 100


class LocalUpstreamsTests(GroupCase):
    def setUp(self) -> None:
        super().setUp()
        self.source = LocalUpstreams(self.group, self.wall)

    def test_new_upstream(self) -> None:
        expected = UpstreamRecord("a", "tcp:10.0.0.1:1", since=WALL * 1_000_000)
        self.assertEqual(self.source.record().upstreams[0], expected)

    def test_what_was_counted_and_when(self) -> None:
        self.first.limit = 7
        for _ in range(3):
            self.first.begin()
        self.first.end()
        self.first.failed("it hangs")
        self.clock.advance(10)
        self.first.check_passed(Abilities(2, {b"LS": frozenset(), b"GET": frozenset()}))
        self.second.check_failed("refused")
        self.clock.advance(1)
        self.second.check_failed("refused")
        first, second = self.source.record().upstreams
        self.assertEqual(
            first,
            UpstreamRecord(
                "a",
                "tcp:10.0.0.1:1",
                since=WALL * 1_000_000,
                active=2,
                limit=7,
                commands=3,
                failures=1,
                failures_in_row=1,
                checks=1,
                last_check=(WALL + 10) * 1_000_000,
                last_error="it hangs",
                version=2,
                verbs=("GET", "LS"),
            ),
        )
        self.assertEqual((second.health, second.last_error), ("down", "refused"))
        self.assertEqual(second.since, (WALL + 11) * 1_000_000)
        self.assertEqual((second.checks, second.failed_checks), (2, 2))

    def test_addresses_of_a_name(self) -> None:
        known = {"tcp:10.0.0.1:1": ("10.0.0.5", "::5")}
        self.source.addresses = lambda endpoint: known.get(endpoint, ())
        found = [each.addresses for each in self.source.record().upstreams]
        self.assertEqual(found, [("10.0.0.5", "::5"), ()])

    def test_queue(self) -> None:
        class Waiter:
            command: Any = None

            def proceed(self) -> None:
                raise AssertionError

            def refuse(self, reason: str) -> None:
                self.reason = reason

        self.group.queue.limit(1, 5.0)
        self.group.wait(Waiter())
        self.group.wait(Waiter())
        self.clock.advance(2)
        self.assertEqual(self.source.record().queue, QueueRecord(1, 1, 2.0, 1, 1))
        self.clock.advance(4)
        self.assertEqual(self.source.record().queue, QueueRecord(0, 1, 0.0, 1, 2))

    def test_modes(self) -> None:
        for mode in Mode:
            self.source.set_mode("b", mode.value)
            self.assertIs(self.second.mode, mode)
            self.assertEqual(self.source.record().upstreams[1].mode, mode.value)
        self.assertRaises(KeyError, self.source.set_mode, "c", "drain")


class HealthEventsTests(GroupCase):
    def setUp(self) -> None:
        super().setUp()
        self.ring = EventRing(
            NATTable(self.clock.seconds, self.wall), Origin("p", 0, "b"), wall_clock=self.wall
        )
        self.events = HealthEvents(self.group, self.ring, self.wall)

    def recorded(self) -> list[tuple[str, str | None]]:
        rows, _ = self.ring.read(0, 100)
        for row in rows:
            self.assertIsNone(row[UID])
        return [(row[EVENT], row[REASON]) for row in rows]

    def test_each_change_of_health_is_one_event(self) -> None:
        for _ in range(3):
            self.second.check_failed("refused")
        failed = ("upstream-down", "b: 2 checks in a row have failed; the last: refused")
        self.assertEqual(self.recorded(), [failed])
        self.second.check_passed(Abilities(1, {}))
        passed = ("upstream-up", "b: 1 checks in a row have passed")
        self.assertEqual(self.recorded(), [failed, passed])

    def test_mode_is_no_event_of_health(self) -> None:
        self.group.set_mode("a", Mode.DRAIN)
        self.assertEqual(self.recorded(), [])
        for _ in range(2):
            self.first.check_failed("refused")
        self.group.set_mode("a", Mode.READY)
        self.assertEqual([event for event, _ in self.recorded()], ["upstream-down"])

    def test_after_the_end_there_are_no_more(self) -> None:
        self.events.close()
        for _ in range(2):
            self.second.check_failed("refused")
        self.assertEqual(self.recorded(), [])
