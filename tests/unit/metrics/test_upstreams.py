"""The metrics of upstreams, of one process and of several."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.metrics.families import Family
from natproxy.metrics.merged import Report, Totals, families_json, families_of
from natproxy.metrics.upstreams import upstream_families
from natproxy.protocol import Abilities
from natproxy.proxy.upstreams import Health, Mode, Target, Upstreams


def values(families: list[Family]) -> dict[str, list[Any]]:
    """Return the values of the samples by the names of the families, without their prefix."""
    return {
        each.name.removeprefix("natproxy_"): [value for _, value in each.samples]
        for each in families
    }


class UpstreamFamiliesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.group = self.make()

    def make(self) -> Upstreams:
        group = Upstreams(self.clock)
        group.health = Health(rise=1, fall=1)
        connector: Any = None
        group.use([Target("a", "tcp:a:1", connector), Target("b", "tcp:b:1", connector)])
        return group

    def test_each_upstream_has_a_sample_with_its_name(self) -> None:
        first, second = self.group
        first.begin()
        first.failed("refused")
        first.check_passed(Abilities(2, {}))
        second.check_failed("refused")
        self.group.set_mode("b", Mode.DRAIN)
        families = upstream_families("natproxy", self.group)
        self.assertEqual(families[0].labels, ("upstream",))
        self.assertEqual([labels for labels, _ in families[0].samples], [("a",), ("b",)])
        self.assertEqual(
            values(families),
            {
                "upstream_up": [1, 0],
                "upstream_ready": [1, 0],
                "upstream_active": [1, 0],
                "upstream_commands": [1, 0],
                "upstream_failures": [1, 0],
                "upstream_checks": [1, 1],
                "upstream_failed_checks": [0, 1],
                "queue_commands": [0],
                "queue_wait_seconds": [0],
                "queue_waited": [0],
                "queue_refused": [0],
            },
        )

    def test_queue(self) -> None:
        class Waiter:
            command: Any = None

            def proceed(self) -> None:
                raise AssertionError

            def refuse(self, reason: str) -> None:
                """Be refused."""

        self.group.queue.limit(1, 5.0)
        self.group.wait(Waiter())
        self.group.wait(Waiter())
        self.clock.advance(3)
        found = values(upstream_families("natproxy", self.group))
        self.assertEqual((found["queue_commands"], found["queue_wait_seconds"]), ([1], [3]))
        self.assertEqual((found["queue_waited"], found["queue_refused"]), ([1], [1]))

    def test_upstream_is_up_if_it_is_for_every_worker(self) -> None:
        other = self.make()
        _, second = other
        second.check_failed("refused")
        second.begin()
        self.group.find("b").begin()  # type: ignore[union-attr]
        self.group.set_mode("a", Mode.MAINTENANCE)
        totals = Totals()
        reports = {
            path: Report(number, path, families_of(families_json(families)))
            for number, (path, families) in enumerate(
                (name, upstream_families("natproxy", group))
                for name, group in (("x", self.group), ("y", other))
            )
        }
        totals.update(reports, reports)
        found = values(totals.families(reports))
        self.assertEqual((found["upstream_up"], found["upstream_ready"]), ([1, 0], [0, 1]))
        self.assertEqual((found["upstream_active"], found["upstream_commands"]), ([0, 2], [0, 2]))
