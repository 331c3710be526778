"""The commands that read a journal where no daemon runs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from natproxy.client.control import finding
from natproxy.records.record import format_time
from tests.support.commands import CommandCase
from tests.support.control_server import ControlServer, document
from tests.support.journal_runs import SECOND, START, Translations


class JournalSourceTests(CommandCase):
    """A daemon had two translations of an hour, was killed in a third one, and was restarted."""

    def setUp(self) -> None:
        super().setUp()
        self.state = Path(self.mktemp()).absolute()
        self.state.mkdir()
        self.patch(finding, "socket_candidates", lambda environ, uid: ["/nowhere"])
        self.patch(finding, "journal_candidates", lambda environ, uid: [str(self.state)])
        environment = mock.patch.dict(os.environ)
        environment.start()
        self.addCleanup(environment.stop)
        os.environ.pop("NATPROXY_CONTROL", None)
        self.directory = self.journal("proxy-9000")

    def journal(self, name: str) -> str:
        (self.state / name).mkdir()
        run = Translations(self.state / name)
        self.addCleanup(run.close)
        run.start()
        for port in (40_000, 40_001):
            serial = run.register(port, client=f"10.0.0.{port - 39_999}")
            run.wait(SECOND)
            run.remove(serial)
        run.seal()
        run.register(40_002)
        run.flush()
        run.kill()
        run.wait(10 * SECOND)
        run.start()
        run.flush()
        return str(self.state / name)

    def test_whois(self) -> None:
        at = format_time(START + SECOND // 2)
        out = self.written("whois", "40000", "--at", at, "--journal", self.directory)
        self.assertIn(b"port 40000 was held by 10.0.0.1:", out)
        arguments = ("--at", format_time(START + 3 * SECOND), "--journal", self.directory)
        status, out, err = self.main("whois", "40002", "--json", *arguments)
        self.assertEqual((status, err), (10, ""))
        self.assertEqual(json.loads(out)["result"], "unknown")

    def test_history_and_export(self) -> None:
        _, out, _ = self.main("history", "--json", "--journal", self.directory)
        ports = [json.loads(line)["nat_port"] for line in out.splitlines()]
        self.assertEqual(ports, [40_000, 40_001, 40_002])
        arguments = ("--columns=port", f"--journal={self.directory}")
        _, out, err = self.main("history", "client 10.0.0.2", *arguments)
        self.assertEqual(out.decode().split(), ["PORT", "40001"])
        self.assertIn("natproxy: this may be incomplete: the record has a gap from 2026-09-21", err)

    def test_gaps_before_the_newest_commands_are_not_reported(self) -> None:
        run = Translations(self.state / "proxy-9000")
        self.addCleanup(run.close)
        run.wait(20 * SECOND)
        run.start()
        run.wait(SECOND)
        run.remove(run.register(40_003))
        run.flush()
        for last, found in (("1", False), ("3", True), ("9", True)):
            _, _, err = self.main("history", "--last", last, "--journal", self.directory)
            self.assertEqual("incomplete: the record has a gap from" in err, found, last)

    def test_events(self) -> None:
        out = self.written("events", "--json", "--last", "2", "--journal", self.directory)
        self.assertEqual(len(out.splitlines()), 2)

    def test_number_has_the_worker_if_workers_have_written_it(self) -> None:
        listed = ("events", "--last", "1", "--journal", self.directory)
        self.assertIn(b" #3 ", self.written(*listed))
        run = Translations(self.directory)
        self.addCleanup(run.close)
        run.worker = 1
        run.start()
        run.flush()
        self.assertIn(b" #0:3 ", self.written(*listed))
        _, rows, _ = self.main("history", "--columns", "serial", "--journal", self.directory)
        self.assertEqual(rows.split()[1:], [b"0:1", b"0:2", b"0:3"])

    def test_only_journal_is_read_if_no_daemon_runs(self) -> None:
        status, out, err = self.main("history")
        self.assertEqual((status, len(out.splitlines())), (0, 4))
        self.assertIn(f"natproxy: no proxy runs: reading the journal {self.directory}\n", err)

    def test_several_journals_are_listed(self) -> None:
        other = self.journal("proxy-9002")
        reason = f"--journal reads one of these: {self.directory}, {other}"
        self.assert_fails(4, reason, "whois", "40000")
        self.assertEqual(self.main("history", "--name", "proxy-9002")[0], 0)

    def test_neither_daemon_nor_journal_is_a_status(self) -> None:
        self.assert_fails(4, "'x' runs: no such control socket", "whois", "40000", "--name", "x")

    def test_journal_excludes_a_daemon(self) -> None:
        arguments = ("--journal", self.directory, "--name", "a")
        self.assert_fails(2, "--journal excludes --control and --name", "history", *arguments)

    def test_missing_directory_is_a_usage_error(self) -> None:
        for command in (("history",), ("journal", "verify")):
            reason = "--journal /missing: no such directory"
            self.assert_fails(2, reason, *command, "--journal", "/missing")

    def test_directory_of_journals_is_a_usage_error_that_lists_them(self) -> None:
        reason = f"no journal, but the directory of {self.directory}"
        for command in (("whois", "40000"), ("journal", "segments")):
            self.assert_fails(2, reason, *command, "--journal", str(self.state))

    def test_only_a_file_server_runs(self) -> None:
        sockets = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, sockets)
        self.patch(finding, "socket_candidates", lambda environ, uid: [str(sockets)])
        reply = document({"kind": "fileserver", "name": "files-9001"})
        server = ControlServer(sockets / "files-9001.sock", lambda _: reply)
        self.addCleanup(server.close)
        status, out, err = self.main("history")
        self.assertEqual((status, len(out.splitlines())), (0, 4))
        self.assertIn(f"natproxy: no proxy runs: reading the journal {self.directory}\n", err)
        self.assert_fails(4, "no proxy runs: files-9001 is a file server", "table")

    def test_translation_that_is_open_in_a_journal_may_have_ended(self) -> None:
        (self.state / "other").mkdir()
        run = Translations(self.state / "other")
        self.addCleanup(run.close)
        run.start()
        run.register(40_003)
        run.wait(SECOND)
        run.flush()
        at = format_time(run.now - SECOND // 2)
        out = self.written("whois", "40003", "--at", at, f"--journal={self.state}/other")
        self.assertIn(b"was held by", out)
        self.assertIn(b"the end is not known", out)

    def test_follow_needs_a_daemon(self) -> None:
        self.assert_fails(4, "no daemon runs", "events", "-f")

    def test_unreadable_segments_are_reported(self) -> None:
        for file in Path(self.directory).iterdir():
            file.write_bytes(b"x" * 5000)
        status, out, err = self.main("history", "--json", "--journal", self.directory)
        self.assertEqual((status, out), (0, b""))
        for line in err.splitlines():
            self.assertIn("natproxy: this may be incomplete: ", line)
        self.assertEqual(err.count("cannot be read: file is not a database"), 3)
        arguments = ("--at", format_time(START), "--journal", self.directory)
        status, _, err = self.main("whois", "40000", *arguments)
        self.assertEqual((status, err), (10, ""))
