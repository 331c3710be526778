from __future__ import annotations

import io
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from natproxy.cli.translations import events
from natproxy.records.record import format_time
from tests.support.control_server import ControlServer
from tests.support.observed_daemon import SECOND, START, ObservedCase, entry


def event(kind: str, serial: int = 1, **members: Any) -> dict[str, Any]:
    return entry(serial)._replace(event=kind, time=START + 1_500_000, **members).json()


REGISTERED = event("registered", bytes=0, promised=None)
REMOVED = event("removed", seq=12, outcome="client-gone", reason="reset", duration=0.0034)
LOST = {
    "event": "lost",
    "proxy": "proxy-9000",
    "worker": 0,
    "boot": "boot",
    "from": 3,
    "to": 1002,
}
LOST_RUN = LOST | {"from": 13, "to": None}


class EventsTests(ObservedCase):
    def test_line_of_each_kind(self) -> None:
        kill = event("kill", client=None, reason="verb GET", uid=0, pid=77)
        drain = event("drain", 0, client=None, reason=None, uid=1000, pid=5)
        failed = event("failed", nat_port=None, outcome="error", reason="refused", promised=None)
        relaying = event("relaying", duration=0.25)
        self.daemon.events = [LOST, REGISTERED, relaying, REMOVED, failed, kill, drain]
        lines = self.out("events")
        self.assertEqual(lines[0], "lost        1,000 events are no longer there: 0:3 to 0:1002")
        time = "2023-11-14 23:13:21.500000 +01:00  "
        self.assertEqual([line[: len(time)] for line in lines[1:]], [time] * 6)
        self.assertEqual(
            [line[len(time) :] for line in lines[1:]],
            [
                "registered  #1 10.0.0.1:50001 port 40001 GET images/1.iso",
                "relaying    #1 10.0.0.1:50001 port 40001 GET images/1.iso: 10.0 MB to relay, 0.2s",
                "removed     #1 10.0.0.1:50001 port 40001 GET images/1.iso:"
                " client-gone, 1.0/10.0 MB, 3ms, reset",
                "failed      #1 10.0.0.1:50001 no port GET images/1.iso:"
                " error, 1.0 MB, 9.0s, refused",
                "kill        #1 by uid 0 (pid 77): verb GET",
                "drain       by uid 1000 (pid 5)",
            ],
        )

    def test_lines_of_attempts(self) -> None:
        members = {"worker": 1, "serial": 2, "command": 1, "attempt": 2, "duration": 9.0}
        first = event("removed", worker=1, outcome="retried", reason="9 bytes missing")
        second = event("registered", bytes=0, **members)
        last = event("removed", outcome="completed", bytes=10_000_000, total=11_000_000, **members)
        self.daemon.events = [first, second, last]
        self.assertEqual(
            [
                re.sub(r" 10\.\S+ port \d+ GET \w+/\d.iso", "", line.partition("  ")[2])
                for line in self.out("events")
            ],
            [
                "removed     #1:1: retried, 1.0/10.0 MB, 9.0s, 9 bytes missing",
                "registered  #1:2: attempt 2 of #1:1",
                "removed     #1:2: attempt 2 of #1:1, completed, 10.0 MB,"
                " 11.0 MB by all attempts, 9.0s",
            ],
        )

    def test_lost_events_of_another_run_have_no_number(self) -> None:
        self.daemon.events = [LOST_RUN, {**LOST_RUN, "boot": None}, {**LOST, "to": 3}]
        self.assertEqual(
            [line.removeprefix("lost        ") for line in self.out("events")],
            [
                "events from 0:13 of the run boot are no longer there, if it had any",
                "events from 0:13 of another run of the daemon are no longer there, if it had any",
                "1 event is no longer there: 0:3 to 0:3",
            ],
        )
        found = [json.loads(line) for line in self.out("events", "--json")]
        self.assertEqual(found[:2], self.daemon.events[:2])

    def test_no_event_is_a_message(self) -> None:
        found = self.main("events")
        reason = "natproxy: no event is recorded, or none matches; -f waits for new ones\n"
        self.assertEqual(found, (0, b"", reason))
        self.assertEqual(self.out("events", "--json"), [])

    def test_hostile_members_are_printable(self) -> None:
        hostile = "\x1b[2J\n"
        self.daemon.events = [
            event("failed", client=hostile, verb=hostile, reason=hostile, outcome=hostile),
            event(hostile, client=None, reason=hostile, uid=hostile),
        ]
        for line in self.out("events"):
            self.assertTrue(line.isprintable(), line)

    def test_json_lines_are_those_of_the_daemon(self) -> None:
        self.daemon.events = [LOST, REGISTERED, REMOVED]
        found = [json.loads(line) for line in self.out("events", "--json")]
        self.assertEqual(found, self.daemon.events)

    def test_options_are_sent(self) -> None:
        self.daemon.events = [REGISTERED]
        self.out("events", "verb GET", "--last", "5", "--since", "@1700000000")
        self.out("events", "--until", "2023-11-14 22:14Z", "--after", "0:7")
        self.assertEqual(
            self.queries("/v1/events"),
            [
                {"filter": "verb GET", "last": "5", "since": format_time(START)},
                {"until": format_time(START + 100 * SECOND), "after": "0:7"},
            ],
        )

    def test_usage_errors_send_nothing(self) -> None:
        for reason, *arguments in (
            ("--follow waits for new events: not with --until", "-f", "--until", "now"),
            ("--follow waits for new events: not with --journal", "-f", "--journal", "."),
            ("--last and --after exclude each other", "--last", "5", "--after", "0:7"),
            ("is before --since", "--since", "-1min", "--until", "-2min"),
        ):
            self.assert_fails(2, reason, "events", *arguments)
        self.assertEqual(self.main("events", "--after", "7")[0], 2)
        self.assertEqual(self.control.requests, [])


class FollowTests(ObservedCase):
    """`time.sleep` of the command interrupts it while it waits for a daemon that has ended."""

    def setUp(self) -> None:
        super().setUp()
        self.slept = 0
        self.patch(events.time, "sleep", self.sleep)
        self.restart: Callable[[], object] = lambda: None

    def sleep(self, _: float) -> None:
        self.slept += 1
        if self.slept == 3:
            raise KeyboardInterrupt
        self.restart()

    def end(self) -> Iterator[dict[str, Any]]:
        """Yield an event, and make every further request one to a daemon that has ended."""
        yield REMOVED
        self.control.close()

    def test_follow_begins_with_the_newest_and_ends_with_an_interrupt(self) -> None:
        self.daemon.events = [event("registered", seq=each) for each in range(1, 31)]
        self.daemon.follow = self.end
        status, out, err = self.main("events", "-f")
        self.assertEqual((status, len(out.splitlines()), self.slept), (130, 21, 3))
        self.assertEqual(err, "natproxy: the daemon has ended; waiting until it runs again\n")

    def test_follow_continues_with_the_next_run(self) -> None:
        def restart() -> None:
            os.unlink(self.control.path)
            self.daemon.follow = lambda: iter([LOST_RUN, REGISTERED])
            self.daemon.events = []
            self.control = ControlServer(Path(self.control.path), self.daemon.reply)
            self.addCleanup(self.control.close)
            self.restart = lambda: None

        self.daemon.follow = self.end
        self.restart = restart
        _, out, _ = self.main("events", "--follow")
        kinds = re.findall("lost|registered|removed", out.decode())[:3]
        self.assertEqual(kinds, ["removed", "lost", "registered"])
        self.assertEqual(self.queries("/v1/events")[0], {"after": "0:12:boot", "follow": "1"})

    def test_follow_continues_where_it_began_if_nothing_has_happened(self) -> None:
        self.daemon.status["position"] = "0:7:boot"
        self.main("events", "-f", "verb GET")
        *_, again = self.queries("/v1/events")
        self.assertEqual(again, {"after": "0:7:boot", "filter": "verb GET", "follow": "1"})

    def test_follow_from_a_number_has_all_that_follows(self) -> None:
        self.main("events", "-f", "--after", "0:7")
        self.slept = 0
        self.main("events", "-f", "--last", "3")
        found = self.queries("/v1/events")
        self.assertIn({"after": "0:7", "follow": "1"}, found)
        self.assertIn({"last": "3", "follow": "1"}, found)

    def test_event_is_written_when_it_occurs(self) -> None:
        written = threading.Event()

        class Output(io.TextIOWrapper):
            def flush(self) -> None:
                super().flush()
                if b"registered" in self.buffer.getvalue():  # type: ignore[attr-defined]
                    written.set()

        def follow() -> Iterator[dict[str, Any]]:
            yield REGISTERED
            if written.wait(10):
                yield REMOVED

        self.daemon.follow = follow
        _, out, _ = self.main("events", "-f", output=Output)
        self.assertIn(b"removed", out)

    def test_interrupt_is_the_usual_status(self) -> None:
        with mock.patch(
            "natproxy.cli.translations.events.event_line", side_effect=KeyboardInterrupt
        ):
            self.daemon.follow = lambda: iter([REMOVED])
            self.assertEqual(self.main("events", "-f"), (130, b"", ""))
            self.assertEqual(self.main("events", "--json")[2], "")
