"""The rates of several workers, for the page."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from natproxy.control.site import control_site
from natproxy.web.merged_rates import PATH, MergedRates, WorkerRates, summed
from natproxy.web.rates import Second
from tests.support.control_resources import WALL, ControlCase
from tests.support.merged import MergedCase

FIELDS = list(Second._fields)


def second(tick: int, seconds: float, commands: float, duration: float | None) -> list[Any]:
    moment = round((WALL + seconds) * 1000)
    return [tick, moment, commands, 0.0, 10, 2, duration, duration, duration, duration]


def reply(boot: str, *seconds: list[Any], errors: Any = None, lost: int = 0) -> dict[str, Any]:
    clients = [{"client": "10.0.0.5", "commands": 1, "bytes": 2, "errors": 3}]
    return {
        "boot": boot,
        "fields": FIELDS,
        "seconds": list(seconds),
        "clients": clients,
        "errors": errors,
        "lost": lost,
    }


class MergedRatesTests(MergedCase):
    def setUp(self) -> None:
        super().setUp()
        self.rates = MergedRates(self.fleet, "master", self.wall)

    def read(self) -> dict[str, Any]:
        self.successResultOf(Deferred.fromCoroutine(self.rates.read()))
        return self.rates.json()

    def test_seconds_are_summed_when_all_workers_have_reported(self) -> None:
        self.each(
            PATH,
            reply("a", second(1, 0.1, 4.0, 0.1), second(2, 1.1, 1.0, None)),
            reply("b", second(7, 0.3, 12.0, 0.5)),
        )
        self.clock.advance(2)
        found = self.read()
        self.assertEqual((found["boot"], found["fields"]), ("master", FIELDS))
        (only,) = found["seconds"]
        self.assertEqual(only[:6], [1, round(WALL * 1000), 16.0, 0.0, 20, 4])
        self.assertEqual(only[6:], [0.4, 0.5, 0.4, 0.5])
        client = {"client": "10.0.0.5", "commands": 2, "bytes": 4, "errors": 6}
        self.assertEqual(found["clients"], [client])
        self.read()
        self.assertEqual(self.workers[0].calls[-1].target, f"{PATH}?after=2&error=0")

    def test_errors_are_merged_by_their_times(self) -> None:
        one = {"seq": 5, "time": "2026-01-01", "boot": "a"}
        other = {"seq": 3, "time": "2026-01-02", "boot": "b"}
        self.each(PATH, reply("a", errors=[one]), reply("b", errors=[other]))
        found = self.read()
        self.assertEqual(found["errors"], [other, one])
        self.each(PATH, reply("a"), reply("b"))
        self.read()
        self.assertIsNone(self.rates.json(error=3)["errors"])
        self.assertEqual(self.workers[0].calls[-1].target, f"{PATH}?after=0&error=5")

    def test_process_that_was_replaced_begins_anew(self) -> None:
        self.each(PATH, reply("a", second(9, 0, 1.0, None), lost=4), reply("b"))
        self.read()
        self.each(PATH, reply("c", second(1, 3, 2.0, None), lost=1), reply("b"))
        self.clock.advance(5)
        found = self.read()
        self.assertEqual([each[2] for each in found["seconds"]], [1.0, 2.0])
        self.assertEqual(found["lost"], 5)

    def test_worker_that_hangs_or_sends_nonsense_is_left_out(self) -> None:
        self.each(PATH, reply("a", second(1, 0, 1.0, None)), {"boot": 1})
        self.clock.advance(2)
        self.assertEqual([each[2] for each in self.read()["seconds"]], [1.0])
        self.workers[0].hangs = True
        self.assertEqual(len(self.read()["seconds"]), 1)

    def test_sum_without_durations(self) -> None:
        part = dict(zip(FIELDS, second(1, 0, 0.0, None), strict=True))
        self.assertEqual(summed(1, 0, [part])[6:], (None, None, None, None))


class WorkerRatesTests(ControlCase):
    def test_are_summed_from_the_first_request_on(self) -> None:
        rates = WorkerRates(self.context)
        self.site = control_site(self.context, [rates])
        self.assertEqual(self.get(PATH).json["seconds"], [])
        self.addCleanup(rates.stop)
        self.execute()
        self.clock.advance(1)
        found = self.get(f"{PATH}?after=0&error=0").json
        self.assertEqual(found["seconds"][0][2], 1.0)
        self.assertEqual(self.get(f"{PATH}?after=-1").status, 400)
