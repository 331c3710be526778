"""A daemon with several workers, as the command line shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from tests.support.control_server import ControlServer, Request
from tests.support.observed_daemon import ObservedCase, entry

SILENT = "it has not replied within 2 s"
MISSING = [{"worker": 1, "reason": SILENT}]
LINE = f"natproxy: this may be incomplete: worker 1 does not reply: {SILENT}\n"


class SeveralWorkersTests(ObservedCase):
    def setUp(self) -> None:
        super().setUp()
        self.missing: object = MISSING
        self.control.close()
        path = self.directory / "edge.sock"
        self.control = ControlServer(path, self.reply)
        self.addCleanup(self.control.close)
        os.environ["NATPROXY_CONTROL"] = os.fspath(path)
        self.daemon.table = [entry(1), entry(2)]

    def reply(self, request: Request) -> Iterable[bytes]:
        """Add the header with the missing workers to a reply."""
        value = json.dumps(self.missing).encode()
        begin, named = b"HTTP/1.1 200 OK\r\n", b"Natproxy-Missing: %b\r\n" % value
        for part in self.daemon.reply(request):
            yield part.replace(begin, begin + named, 1)

    def test_worker_that_does_not_reply_is_named(self) -> None:
        for arguments in (("table",), ("history",), ("events",), ("kill", "-n", "verb GET")):
            status, _, err = self.main(*arguments)
            self.assertEqual(status, 0, err)
            self.assertIn(LINE, err, arguments)
        self.missing = []
        self.assertEqual(self.main("table")[2], "")

    def test_malformed_header_is_ignored(self) -> None:
        endless = [{"worker": float("inf"), "reason": "x"}]
        for wrong in ({}, [1], [{"worker": "x"}], "a", None, endless):
            self.missing = wrong
            self.assertEqual(self.main("table")[2], "", wrong)

    def test_reason_cannot_control_the_terminal(self) -> None:
        self.missing = [{"worker": 1, "reason": "\x1b[2J\n"}]
        self.assertNotIn("\x1b", self.main("table")[2])

    def test_status_lists_the_workers(self) -> None:
        self.daemon.status |= {
            "worker": None,
            "workers": [
                {"worker": 0, "pid": 7, "uptime": 61, "clients": 2, "table": 1, "draining": True}
            ],
            "missing": MISSING,
        }
        lines = self.out("status")
        place = next(n for n, line in enumerate(lines) if line.startswith("workers:"))
        self.assertEqual(
            lines[place : place + 2],
            [
                "workers:    0: process 7, up 1m01s, 2 clients, 1 in flight, draining",
                f"            1: does not reply: {SILENT}",
            ],
        )

    def test_nouns_agree_with_their_numbers(self) -> None:
        self.daemon.status |= {
            "workers": [{"worker": 0, "pid": 7, "clients": 1}, {"worker": 1, "clients": "x"}],
            "access_log": {"path": "a", "lost": 1},
            "counters": {
                "limits": {"waiting": 1},
                "cache": {"hits": 1, "misses": 1, "evicted": 1, "errors": 1, "bytes": 1},
            },
            "journal": {"directory": "j", "rows": 1, "gaps": 0, "segments": 1},
        }
        text = "\n".join(self.out("status"))
        for words in (
            "1 client\n",
            "x clients",
            "1 line lost",
            "1 command is delayed now",
            "1 hit, 1 miss, 1 evicted",
            "1 error\n",
            "1 row, 0 gaps, 1 segment",
        ):
            self.assertIn(words, text)

    def test_serial_number_of_a_worker(self) -> None:
        self.main("kill", "1:2", "--yes")
        self.assertEqual(self.bodies("/v1/kill"), [{"serial": 2, "worker": 1}])

    def test_numbers_are_shown_as_kill_takes_them(self) -> None:
        self.missing = []
        self.daemon.table = [entry(1), entry(2, worker=1)]
        record = entry(3, event="registered", seq=3).json()
        kill = entry(4, event="kill", seq=4, client=None, uid=0, pid=7).json()
        self.daemon.events = [record, kill]
        for workers, prefix in ((None, ""), ([{"worker": 0}, {"worker": 1}], "0:")):
            self.daemon.status["workers"] = workers
            for arguments in (("kill", "-n", "verb GET"), ("table", "--columns", "serial")):
                _, *rows = self.out(*arguments)
                found = [row.split()[0] for row in rows]
                self.assertEqual(found, [f"{prefix}1", "1:2"], arguments)
            first, second = self.out("events")
            self.assertIn(f" #{prefix}3 ", first)
            self.assertIn(f" #{prefix}4 by uid 0", second)

    def test_events_after_the_places_of_several_workers(self) -> None:
        self.missing = []
        self.main("events", "--after", "0:5,1:7:b")
        self.assertEqual(self.queries("/v1/events")[-1]["after"], "0:5,1:7:b")
        self.assertEqual(self.main("events", "--after", "0:5,")[0], 2)

    def test_worker_that_is_missing_is_an_event(self) -> None:
        self.missing = []
        self.daemon.events = [
            {
                "event": "missing",
                "time": "2026-11-26T04:38:57.000000Z",
                "proxy": "edge",
                "worker": 1,
                "reason": SILENT,
            }
        ]
        (line,) = self.out("events")
        self.assertIn(f"missing     worker 1 does not reply: {SILENT}", line)
        (line,) = self.out("events", "--json")
        self.assertEqual(json.loads(line)["worker"], 1)
