"""``kill``, ``drain``, ``reload`` and ``status``."""

from __future__ import annotations

import io
import json
from unittest import mock

from natproxy.cli.translations import drain, status
from natproxy.client.control.finding import Place, Search
from natproxy.client.errors import NoDaemon
from tests.support.control_server import ControlServer, Request, document
from tests.support.observed_daemon import FakeDaemon, ObservedCase, entry


class KillTests(ObservedCase):
    def setUp(self) -> None:
        super().setUp()
        self.daemon.table = [entry(1), entry(2, verb="LS"), entry(3)]

    def remaining(self) -> list[int | None]:
        return [record.serial for record in self.daemon.table]

    def confirm(self, text: str, *arguments: str) -> tuple[int, str, str]:
        """Run a command line on a terminal, on which a text is typed."""
        with (
            mock.patch("sys.stdin", io.StringIO(text)),
            mock.patch("natproxy.cli.translations.confirmation.is_terminal", return_value=True),
        ):
            found, out, err = self.main("kill", *arguments)
        return found, out.decode(), err

    def test_serial_number_with_yes_needs_no_terminal(self) -> None:
        found, out, err = self.main("kill", "2", "--yes")
        self.assertEqual((found, err), (0, "natproxy: ended 1 command\n"))
        self.assertIn(b"40002", out)
        self.assertEqual(self.remaining(), [1, 3])
        self.assertEqual(self.bodies("/v1/kill"), [{"serial": 2}])

    def test_filter_with_yes(self) -> None:
        found, _, err = self.main("kill", "verb", "GET", "--yes")
        self.assertEqual((found, err), (0, "natproxy: ended 2 commands\n"))
        self.assertEqual(self.remaining(), [2])

    def test_dry_run_shows_and_ends_nothing(self) -> None:
        rows = self.out("kill", "verb GET", "--dry-run")
        self.assertEqual([row.split()[0] for row in rows], ["SERIAL", "1", "3"])
        self.assertEqual(self.remaining(), [1, 2, 3])

    def test_confirmation_on_the_terminal(self) -> None:
        found, out, err = self.confirm("y\n", "verb GET")
        self.assertEqual((found, len(out.splitlines())), (0, 3))
        self.assertIn("End 2 commands? [y/N] ", err)
        self.assertEqual(self.remaining(), [2])

    def test_anything_else_than_yes_ends_nothing(self) -> None:
        for typed in ("\n", "", "n\n", "yep\n"):
            found, _, err = self.confirm(typed, "verb GET")
            self.assertEqual(found, 1)
            self.assertIn("nothing was ended", err)
        self.assertEqual(self.remaining(), [1, 2, 3])

    def test_end_of_input_ends_the_line_of_the_question(self) -> None:
        _, _, err = self.confirm("", "verb GET")
        self.assertEqual(err, "End 2 commands? [y/N] \nnatproxy: nothing was ended\n")

    def test_only_what_was_shown_is_ended(self) -> None:
        def before(request: Request) -> None:
            if request.path == "/v1/kill" and b"dry_run" not in request.body:
                # It begins while the user reads the question.
                self.daemon.table.append(entry(4))

        self.daemon.table += [entry(number) for number in range(10, 200)]
        self.daemon.before = before
        found, _, err = self.confirm("y\n", "verb GET")
        self.assertEqual(found, 0)
        self.assertIn("natproxy: ended 192 commands\n", err)
        self.assertEqual(self.remaining(), [2, 4, 4])

    def test_without_a_terminal_yes_is_needed(self) -> None:
        found, _, err = self.main("kill", "verb GET")
        self.assertEqual(found, 2)
        self.assertIn("add --yes", err)
        self.assertEqual(self.remaining(), [1, 2, 3])

    def test_nothing_to_end_is_a_status(self) -> None:
        for option in ("--yes", "--dry-run"):
            self.assert_fails(
                3, "has the serial number 9; a port is written nat-port 9", "kill", "9", option
            )
            self.assert_fails(
                3, "no command in flight matches the filter", "kill", "verb X", option
            )

    def test_empty_and_wrong_filters_send_nothing(self) -> None:
        self.assert_fails(2, "a serial number or a filter is needed", "kill", "", "--yes")
        self.assertEqual(self.main("kill", "verbs GET", "--yes")[0], 2)
        self.assertEqual(self.control.requests, [])

    def test_filter_is_explained(self) -> None:
        self.assertEqual(self.out("kill", "verb GET", "--explain"), ["The verb is GET."])
        self.assertEqual(self.out("kill", "7", "--explain"), ["The serial number is 7."])


class ReloadTests(ObservedCase):
    """``reload``, and ``config diff``, which only shows."""

    def setUp(self) -> None:
        super().setUp()
        place = "/etc/natproxy.toml: proxy"
        rules = [{"action": "deny", "clients": ["10.0.0.0/8"]}, {"action": "allow"}]
        self.changed = [
            {"setting": "proxy.drain", "old": 30.0, "new": 5.0, "source": f"{place}.drain"},
            {"setting": "proxy.ident", "old": None, "new": "tcp:1\n", "source": "default"},
            {"setting": "proxy.rules", "old": rules, "new": rules[1:], "source": f"{place}.rules"},
        ]
        listen = ["tcp:9000"], ["tcp:9001"]
        self.restart = [
            {"setting": "proxy.listen", "old": listen[0], "new": listen[1], "source": "x"}
        ]
        self.lines = [
            "  - proxy.drain = 30.0",
            "  + proxy.drain = 5.0  # /etc/natproxy.toml: proxy.drain",
            "  - proxy.ident = none",
            '  + proxy.ident = "tcp:1\\n"  # default',
            '  - [[proxy.rules]] {action = "deny", clients = ["10.0.0.0/8"]}'
            "  # /etc/natproxy.toml: proxy.rules",
        ]
        self.fixed = [
            '  - proxy.listen = ["tcp:9000"]',
            '  + proxy.listen = ["tcp:9001"]  # x',
        ]

    def test_what_has_changed_is_shown(self) -> None:
        self.daemon.reloaded |= {"changed": self.changed, "restart": self.restart}
        expected = ["changed:", *self.lines, "not changed, needs a restart:", *self.fixed]
        self.assertEqual(self.out("reload"), expected)
        self.assertEqual(self.bodies("/v1/reload"), [{"dry_run": False}])

    def test_nothing_is_changed_by_a_comparison(self) -> None:
        self.daemon.reloaded |= {"changed": self.changed, "restart": self.restart}
        expected = ["a reload changes:", *self.lines, "only a restart changes:", *self.fixed]
        for arguments in (("config", "diff"), ("reload", "-n"), ("config", "diff", "--control")):
            control = [self.control.path] if arguments[-1] == "--control" else []
            self.assertEqual(self.out(*arguments, *control), expected)
        self.assertEqual(self.bodies("/v1/reload"), [{"dry_run": True}] * 3)

    def test_no_difference(self) -> None:
        self.assertEqual(self.out("reload"), ["reloaded; no setting has changed"])
        self.assertEqual(self.out("config", "diff"), ["a reload changes no setting"])

    def test_workers_that_are_replaced(self) -> None:
        proxy = {"daemon": "proxy", "workers": 2, "reasons": ["the code has changed"]}
        files = {"daemon": "fileserver", "workers": 1, "reasons": ["it", "that"]}
        self.daemon.reloaded["replaced"] = [proxy]
        last = "reloaded; no setting has changed"
        self.assertEqual(self.out("reload"), ["the code has changed: 2 workers are replaced", last])
        self.assertEqual(
            self.out("reload", "-n")[0], "the code has changed: a reload replaces 2 workers"
        )
        self.daemon.reloaded["replaced"] = [proxy, files]
        self.assertEqual(
            self.out("reload"),
            [
                "the code has changed: 2 workers of the proxy are replaced",
                "it and that: 1 worker of the file server is replaced",
                last,
            ],
        )
        for wrong in ([{}], [{**proxy, "workers": "x"}], [[]], [{**proxy, "reasons": 1}]):
            self.daemon.reloaded["replaced"] = wrong
            self.assert_fails(6, "malformed JSON", "reload")

    def test_errors_have_a_line_each_and_the_status_is_2(self) -> None:
        wrong = "/etc/natproxy.toml: proxy.drain -1: must be at least 0 seconds"
        self.daemon.reloaded["errors"] = [wrong, "a\nb"]
        expected = f"natproxy: {wrong}\nnatproxy: a\\nb\n"
        self.assertEqual(self.main("config", "diff"), (2, b"", expected))
        expected += "natproxy: the settings are not reloaded: nothing has changed\n"
        self.assertEqual(self.main("reload"), (2, b"", expected))

    def test_json_is_the_reply_of_the_daemon(self) -> None:
        self.daemon.reloaded["restart"] = self.restart
        (line,) = self.out("reload", "--json")
        self.assertEqual(json.loads(line), self.daemon.reloaded)
        self.daemon.reloaded["errors"] = ["x"]
        status, out, _ = self.main("reload", "--json")
        self.assertEqual((status, json.loads(out)["errors"]), (2, ["x"]))

    def test_malformed_reply(self) -> None:
        for reply in ({}, {"errors": [], "changed": [1], "restart": []}):
            self.daemon._reload = lambda request, reply=reply: document(reply)  # type: ignore
            self.assert_fails(6, "malformed JSON", "reload")

    def test_options_of_other_actions_are_refused(self) -> None:
        for words, option in (
            (("config", "diff"), "--config=x"),
            (("config", "diff"), "--daemon=proxy"),
            (("config", "show"), "--name=x"),
            (("config", "check"), "--control=x"),
        ):
            self.assert_fails(2, option.partition("=")[0], *words, option)
        self.assertEqual(self.control.requests, [])


class DrainTests(ObservedCase):
    def test_drain_reports_what_is_in_flight(self) -> None:
        self.daemon.status |= {"clients": 1, "table": 2}
        expected = "natproxy: proxy-9000 drains: 1 client, 2 commands in flight\n"
        self.assertEqual(self.main("drain"), (0, b"", expected))
        self.assertTrue(self.daemon.status["draining"])

    def test_wait_returns_when_the_daemon_has_ended(self) -> None:
        slept = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                self.control.close()

        self.patch(drain.time, "sleep", sleep)
        found, _, err = self.main("drain", "--wait")
        self.assertEqual((found, len(slept)), (0, 3))
        self.assertIn("proxy-9000 has ended", err)

    def test_daemon_that_drains_already_is_waited_for(self) -> None:
        refusal = document({"error": "the daemon is draining already"}, "409 Conflict")
        self.daemon._drain = lambda request: refusal  # type: ignore[method-assign]
        self.assert_fails(1, "the daemon is draining already", "drain")
        self.patch(drain.time, "sleep", lambda seconds: self.control.close())
        self.assertEqual(self.main("drain", "--wait")[0], 0)

    def test_wait_ends_at_the_next_run(self) -> None:
        def sleep(seconds: float) -> None:
            self.daemon.status["boot"] = "next"

        self.patch(drain.time, "sleep", sleep)
        self.assertEqual(self.main("drain", "--wait")[0], 0)


class StatusTests(ObservedCase):
    def setUp(self) -> None:
        super().setUp()
        self.daemon.status |= {
            "version": "3.0",
            "pid": 7,
            "worker": 0,
            "started": "2023-11-14T22:13:20.000000Z",
            "uptime": 3725.5,
            "listen": ["tcp:9000"],
            "upstream": "127.0.0.1:9001",
            "draining": True,
            "clients": 1234,
            "table": 5,
            "commands": {
                "total": 12345,
                "sent": 5000,
                "verbs": {
                    "LS": {"completed": 0, "sent": 0},
                    "GET": {"completed": 12343, "error": 0, "killed": 2, "sent": 5000},
                },
            },
            "counters": {
                "clients": {"now": 3, "limit": 5000, "refused": {"clients": 0, "host": 7}},
                "limits": {
                    "waiting": 2,
                    "delayed": {"client.commands": 7},
                    "refused": {"client.commands": 1, "total.digests": 3},
                    "clients": [
                        {
                            "client": "10.0.0.1",
                            "identity": "alice",
                            "delayed": 7,
                            "refused": 0,
                            "limit": "client.commands",
                            "age": 3.0,
                        }
                    ],
                },
                "reactor_delay": {"bounds": [1], "counts": [2], "sum": 0.5},
            },
            "ring": {"first": 1, "next": 9},
            "journal": {
                "directory": "/j",
                "complete_to": "2023-11-14T22:13:20.000000Z",
                "lag": 0.01,
                "rows": 12345,
                "gaps": 1,
                "segments": 2,
                "bytes": 5000,
                "error": "the disk is full",
            },
            "control": "/run/a.sock",
            "web": [],
        }

    def test_members_are_lines(self) -> None:
        self.assertEqual(
            self.out("status"),
            [
                "name:       proxy-9000 (proxy 3.0)",
                "process:    7, boot boot",
                "started:    2023-11-14 23:13:20.000000 +01:00, 1h02m ago",
                "listens:    tcp:9000",
                "upstream:   127.0.0.1:9001",
                "clients:    1,234 of 5,000 at most, draining",
                "refused:    7 host",
                "limits:     2 commands are delayed now",
                "            client.commands: 7 delayed, 1 refused",
                "            total.digests: 3 refused",
                "            10.0.0.1 (alice): 7 delayed, client.commands, 3s ago",
                "in flight:  5",
                "commands:   12,345 ended, 5.0 kB sent",
                "            GET: 12,343 completed, 2 killed, 5.0 kB sent",
                "            LS: none",
                "events:     8 in memory (1 to 8)",
                "journal:    /j",
                "            12,345 rows, 1 gap, 2 segments, 5.0 kB",
                "            complete to 2023-11-14 23:13:20.000000 +01:00 (lag 10ms)",
                "            error: the disk is full",
                "control:    /run/a.sock",
            ],
        )

    def test_json_is_a_list(self) -> None:
        found = json.loads("\n".join(self.out("status", "--json")))
        self.assertEqual(found, [self.daemon.status])

    def test_all_daemons_that_run_are_shown(self) -> None:
        files = FakeDaemon()
        files.status = {"kind": "fileserver", "name": "files-9001"}
        other = ControlServer(self.directory / "files-9001.sock", files.reply)
        self.addCleanup(other.close)

        class Found(Search):
            def path_of(self, control: str | None, name: str | None) -> str | None:
                return None

            def running(search, name: str | None = None) -> list[Place]:  # noqa: N805
                return [Place("a", self.control.path), Place("b", other.path)]

        self.patch(status, "Search", Found)
        names = [line for line in self.out("status") if line.startswith("name:")]
        self.assertEqual(len(names), 2)
        other.close()
        found, out, err = self.main("status")
        self.assertEqual(found, NoDaemon.exit_status)
        self.assertIn(b"proxy-9000", out)
        self.assertIn("files-9001.sock: no daemon listens", err)

    def test_hostile_members_are_printable(self) -> None:
        self.daemon.status = {
            "name": "\x1b[2J",
            "listen": ["a\nb"],
            "journal": {"directory": ["\x07"], "rows": ["\x07"], "lag": "\x07", "error": "\x07"},
            "commands": {"total": "\x07", "verbs": {"\x07": {"\x07": "\x07", "sent": "\x07"}}},
            "counters": {"clients": {"limit": "\x07", "refused": {"\x07": 1}}},
            "ring": {"first": "\x07"},
            "started": "\x07",
        }
        for line in self.out("status"):
            self.assertTrue(line.isprintable(), line)

    def test_reply_of_another_program_is_an_error(self) -> None:
        self.daemon.before = lambda request: self.assertEqual(request.path, "/v1/status")
        self.daemon._status = lambda request: [b"hello\r\n\r\n"]  # type: ignore[method-assign]
        self.assert_fails(6, "no status line of HTTP", "status")
        self.assertIsInstance(self.control.requests[0], Request)
