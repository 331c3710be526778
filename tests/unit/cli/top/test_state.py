from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.top import sampling
from natproxy.cli.top.sampling import Sampler
from natproxy.cli.top.state import Mode, Top
from natproxy.cli.top.view import lines
from natproxy.cli.translations.columns import identity_of
from natproxy.cli.translations.texts import width
from natproxy.client.control.daemon import Daemon, LostEvents
from natproxy.client.errors import ClientError, NoDaemon
from natproxy.records.record import Record
from tests.support.observed_daemon import entry
from tests.support.recorded_upstreams import two


class ScriptedDaemon(Daemon):
    """A daemon whose replies a test sets."""

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.entries = [entry(1), entry(2, verb="LS", name=""), entry(3)]
        self.new: list[Record | LostEvents] = []
        self.killed: list[str | None] = []
        self.filters: list[str] = []
        self.error: ClientError | None = None
        self.members = {
            "name": "proxy-9000",
            "boot": "boot",
            "uptime": 90.0,
            "clients": 2,
            "table": 3,
            "position": "0:100:boot",
        }

    def status(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return dict(self.members)

    def table(self, filter: str = "", limit: int | None = None) -> Iterator[Record]:  # noqa: A002
        self.filters.append(filter)
        return iter(self.entries)

    def events(self, *arguments: Any, **options: Any) -> Iterator[Record | LostEvents]:
        self.after = options["after"]
        new, self.new = self.new, []
        return iter(new)

    def kill(
        self,
        serial: int | None = None,
        filter: str | None = None,  # noqa: A002
        dry_run: bool = False,
    ) -> list[Record]:
        self.killed.append(filter)
        return self.entries[:1]


def removed(serial: int, seq: int, **members: Any) -> Record:
    record = entry(serial, event="removed", state="removed", outcome="completed", seq=seq)
    return record._replace(**members)


class TopCase(SynchronousTestCase):
    group: str | None = None

    def setUp(self) -> None:
        self.seconds = 100.0
        self.daemon = ScriptedDaemon()
        sampler = Sampler(self.daemon, lambda: self.seconds)
        self.top = Top(self.daemon, group=self.group, sampler=sampler)
        self.top.update()

    def later(self, seconds: float = 2.0) -> None:
        self.seconds += seconds
        self.top.update()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.top.press(key)

    def shown(self, columns: int = 100, height: int = 20) -> str:
        found = lines(self.top, columns, height)
        self.assertEqual(len(found), height)
        for line in found:
            self.assertLessEqual(width(line.text), columns)
        return "\n".join(line.text.rstrip() for line in found)

    def serials(self) -> list[int | None]:
        return [record.serial for record in self.top.records()]


class EntriesTests(TopCase):
    def test_screen_has_title_totals_rows_and_keys(self) -> None:
        shown = self.shown()
        self.assertIn("proxy-9000  up 1m30s  2 clients  3 in flight", shown)
        self.assertRegex(shown, r"SERIAL +PORT +CLIENT +VERB +NAME +BYTES +RATE +AGE +STATE")
        self.assertRegex(shown, r"\n +1 +40001 +10\.0\.0\.1:50001 +GET +images/1\.iso")
        self.assertTrue(shown.endswith("p pause"))

    def test_clients_over_limits_are_shown(self) -> None:
        self.assertNotIn("over limits", self.shown())
        clients = [
            {"client": "10.0.0.9", "limit": "client.commands", "age": 3.0},
            {"client": "10.0.0.8", "limit": "total.commands", "age": 59.0},
            {"client": "10.0.0.7", "limit": "total.commands", "age": 61.0},
        ]
        self.daemon.members["counters"] = {"limits": {"waiting": 2, "clients": clients}}
        self.later()
        expected = "over limits: 2 commands delayed  10.0.0.9 (client.commands)  10.0.0.8 (total."
        self.assertIn(f"\n{expected}", self.shown())
        self.assertNotIn("10.0.0.7", self.shown(200))
        self.assertRegex(self.shown(), r"\n +1 +40001 +10\.0\.0\.1:50001 +GET +images/1\.iso")

    def test_malformed_limits_are_not_shown(self) -> None:
        malformed = (1, {"limits": []}, {"limits": {"clients": [3, {"age": None}], "waiting": "a"}})
        for counters in malformed:
            self.daemon.members["counters"] = counters
            self.later()
            self.assertNotIn("over limits", self.shown())

    def test_upstreams_are_shown(self) -> None:
        self.daemon.members["upstreams"] = two().json()
        self.later()
        expected = "upstreams: 1 up, 1 down (files-b: connection refused), queue 0"
        self.assertIn(f"\n{expected}\n", self.shown())
        self.shown(columns=30, height=6)

    def test_rates_are_those_between_samples(self) -> None:
        self.daemon.entries = [entry(1, bytes=3_000_000)]
        self.later(2.0)
        self.assertRegex(self.shown(), r"images/1\.iso .* 1\.0 MB/s")

    def test_rates_are_those_of_the_last_seconds(self) -> None:
        # Bytes of a slow transfer move at intervals, and others are younger than the samples.
        old = entry(1, bytes=1_000_000, duration=60.0)
        for sent in (1_000_000, 3_000_000, 3_000_000, 3_000_000):
            self.daemon.entries = [old._replace(bytes=sent), entry(9, bytes=sent, duration=2.0)]
            self.later(1.0)
        rates = {
            record.serial: self.top.rates[identity_of(record)] for record in self.top.records()
        }
        self.assertEqual(rates, {1: 500_000.0, 9: 1_500_000.0})

    def test_sum_of_the_rates_is_the_total(self) -> None:
        for sent in (2_000_000, 3_000_000, 7_000_000):
            self.daemon.entries = [entry(1, bytes=sent, duration=60.0), entry(2, duration=60.0)]
            self.later(1.0)
        self.assertEqual(sum(self.top.rates.values()), self.top.window.total().rate)

    def test_attempt_that_another_one_follows_is_no_command(self) -> None:
        self.daemon.entries = []
        self.daemon.new = [
            removed(7, 101, bytes=500_000, outcome="retried"),
            removed(8, 102, bytes=500_000),
        ]
        self.later(1.0)
        total = self.top.window.total()
        self.assertEqual((total.finished, total.failed, total.rate), (1.0, 0.0, 1_000_000))

    def test_finished_commands_are_counted_once(self) -> None:
        # One that was in the table, one that was not, and one that failed.
        self.daemon.entries = [entry(1), entry(3)]
        self.daemon.new = [
            removed(1, 101, bytes=1_500_000),
            removed(7, 102, bytes=500_000),
            removed(8, 103, bytes=0, outcome="error"),
        ]
        self.later(2.0)
        self.assertEqual(self.daemon.after, "0:100:boot")
        total = self.top.window.total()
        self.assertEqual((total.in_flight, total.finished, total.failed), (1, 1.5, 0.5))
        self.assertEqual(total.rate, 500_000)
        self.later()
        self.assertEqual(self.daemon.after, "0:103:boot")

    def test_events_that_were_too_many_are_reported(self) -> None:
        self.daemon.new = [LostEvents(0, "boot", 101, 9000), removed(7, 9001)]
        self.later()
        self.assertIn("8,900 events were too many to count", self.shown())
        self.later()
        self.assertEqual(self.daemon.after, "0:9001:boot")
        # Of another run of the daemon, whose number is unknown.
        self.daemon.new = [LostEvents(0, None, 9002, None), removed(7, 1)]
        self.later()
        self.assertNotIn("too many", self.shown())

    def test_events_of_an_earlier_run_are_not_counted(self) -> None:
        self.daemon.new = [LostEvents(0, None, 101, None), removed(7, 3)]
        self.later()
        assert self.top.sample is not None
        self.assertEqual((len(self.top.sample.finished), self.top.sample.lost), (1, 0))

    def test_number_of_events_of_a_sample_is_bounded(self) -> None:
        self.patch(sampling, "MOST_EVENTS", 3)
        self.daemon.new = [removed(7, 101 + number) for number in range(9)]
        self.daemon.members["position"] = "0:109:boot"
        self.later()
        assert self.top.sample is not None
        self.assertEqual((len(self.top.sample.finished), self.top.sample.lost), (3, 6))
        self.later()
        self.assertEqual(self.daemon.after, "0:109:boot")

    def test_window_forgets_what_is_old(self) -> None:
        self.daemon.new = [removed(7, 101)]
        self.later(1.0)
        self.assertEqual(self.top.window.total().finished, 1.0)
        for _ in range(6):
            self.later(1.0)
        self.assertEqual(self.top.window.total().finished, 0.0)

    def test_keys_sort(self) -> None:
        self.assertEqual(self.serials(), [1, 2, 3])
        self.press("b")
        self.assertEqual(self.serials(), [3, 2, 1])
        self.press("c")
        self.assertEqual(self.serials(), [1, 2, 3])
        self.daemon.entries = [entry(1), entry(2, bytes=9_000_000), entry(3)]
        self.later()
        self.press("r")
        self.assertEqual(self.serials()[0], 2)

    def test_selection_follows_its_command(self) -> None:
        self.press("down", "down", "up")
        self.assertEqual(self.top.selected(), 1)
        self.daemon.entries = [entry(2), entry(9)]
        self.later()
        self.assertEqual(self.top.selected(), 0)
        self.press("up", "down", "down", "down")
        self.assertEqual(self.top.selected(), 1)

    def test_keys_for_pages_move_the_selection(self) -> None:
        self.daemon.entries = [entry(number) for number in range(1, 90)]
        self.later()
        found = []
        for key in ("page down", "page down", "up", "page up", "end", "page down", "home"):
            self.press(key)
            found.append(self.top.selected())
        self.assertEqual(found, [10, 20, 19, 9, 88, 88, 0])

    def test_selection_is_visible_in_a_small_terminal(self) -> None:
        self.daemon.entries = [entry(number) for number in range(1, 90)]
        self.later()
        self.press(*["down"] * 50)
        self.assertIn("images/51.iso", self.shown(height=12))

    def test_kill_needs_a_confirmation(self) -> None:
        self.press("down", "k")
        self.assertIn("end #2 LS? [y/N]", self.shown())
        self.press("n")
        self.assertEqual((self.daemon.killed, self.top.mode), ([], Mode.COMMANDS))
        self.press("k", "y")
        self.assertEqual(self.daemon.killed, ["serial 2 and boot 'boot' and worker 0"])
        self.assertIn("ended #2", self.shown())

    def test_number_has_the_worker_if_there_are_several(self) -> None:
        self.daemon.members["workers"] = [{"worker": 0}, {"worker": 1}]
        self.daemon.entries = [entry(2), entry(2, worker=1)]
        self.later()
        self.assertIn(" 0:2 ", self.shown())
        self.press("down", "k")
        self.assertIn("end #1:2 GET images/2.iso? [y/N]", self.shown())
        self.press("y")
        self.assertIn("ended #1:2", self.shown())

    def test_kill_ends_the_command_that_was_shown(self) -> None:
        self.press("k")
        self.daemon.entries = [entry(9)]
        self.later()
        self.press("y")
        self.assertEqual(self.daemon.killed, ["serial 1 and boot 'boot' and worker 0"])

    def test_filter_is_edited_and_checked(self) -> None:
        self.press("/", *"verbs GET", "enter")
        self.assertEqual(self.top.mode, Mode.FILTER)
        self.assertIn("'verbs' is no member", self.shown())
        self.press("clear", *"verb GETT", "backspace", "enter")
        self.later()
        self.assertEqual(self.daemon.filters[-1], "verb GET")
        self.assertIn("filter: verb GET", self.shown())
        self.press("/", "x", "escape")
        self.assertEqual((self.top.text, self.top.mode), ("verb GET", Mode.COMMANDS))

    def test_end_of_a_long_filter_is_visible(self) -> None:
        self.press("/", *"name '", *"x" * 100, *"end'")
        self.assertTrue(self.shown(columns=40).endswith("xxend'"))

    def test_filter_ends_a_pause(self) -> None:
        self.press("p", "/", *"verb GET", "enter")
        self.daemon.entries = [entry(1)]
        self.later()
        self.assertEqual(self.serials(), [1])

    def test_keys_are_named_as_far_as_there_is_space(self) -> None:
        for columns, expected in ((100, "a age  b bytes"), (60, "a b r c sort"), (30, "q quit")):
            self.assertIn(expected, self.shown(columns))

    def test_one_client_is_singular(self) -> None:
        self.daemon.members |= {"clients": 1, "table": 1234}
        self.later()
        self.assertIn("  1 client  1,234 in flight", self.shown())

    def test_pause_takes_no_sample(self) -> None:
        self.press("p")
        self.daemon.entries = []
        self.later()
        self.assertEqual(self.serials(), [1, 2, 3])
        self.assertIn("PAUSED", self.shown())
        self.press("p")
        self.later()
        self.assertIn("no command in flight", self.shown())

    def test_restart_of_the_daemon_is_survived(self) -> None:
        self.daemon.error = NoDaemon("a.sock: no daemon listens on this socket")
        self.later()
        self.assertIn("no daemon listens", self.shown())
        self.assertIn("proxy-9000  NO REPLY", self.shown())
        self.daemon.error = None
        self.daemon.members |= {"boot": "next", "position": "0:3:next"}
        self.later()
        self.assertNotIn("no daemon listens", self.shown())
        self.assertNotIn("NO REPLY", self.shown())
        self.later()
        self.assertEqual(self.daemon.after, "0:3:next")

    def test_daemon_without_events_is_sampled(self) -> None:
        del self.daemon.members["position"]
        self.later()
        self.later()
        self.assertEqual(self.serials(), [1, 2, 3])

    def test_quit(self) -> None:
        self.press("q", "k")
        self.assertTrue(self.top.ended)

    @given(
        keys=st.lists(
            st.sampled_from(["up", "page down", "end", "enter", "escape", "y", *"abrcgkp/ x"])
        )
    )
    def test_no_keys_are_an_error(self, keys: list[str]) -> None:
        self.press(*keys)
        self.later()
        self.shown(columns=30, height=6)

    def test_hostile_members_are_printable(self) -> None:
        hostile = "\x1b[2J\n"
        self.daemon.entries = [entry(1, client=hostile, verb=hostile, name="%1B%0A", state=hostile)]
        self.daemon.members["name"] = hostile
        self.later()
        self.press("k")
        for _ in range(4):
            for line in self.shown().splitlines():
                self.assertTrue(line.isprintable(), line)
            self.press("n", "g")


class GroupsTests(TopCase):
    group = "verb"

    def test_groups_have_finished_commands_as_well(self) -> None:
        self.daemon.new = [removed(7, 101, verb="STAT", bytes=100, promised=None)]
        self.later(1.0)
        shown = self.shown()
        self.assertRegex(shown, r"VERB +IN FLIGHT +BYTES +RATE +COMMANDS/S +FAILED/S")
        self.assertRegex(shown, r"GET +2 +4\.0 MB +0 B/s +0\.0 +0\.0")
        self.assertRegex(shown, r"STAT +0 +0 B +100 B/s +1\.0 +0\.0")

    def test_keys_sort(self) -> None:
        self.assertEqual([row.key for row in self.top.rows()], ["GET", "LS"])
        self.daemon.entries = [entry(1, verb="LS"), entry(2, verb="LS"), entry(9)]
        self.later()
        expected = {"a": ["LS", "GET"], "b": ["GET", "LS"], "c": ["GET", "LS"]}
        for key, rows in expected.items():
            self.press(key)
            self.assertEqual([row.key for row in self.top.rows()], rows, key)

    def test_groups_are_not_ended(self) -> None:
        self.press("k")
        self.assertIn("only single commands can be ended", self.shown())
        self.press("y")
        self.assertEqual(self.daemon.killed, [])

    def test_key_selects_the_group(self) -> None:
        seen = []
        for _ in range(4):
            self.press("g")
            seen.append(self.top.group)
        self.assertEqual(seen, [None, "client", "name", "verb"])
