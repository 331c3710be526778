"""The state of ``natproxy top`` of a fleet, and the lines that show it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.commands import top as command
from natproxy.cli.top import state
from natproxy.cli.top.fleet import LAG, FleetTop
from natproxy.cli.top.keyboard import NAMES
from natproxy.cli.top.window import Window
from natproxy.cli.translations.sources import JournalFailure
from natproxy.cli.translations.texts import width
from natproxy.journal.postgres.activity import KEYS, Activity, Open, Reading, Sum
from natproxy.journal.postgres.connection import DatabaseAway, PostgresError
from natproxy.journal.postgres.fleet import Proxy

SECOND = 1_000_000

NAMED = {"a%20b": 4, "c%1b and 2 others": 3, "%": 2, "": 1, None: 11}
"""Commands by the keys of a reading, ``None`` for all."""

NOW = 1_790_000_000 * SECOND


def proxy(number: int, complete_to: int | None = NOW, *, retired: bool = False) -> Proxy:
    horizons = {} if complete_to is None else {0: complete_to}
    return Proxy(number, f"edge-{number}", "h", "d", "2", [], NOW, 0, 0, retired, horizons)


class ScriptedActivity(Activity):
    """A database whose readings a test sets."""

    def __init__(self, slot: int) -> None:
        super().__init__("postgresql://nowhere/", "", "client", slot)
        self.error: PostgresError | None = None
        self.since: list[int] = []
        self.restarted: list[str] = []
        slot_now = NOW // slot
        self.reading = Reading(
            [proxy(1), proxy(2)],
            [
                Sum(slot_now, "10.0.0.1", 30, 3, 100),
                Sum(slot_now, "10.0.0.2", 60, 0, 10),
                Sum(slot_now, None, 90, 3, 110),
            ],
            [Open("10.0.0.3", 2, 1000), Open(None, 2, 1000)],
        )

    def restart(self, key: str) -> None:
        self.restarted.append(key)

    def read(self, since: int, now: int) -> Reading:
        if self.error is not None:
            raise self.error
        self.since.append(since)
        reading, self.reading = self.reading, self.reading._replace(ended=[])
        return reading


class FleetTopTests(SynchronousTestCase):
    def setUp(self) -> None:
        window = Window(60 * SECOND)
        self.activity = ScriptedActivity(window.slot)
        self.now = NOW
        self.top = FleetTop(self.activity, "client", window, "verb GET", lambda: self.now)

    def texts(self, columns: int = 120, height: int = 20) -> list[str]:
        return [line.text for line in self.top.lines(columns, height)]

    def keys(self) -> list[str]:
        return [row.key for row in self.top.rows()]

    def test_screen(self) -> None:
        self.top.update()
        title, totals, head, *rows = self.texts()
        self.assertEqual(
            title.split("  "),
            ["fleet", "2 proxies", "2 in flight", "the last 1m00s", "filter: verb GET"],
        )
        self.assertIn("1.5 commands/s  0.1 failed/s  2 B/s  sorted by commands", totals)
        self.assertEqual(head.split()[:3], ["CLIENT", "IN", "FLIGHT"])
        self.assertEqual(rows[0].split(), ["10.0.0.2", "0", "10", "B", "0", "B/s", "1.0", "0.0"])
        self.assertEqual(self.activity.since, [NOW - 60 * SECOND])

    def test_keys_sort_group_pause_and_quit(self) -> None:
        self.top.update()
        orders = {
            "a": ["10.0.0.3", "10.0.0.1", "10.0.0.2"],
            "b": ["10.0.0.3", "10.0.0.1", "10.0.0.2"],
            "r": ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
            "n": ["10.0.0.2", "10.0.0.1", "10.0.0.3"],
            "e": ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
            "c": ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
        }
        for key, order in orders.items():
            self.top.press(key)
            self.assertEqual(self.keys(), order, key)
        self.top.press("p")
        self.top.update()
        self.assertEqual(len(self.activity.since), 1)
        self.assertIn("PAUSED", self.texts()[0])
        self.top.press("g")
        self.assertEqual(self.activity.restarted, ["name"])
        self.assertFalse(self.top.paused)
        for _ in KEYS:
            self.top.press("g")
        self.assertEqual(self.top.group, "name")
        self.top.press("q")
        self.assertTrue(self.top.ended)

    def test_proxies_that_are_behind_are_named(self) -> None:
        self.activity.reading = self.activity.reading._replace(
            proxies=[
                proxy(1, NOW - LAG),
                proxy(2, NOW - 40 * SECOND),
                proxy(3, None),
                proxy(4, 0, retired=True),
            ]
        )
        self.top.update()
        self.assertEqual(
            self.texts()[2], "edge-2 is 40 s behind  nothing of edge-3 was shipped yet"
        )
        self.assertIn("3 proxies", self.texts()[0])
        self.now += 20 * SECOND
        self.assertIn("edge-1 is 35 s behind  edge-2 is 60 s behind", self.texts()[2])

    def test_many_proxies_that_are_behind_fit_into_a_line(self) -> None:
        self.activity.reading = self.activity.reading._replace(
            proxies=[proxy(number, None) for number in range(100)]
        )
        self.top.update()
        self.assertIn("nothing of edge-4 was shipped yet  and 95 more", self.texts(400)[2])

    def test_failure_is_a_message_until_the_database_is_back(self) -> None:
        self.activity.error = DatabaseAway("PostgreSQL is away: refused")
        self.assertRaises(JournalFailure, self.top.update_once)
        self.assertIn("PostgreSQL is away: refused", self.texts())
        self.assertIn("connecting ...", self.texts())
        self.activity.error = None
        self.top.update()
        self.assertNotIn("PostgreSQL is away: refused", self.texts())
        self.activity.error = DatabaseAway("PostgreSQL is away: refused")
        self.top.update()
        self.assertIn("PostgreSQL is away: refused", self.texts())
        self.assertIn("10.0.0.1", self.keys())

    def test_option_has_all_groups(self) -> None:
        self.assertEqual(set(command.FLEET_GROUPS), set(KEYS))
        self.assertEqual(set(command.GROUPS), set(state.GROUPS))

    def test_names_are_decoded(self) -> None:
        self.top.press("g")
        self.activity.reading = self.activity.reading._replace(
            ended=[
                Sum(NOW // self.top.window.slot, key, commands, 0, 0)
                for key, commands in NAMED.items()
            ],
            open=[],
        )
        self.top.update()
        self.assertEqual(self.keys(), ["a b", "c\\x1b and 2 others", "%", "-", "(others)"])

    @given(
        st.lists(st.sampled_from([*"abrncegp ", "x", *NAMES.values()]), max_size=30),
        st.integers(20, 200),
        st.integers(6, 50),
    )
    def test_any_keys_leave_a_screen_that_fits(
        self, keys: list[str], columns: int, height: int
    ) -> None:
        self.setUp()
        for key in keys:
            self.top.press(key)
            self.top.update()
            lines = self.top.lines(columns, height)
            self.assertLessEqual(len(lines), height)
            self.assertTrue(all(width(line.text) <= columns for line in lines))
