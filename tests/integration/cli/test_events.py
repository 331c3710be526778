from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

from natproxy.records.record import format_time
from tests.support.observed_daemon import SECOND, START, ObservedCase, entry


def event(kind: str, serial: int = 1, **members: Any) -> dict[str, Any]:
    return entry(serial)._replace(event=kind, time=START + 1_500_000, **members).json()


REGISTERED = event("registered", bytes=0, promised=None)
REMOVED = event("removed", seq=12, outcome="client-gone", reason="reset", duration=0.0034)
LOST = {"event": "lost", "worker": 0, "boot": "boot", "from": 3, "to": 1002}


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
    def test_follow_begins_with_the_newest_and_ends_with_the_daemon(self) -> None:
        self.daemon.events = [event("registered", seq=each) for each in range(1, 31)]
        self.daemon.follow = lambda: iter([REMOVED])
        status, out, err = self.main("events", "-f")
        self.assertEqual((status, len(out.splitlines())), (5, 21))
        expected = "natproxy: the daemon has ended; --after 0:12 continues after the last event\n"
        self.assertEqual(err, expected)

    def test_follow_from_a_number_has_all_that_follows(self) -> None:
        self.main("events", "-f", "--after", "0:7")
        self.main("events", "-f", "--last", "3")
        expected = [{"after": "0:7", "follow": "1"}, {"last": "3", "follow": "1"}]
        self.assertEqual(self.queries("/v1/events"), expected)

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
            self.assertEqual(self.main("events", "-f"), (130, b"", "natproxy: interrupted\n"))
