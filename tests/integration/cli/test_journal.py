from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from unittest import mock

from natproxy.client.control import finding
from natproxy.records.record import format_time
from tests.support.commands import CommandCase
from tests.support.control_server import ControlServer, document
from tests.support.journal_runs import SECOND, START, Translations


class JournalCase(CommandCase):
    """Runs command lines against the journal of a daemon that was killed.

    :ivar directory: of the journal, in the usual place.
    :ivar run: what the daemon did.
    """

    def setUp(self) -> None:
        super().setUp()
        state = self.mktemp()
        self.directory = os.path.join(os.path.abspath(state), "proxy-9000")
        os.makedirs(self.directory)
        environment = mock.patch.dict(os.environ, {"STATE_DIRECTORY": os.path.abspath(state)})
        environment.start()
        self.addCleanup(environment.stop)
        os.environ.pop("NATPROXY_CONTROL", None)
        # This host may have daemons and journals.
        self.patch(finding, "socket_candidates", lambda environ, uid: [])
        system = mock.patch("natproxy.records.places.SYSTEM_STATE", os.path.abspath(state))
        system.start()
        self.addCleanup(system.stop)
        self.run = self.journal(self.directory)

    def journal(self, directory: str) -> Translations:
        """Write a journal of three segments, of two runs; the first one was killed."""
        run = Translations(directory)
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
        run.fail()
        run.flush()
        return run


class DirectoryTests(JournalCase):
    def test_only_journal_in_the_usual_place_is_used(self) -> None:
        self.assertEqual(
            self.written("journal", "segments"),
            self.written("journal", "segments", "--journal", self.directory),
        )
        self.assertEqual(
            self.written("journal", "segments"),
            self.written("journal", "segments", "--name", "proxy-9000"),
        )

    def test_one_of_several_is_selected(self) -> None:
        other = os.path.join(os.path.dirname(self.directory), "proxy-9009")
        os.mkdir(other)
        self.assert_fails(2, "several journals; --journal or --name selects", "journal", "segments")
        status, _, _ = self.main("journal", "segments", "--name", "proxy-9000")
        self.assertEqual(status, 0)

    def test_no_journal(self) -> None:
        self.assert_fails(4, "no journal of x", "journal", "segments", "--name", "x")
        os.rename(self.directory, os.path.abspath(self.mktemp()))
        self.assert_fails(4, "--journal names it", "journal", "segments")
        missing = os.path.abspath(self.mktemp())
        self.assert_fails(2, "no such directory", "journal", "segments", "--journal", missing)

    def test_daemon_that_runs_is_asked_for_its_directory(self) -> None:
        sockets = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, sockets)
        self.patch(finding, "socket_candidates", lambda environ, uid: [str(sockets)])
        self.patch(finding, "journal_candidates", lambda environ, uid: [])
        status = {"kind": "proxy", "name": "edge", "journal": {"directory": self.directory}}
        server = ControlServer(sockets / "edge.sock", lambda _: document(status))
        self.addCleanup(server.close)
        for options in ((), ("--name", "edge"), ("--control", server.path)):
            found, out, err = self.main("journal", "segments", *options)
            self.assertEqual((found, err), (0, ""))
            self.assertIn(b".segment", out)
        other = os.path.join(os.path.dirname(self.directory), "proxy-9009")
        os.mkdir(other)
        self.patch(finding, "journal_candidates", lambda *_: [os.path.dirname(self.directory)])
        self.assertIn(b".segment", self.written("journal", "segments"))
        reason = "there are several journals"
        self.assert_fails(2, reason, "journal", "erase", "--client=10.0.0.1", "--yes")
        status["journal"] = None  # type: ignore[assignment]
        reason = "edge runs without a journal"
        self.assert_fails(4, reason, "journal", "segments", "--control", server.path)

    def test_options_exclude_each_other(self) -> None:
        self.assert_fails(
            2, "excludes --control", "journal", "segments", "--journal", ".", "--name", "x"
        )


class SegmentsTests(JournalCase):
    def test_lines(self) -> None:
        with mock.patch.dict(os.environ, {"TZ": "<+01>-1"}):
            self.addCleanup(time.tzset)
            time.tzset()
            header, *lines = self.written("journal", "segments").decode().splitlines()
        self.assertEqual(header.split(), ["SEGMENT", "FROM", "TO", "STATE", "GAPS", "SIZE"])
        self.assertEqual(len(lines), 3)
        self.assertRegex(
            lines[0],
            r"^\S+\.segment  2026-09-21 15:13:20 \+01:00  2026-09-21 15:13:22 \+01:00"
            r"  sealed +-  +[\d.]+ kB$",
        )
        self.assertRegex(lines[1], r"sealed +1 ")
        self.assertRegex(lines[2], r"live +- ")

    def test_json(self) -> None:
        first, killed, live = self.json_of("journal", "segments", "--json")
        self.assertEqual(first["proxy"], "proxy-9000")
        self.assertEqual(first["opened"], format_time(START))
        self.assertEqual(
            first["size"], os.path.getsize(os.path.join(self.directory, first["file"]))
        )
        self.assertEqual([gap["cause"] for gap in killed["gaps"]], ["killed"])
        self.assertIsNone(live["sealed"])

    def test_unreadable_segment_is_reported(self) -> None:
        first, *_ = self.json_of("journal", "segments", "--json")
        path = os.path.join(self.directory, str(first["file"]))
        size = os.path.getsize(path)
        with open(path, "r+b") as file:
            file.write(b"x" * size)
            file.write(b"longer")
        status, out, err = self.main("journal", "segments", "--json")
        self.assertEqual((status, len(json.loads(out))), (1, 2))
        self.assertRegex(err, rf"^natproxy: .*{first['file']}")

    def test_empty_directory(self) -> None:
        empty = self.mktemp()
        os.mkdir(empty)
        status, _, err = self.main("journal", "segments", "--journal", empty)
        self.assertEqual((status, err), (0, f"natproxy: {empty}: no segment\n"))


class VerifyTests(JournalCase):
    def test_journal_without_a_problem(self) -> None:
        lines = self.written("journal", "verify").decode().splitlines()
        self.assertEqual(
            [line.partition(": ")[2] for line in lines],
            ["ok, 2 entries", "ok, 1 entry", "ok, 1 entry"],
        )

    def test_problem(self) -> None:
        (first, *_) = sorted(os.listdir(self.directory))
        os.rename(
            os.path.join(self.directory, first), os.path.join(self.directory, first + ".damaged")
        )
        status, out, _ = self.main("journal", "verify", "--json")
        self.assertEqual(status, 1)
        checks = json.loads(out)
        self.assertEqual(checks[0]["file"], first + ".damaged")
        self.assertIn("it was damaged, and set aside by a daemon", checks[0]["problems"])
        status, out, _ = self.main("journal", "verify")
        self.assertEqual(status, 1)
        self.assertIn(f"{first}.damaged: it was damaged".encode(), out)


class EraseTests(JournalCase):
    def clients(self) -> list[object]:
        """Return the clients that an export of the directory has."""
        status, out, _ = self.main("export", "--journal", self.directory)
        self.assertEqual(status, 0)
        return [json.loads(line)["client"] for line in out.splitlines()]

    def test_client_is_erased(self) -> None:
        self.assertEqual(self.clients(), ["10.0.0.1", "10.0.0.2", "10.0.0.5", "10.0.0.5"])
        (line,) = self.written("journal", "erase", "--client", "10.0.0.2", "--yes").splitlines()
        self.assertTrue(line.endswith(b": erased from 1 entry"), line)
        self.assertEqual(self.clients(), ["10.0.0.1", None, "10.0.0.5", "10.0.0.5"])
        self.assertEqual(self.main("journal", "verify")[0], 0)

    def test_segment_of_a_running_daemon_is_reported(self) -> None:
        status, out, err = self.main("journal", "erase", "--client", "10.0.0.5", "--yes", "--json")
        self.assertEqual(status, 1)
        erased, live = json.loads(out)
        self.assertEqual((erased["rows"], erased["failure"]), (1, None))
        self.assertIn("a daemon is writing", live["failure"])
        self.assertIn(live["file"], err)

    def test_client_without_an_entry(self) -> None:
        status, out, err = self.main("journal", "erase", "--client", "10.9.9.9", "--yes")
        self.assertEqual((status, out), (0, b""))
        self.assertEqual(err, "natproxy: no entry has the client 10.9.9.9\n")

    def test_confirmation_needs_a_terminal(self) -> None:
        self.assert_fails(2, "add --yes", "journal", "erase", "--client", "10.0.0.2")
        self.assertEqual(len(self.clients()), 4)

    def test_usage(self) -> None:
        self.assertEqual(self.main("journal", "erase", "--yes")[0], 2)
        self.assertEqual(self.main("journal", "verify", "--client", "10.0.0.1")[0], 2)
        self.assert_fails(
            9, "the length of a prefix", "journal", "erase", "--client", "10.0.0.0/33", "--yes"
        )


class ExportTests(JournalCase):
    def export(self, *arguments: str) -> tuple[list[dict[str, object]], str]:
        """Return the objects of an export of the directory, and standard error."""
        status, out, err = self.main("export", "--journal", self.directory, *arguments)
        self.assertEqual(status, 0)
        return [json.loads(line) for line in out.splitlines()], err

    def test_translations_of_the_directory(self) -> None:
        found, err = self.export()
        self.assertEqual(
            [(each["nat_port"], each["state"]) for each in found],
            [(40_000, "removed"), (40_001, "removed"), (40_002, "lost"), (None, "failed")],
        )
        self.assertIn("may be incomplete", err)

    def test_filter(self) -> None:
        found, _ = self.export("client 10.0.0.2/32 and name '*.txt'")
        self.assertEqual([each["nat_port"] for each in found], [40_001])
        found, _ = self.export("not nat-port 40000-40001 and outcome != none")
        self.assertEqual([each["state"] for each in found], ["lost", "failed"])

    def test_ipfix_names(self) -> None:
        found, _ = self.export("--ipfix-names")
        self.assertEqual([each["natEvent"] for each in found], [4, 5, 4, 5, 4])

    def test_interval_without_a_gap(self) -> None:
        _, err = self.export("--since", f"@{START // SECOND}", "--until", f"@{START // SECOND}")
        self.assertEqual(err, "")
