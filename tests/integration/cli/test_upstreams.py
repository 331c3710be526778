"""``natproxy upstreams``: the table, modes, and waiting."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

from natproxy.cli.translations import upstream_modes, upstreams
from natproxy.client.errors import Interrupted
from natproxy.records.upstreams import UpstreamsRecord, merge_upstreams
from tests.support.commands import Terminal
from tests.support.control_server import ControlServer, Request, document
from tests.support.observed_daemon import ObservedCase
from tests.support.recorded_upstreams import SINCE, two

NOW = SINCE + 65_000_000
PATH = "/v1/upstreams"


class UpstreamsCase(ObservedCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(upstreams, "now", lambda: NOW)

    def set(self, **members: object) -> None:
        """Change members of the first upstream."""
        self.daemon.upstreams.now = two(**members)

    def bring_up(self) -> None:
        """Make the second upstream take commands."""
        first, second = self.daemon.upstreams.now.upstreams
        self.daemon.upstreams.now = self.daemon.upstreams.now._replace(
            upstreams=(first, second._replace(health="up"))
        )


class TableTests(UpstreamsCase):
    def test_table_has_upstreams_and_queue(self) -> None:
        title, first, second, queue = self.out("upstreams")
        self.assertEqual(
            title,
            "UPSTREAM  HEALTH  MODE   SINCE  ACTIVE  COMMANDS  FAILED  CHECKED  ENDPOINT"
            "                              REASON",
        )
        self.assertEqual(
            first.split(),
            ["files-a", "up", "ready", "1m05s", "3", "1,204", "2", "5s", "tcp:10.0.0.9:9001", "-"],
        )
        self.assertTrue(second.endswith("tcp:files-b.example:9001 (10.0.0.10)  connection refused"))
        self.assertEqual(queue, "queue: 0 of 100")

    def test_queue_that_has_commands(self) -> None:
        now = self.daemon.upstreams.now
        waiting = now.queue._replace(length=1204, longest_wait=2.5, refused=3)
        self.daemon.upstreams.now = now._replace(queue=waiting)
        expected = "queue: 1,204 of 100, the first for 2.5s, 3 refused so far"
        self.assertEqual(self.out("upstreams")[-1], expected)

    def test_json_is_one_object(self) -> None:
        (line,) = self.out("upstreams", "--json")
        found = json.loads(line)
        self.assertEqual(found["missing"], [])
        self.assertEqual(UpstreamsRecord.from_json(found), two())

    def test_worker_that_differs_is_named(self) -> None:
        other = two(health="down", last_error="it hangs")
        self.daemon.upstreams.now = merge_upstreams([(0, two()), (1, other)])
        lines = self.out("upstreams")
        self.assertIn("files-a: up for worker 0", lines)
        self.assertIn("it hangs", lines[1])

    def test_hostile_texts_are_printable(self) -> None:
        hostile = "\x1b[2J\n"
        self.set(endpoint=hostile, last_error=hostile, addresses=(hostile,))
        for line in self.out("upstreams"):
            self.assertTrue(line.isprintable(), line)

    def test_malformed_reply_is_one_line(self) -> None:
        self.daemon._upstreams = lambda request: document([])  # type: ignore[method-assign]
        self.assert_fails(6, "malformed JSON", "upstreams")
        self.daemon._upstreams = lambda request: document({})  # type: ignore[method-assign]
        self.assert_fails(6, "malformed JSON", "upstreams")

    def test_file_server_has_none(self) -> None:
        self.daemon._upstreams = None  # type: ignore[assignment, method-assign]
        self.assert_fails(1, "it is a file server, or an older proxy", "upstreams")

    def test_wait_needs_a_mode(self) -> None:
        self.assert_fails(2, "--wait belongs to ready", "upstreams", "--wait")


class WatchTests(UpstreamsCase):
    def setUp(self) -> None:
        super().setUp()
        self.slept: list[float] = []

        def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            self.set(active=7)
            if len(self.slept) == 2:
                raise KeyboardInterrupt

        self.patch(upstreams.time, "sleep", sleep)

    def test_states_follow_one_another(self) -> None:
        status, out, err = self.main("upstreams", "--watch", "5")
        self.assertEqual((status, err), (Interrupted.exit_status, ""))
        first, second, end = out.decode().split("\n\n")
        self.assertEqual((first.split("\n")[1].split()[4], end), ("3", ""))
        self.assertEqual(second.split("\n")[1].split()[4], "7")
        self.assertTrue(4.0 < self.slept[0] <= 5.0)

    def test_terminal_is_redrawn(self) -> None:
        with mock.patch.dict(os.environ, {"COLUMNS": "160", "LINES": "24"}):
            _, out, _ = self.main("upstreams", "--watch", output=Terminal)
        states = out.decode().split("\x1b[H")
        self.assertEqual(len(states), 3)
        self.assertIn("files-b", states[2])

    def test_daemon_that_ends_is_waited_for(self) -> None:
        def sleep(_: float) -> None:
            self.slept.append(0.0)
            if len(self.slept) == 1:
                self.control.close()
            elif len(self.slept) == 3:
                os.unlink(self.control.path)
                self.control = ControlServer(Path(self.control.path), self.daemon.reply)
                self.addCleanup(self.control.close)
            elif len(self.slept) == 4:
                raise KeyboardInterrupt

        self.patch(upstreams.time, "sleep", sleep)
        status, out, err = self.main("upstreams", "--watch")
        self.assertEqual((status, out.count(b"files-a")), (130, 2))
        self.assertEqual(err.count("no daemon listens"), 1)

    def test_no_daemon_is_an_error(self) -> None:
        self.control.close()
        self.assert_fails(4, "no daemon listens", "upstreams", "--watch")


class ModeTests(UpstreamsCase):
    def confirm(self, text: str, *arguments: str) -> tuple[int, str]:
        """Run a command line on a terminal, on which a text is typed."""
        with (
            mock.patch("sys.stdin", io.StringIO(text)),
            mock.patch("natproxy.cli.translations.confirmation.is_terminal", return_value=True),
        ):
            found, _, err = self.main("upstreams", *arguments)
        return found, err

    def test_mode_is_set(self) -> None:
        for mode, effect in (
            ("drain", "finishes its commands, and takes no more"),
            ("maintenance", "finishes its commands, takes no more, and is not checked"),
            ("ready", "takes commands"),
        ):
            status, out, err = self.main("upstreams", mode, "files-b")
            self.assertEqual((status, out), (0, b""))
            state = "down (connection refused), 0 commands in flight"
            self.assertEqual(err, f"natproxy: files-b {effect}: {state}\n")
            self.assertEqual(self.daemon.upstreams.set[-1], ("files-b", mode))

    def test_json_is_the_state_afterwards(self) -> None:
        _, out, _ = self.main("upstreams", "drain", "files-b", "--json")
        self.assertEqual(json.loads(out)["upstreams"][1]["mode"], "drain")

    def test_name_is_needed_and_has_to_exist(self) -> None:
        self.assert_fails(
            2, "the name of an upstream is needed: files-a, files-b", "upstreams", "drain"
        )
        self.assert_fails(
            3, "no upstream 'x'; there are files-a, files-b", "upstreams", "drain", "x"
        )
        self.assertEqual(self.daemon.upstreams.set, [])

    def test_unknown_action_is_a_usage_error(self) -> None:
        status, _, err = self.main("upstreams", "stop", "files-a")
        self.assertEqual(status, 2)
        self.assertIn("ready", err)

    def test_last_one_needs_a_confirmation(self) -> None:
        for action in ("drain", "maintenance"):
            status, err = self.confirm("n\n", action, "files-a")
            self.assertEqual(status, 1)
            self.assertIn("files-a is the only upstream that takes commands", err)
            self.assertIn("nothing was changed", err)
            status, _, err = self.main("upstreams", action, "files-a")
            self.assertEqual(status, 2)
            self.assertIn("add --yes", err)
        self.assertEqual(self.daemon.upstreams.set, [])
        self.assertEqual(self.confirm("y\n", "drain", "files-a")[0], 0)
        self.assertEqual(self.main("upstreams", "maintenance", "files-a", "--yes")[0], 0)
        modes = [mode for _, mode in self.daemon.upstreams.set]
        self.assertEqual(modes, ["drain", "maintenance"])

    def test_one_of_two_needs_none(self) -> None:
        self.bring_up()
        self.assertEqual(self.main("upstreams", "drain", "files-a")[0], 0)

    def test_watch_excludes_a_mode(self) -> None:
        self.assert_fails(2, "--wait waits", "upstreams", "drain", "files-a", "--watch")


class WaitTests(UpstreamsCase):
    def setUp(self) -> None:
        super().setUp()
        self.bring_up()
        self.looks = 0
        self.monotonic = 0.0
        self.patch(upstream_modes.time, "sleep", self.sleep)
        self.patch(upstream_modes.time, "monotonic", lambda: self.monotonic)

    def sleep(self, _: float) -> None:
        self.looks += 1
        self.monotonic += 2.0
        self.change(self.looks)

    def change(self, looks: int) -> None:
        """Change the upstream while it is waited for."""
        first, second = self.daemon.upstreams.now.upstreams
        first = first._replace(active=max(0, 4 - looks))
        self.daemon.upstreams.now = self.daemon.upstreams.now._replace(upstreams=(first, second))

    def test_until_it_has_no_command(self) -> None:
        status, _, err = self.main("upstreams", "drain", "files-a", "--wait")
        self.assertEqual((status, self.looks), (0, 4))
        self.assertEqual(
            err.splitlines(),
            [
                "natproxy: files-a: up, 1 command in flight",
                "natproxy: files-a finishes its commands, and takes no more:"
                " up, 0 commands in flight",
            ],
        )

    def test_ready_waits_until_it_is_up(self) -> None:
        self.set(health="down", mode="drain")

        def change(looks: int) -> None:
            if looks == 3:
                self.set(health="up")

        self.change = change  # type: ignore[method-assign]
        status, _, _ = self.main("upstreams", "ready", "files-a", "--wait")
        self.assertEqual((status, self.looks), (0, 3))

    def test_another_mode_meanwhile_ends_the_wait(self) -> None:
        self.change = lambda looks: self.set(mode="ready")  # type: ignore[method-assign]
        status, _, err = self.main("upstreams", "drain", "files-a", "--wait")
        self.assertEqual((status, self.looks), (1, 1))
        self.assertIn("its mode is ready", err)

    def test_upstream_that_a_reload_removes_ends_the_wait(self) -> None:
        def change(looks: int) -> None:
            now = self.daemon.upstreams.now
            self.daemon.upstreams.now = now._replace(upstreams=now.upstreams[1:])

        self.change = change  # type: ignore[method-assign]
        status, _, err = self.main("upstreams", "drain", "files-a", "--wait")
        self.assertEqual(status, 1)
        self.assertIn("a reload has removed it", err)

    def test_worker_that_does_not_reply_may_have_commands(self) -> None:
        self.set(active=0)
        self.bring_up()
        self.change = lambda looks: None  # type: ignore[method-assign]
        reply = self.daemon.reply

        def named(request: Request) -> Iterable[bytes]:
            value = b'Natproxy-Missing: [{"worker":1,"reason":"it hangs"}]\r\n'
            for part in reply(request):
                begin = b"HTTP/1.1 200 OK\r\n"
                yield part.replace(begin, begin + (value if self.looks < 3 else b""), 1)

        self.control._reply = named
        status, _, err = self.main("upstreams", "drain", "files-a", "--wait")
        self.assertEqual((status, self.looks), (0, 3))
        self.assertIn("worker 1 does not reply: it hangs", err)
