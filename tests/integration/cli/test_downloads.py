"""``get``, ``cat``, ``download``: the files they save, their messages and exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from unittest import mock

from natproxy.cli import main
from natproxy.client.transfer import batch
from natproxy.protocol import Digest, format_digest
from tests.support.commands import NEW, DownloadCase
from tests.support.paths import ROOT
from tests.support.served_files import Fault

PROJECT = str(ROOT)


class GetTests(DownloadCase):
    def test_file_is_saved_in_the_working_directory(self) -> None:
        self.assertEqual(self.run_command("get", "d/b"), 0)
        self.assertEqual((self.files(), self.read(b"b")), ([b"b"], b"the b"))
        self.assertEqual((self.out, self.err), (b"", ["saved b (5 bytes)"]))

    def test_many_files_are_reported_by_number(self) -> None:
        for number in range(102):
            self.server.put(b"m/%d" % number, b"12345")
        self.assertEqual(self.run_command("get", "m/1"), 0)
        self.assertEqual(self.run_command("get", "m/*", "no"), 3)
        self.assertEqual(
            self.err,
            ["natproxy: no: file not found", "saved 101 files (505 bytes), 1 already there"],
        )
        self.assertEqual(self.run_command("get", "m/*", "-q"), 0)
        self.assertEqual(self.err, [])

    def test_unchanged_file_is_skipped(self) -> None:
        self.run_command("get", "a")
        self.assertEqual(self.run_command("get", "a"), 0)
        self.assertEqual(self.err, ["a: already there"])
        self.assertEqual(len(self.server.arguments_of(b"GET")), 1)

    def test_file_that_differs_is_refused_skipped_or_replaced(self) -> None:
        self.write(b"a", b"mine")
        self.assertIn("--overwrite replaces it", self.assert_fails(9, "get", "a"))
        self.assertEqual(self.run_command("get", "a", "--no-clobber"), 0)
        self.assertEqual((self.read(b"a"), self.err), (b"mine", ["a: already there"]))
        self.assertEqual(self.run_command("get", "a", "--overwrite"), 0)
        self.assertEqual(self.read(b"a"), NEW)

    def test_quiet_shows_errors_only(self) -> None:
        self.assertEqual(self.run_command("get", "-q", "a", "d/b"), 0)
        self.assertEqual((self.out, self.err), (b"", []))
        self.assertIn("none: file not found", self.assert_fails(3, "get", "-q", "none"))

    def test_valid_destinations(self) -> None:
        os.mkdir(b"directory")
        for output, path in (
            ("file", b"file"),
            ("directory", b"directory/a"),
            ("new/", b"new/a"),
            ("x/y/z", b"x/y/z"),
            (self.path(b"abs").decode(), b"abs"),
        ):
            self.assertEqual(self.run_command("get", "a", "-o", output), 0, output)
            self.assertEqual(self.read(path), NEW)
        self.assertEqual(self.run_command("get", "a", "d/b", "-o", "two/"), 0)
        self.assertEqual((self.read(b"two/a"), self.read(b"two/b")), (NEW, b"the b"))

    def test_invalid_destinations(self) -> None:
        self.write(b"file", b"")
        self.assert_fails(2, "get", "a", "-o", "")
        self.assert_fails(9, "get", "a", "-o", "file/a")
        for output in ("file", "x.txt"):
            error = self.assert_fails(2, "get", "a", "d/b", "-o", output)
            # A file with the name is in the way of the directory.
            self.assertEqual(f"{output}/ creates it" in error, output != "file")
        self.assertEqual(self.files(), [b"file"])

    def test_empty_destination_is_not_the_root_directory(self) -> None:
        # These must not be saved even if this test fails.
        with mock.patch("natproxy.client.transfer.batch.download_all") as downloads:
            for names in (("a",), ("a", "d/b")):
                self.assert_fails(2, "get", *names, "-o", "")
        downloads.assert_not_called()

    def test_standard_output(self) -> None:
        self.assertEqual(self.run_command("get", "a", "d/b", "-o", "-"), 0)
        self.assertEqual((self.out, self.err, self.files()), (NEW + b"the b", [], []))
        self.run_command("get", "a", "-o", "-", "--verify", "--limit-rate", "1G")
        self.assertEqual(self.out, NEW)

    def test_names_that_would_share_a_path_are_refused_before_anything_is_sent(self) -> None:
        self.assertIn("both be saved as a", self.assert_fails(2, "get", "a", "d/a"))
        self.assertIn("both be saved as a", self.assert_fails(2, "get", "a", "a"))
        self.assertEqual(self.server.commands, [])

    def test_names_that_are_no_file_names(self) -> None:
        for name in ("", "/", ".", "..", "d/.."):
            self.assert_fails(2, "get", name)
        self.assertEqual(self.server.commands, [])

    def test_server_may_be_a_url(self) -> None:
        url = f"natproxy://{self.server.address}"
        with mock.patch.dict(os.environ, {"NATPROXY_SERVER": url}):
            self.assertEqual(main(["get", "-q", "a"]), 0)
        self.assertEqual(main(["get", "-q", "d/b", "--server", url + "/"]), 0)
        self.assertEqual(self.files(), [b"a", b"b"])

    def test_other_url_is_wrong_usage(self) -> None:
        line = self.assert_fails(2, "get", "http://127.0.0.1:9000/a")
        self.assertIn("natproxy://HOST:PORT/PATH is needed", line)

    def test_directory_is_refused_with_a_reference_to_get_r(self) -> None:
        self.assertIn("natproxy get -r", self.assert_fails(2, "get", "d"))

    def test_failure_of_one_file_does_not_affect_the_others(self) -> None:
        for jobs in ("1", "3"):
            self.assertEqual(self.run_command("get", "a", "none", "d/b", "-j", jobs), 3)
            self.assertEqual(self.files(), [b"a", b"b"])
            self.assertIn("natproxy: none: file not found", self.err)
            self.assertEqual(len(self.err), 3)

    def test_interrupted_download_is_resumed(self) -> None:
        self.server.fail(b"GET", Fault(cut=4000))
        self.assertIn("bytes missing", self.assert_fails(5, "get", "a", "--retries", "0"))
        self.assertEqual(self.run_command("get", "a", "--segments", "4", "--verify"), 0)
        self.assertEqual((self.server.sent, self.files(), self.read(b"a")), (len(NEW), [b"a"], NEW))

    def test_outage_names_the_file_and_reports_that_received_bytes_are_kept(self) -> None:
        kept = "; what was received is kept, and the same command continues it"
        for cut, end in ((0, ""), (4000, kept)):
            self.server.fail(b"GET", Fault(cut=cut))
            line = self.assert_fails(5, "get", "a", "--retries", "0")
            self.assertTrue(line.startswith("natproxy: a: "), line)
            self.assertEqual(line.endswith(kept), end == kept, line)
        # Nothing of a file that the server does not have is kept, nor is that an outage.
        self.assertEqual(self.assert_fails(3, "get", "none"), "natproxy: none: file not found")

    def test_number_of_connections_is_limited(self) -> None:
        seen = []

        def download_all(*arguments: object) -> list[object]:
            seen.append(arguments[3])
            return []

        self.patch(batch, "download_all", download_all)
        for options in (["-j", "64"], ["-j", "64", "--segments", "8"], ["--segments", "64"]):
            self.assertEqual(self.run_command("get", "a", *options), 0)
        self.assertEqual(seen, [64, 8, 1])

    def test_names_that_are_not_utf_8(self) -> None:
        self.server.put(b"\xff b", b"x")
        self.assertEqual(self.run_command("get", os.fsdecode(b"\xff b")), 0)
        self.assertEqual((self.files(), self.err), ([b"\xff b"], ["saved \\xff b (1 bytes)"]))

    def test_version_1_is_reported_once_for_several_files(self) -> None:
        self.server.version = 1
        self.assertEqual(self.run_command("get", "a", "d/b"), 0)
        self.assertEqual(len([line for line in self.err if "version 1 only" in line]), 1)
        self.assertEqual(self.read(b"a"), NEW)

    def test_file_server_that_is_down_at_first_is_retried(self) -> None:
        self.server.fail(b"FEAT", *[Fault(reply=b"ERR proxy error: cannot connect\n")] * 2)
        self.assertEqual(self.run_command("get", "a"), 0)
        self.assertEqual((len(self.slept), self.read(b"a")), (2, NEW))


class ExitStatusTests(DownloadCase):
    """One for each way to fail; README.md promises them."""

    def test_each_kind_of_failure_has_its_own_status(self) -> None:
        gone = Fault(cut=-1)
        digest = format_digest(Digest("0" * 64, len(NEW), "e1"))
        change = Fault(act=lambda: self.server.put(b"a", NEW))
        for status, verb, faults, options in (
            (1, b"STAT", [Fault(reply=b"ERR 500 internal\n")] * 2, []),
            (1, b"GET", [Fault(reply=b"ERR 503 not now\n")], ["--retries", "0"]),
            (5, b"GET", [Fault(reply=b"ERR 503 not now\n")] * 3, ["--retries", "2"]),
            (5, b"GET", [gone] * 2, ["--retries", "0", "--segments", "2"]),
            (6, b"GET", [Fault(reply=b"OK what\n")], []),
            (7, b"HASH", [Fault(reply=b"OK " + digest + b"\n")] * 4, ["--verify"]),
            (8, b"GET", [change] * 20, ["--segments", "2"]),
        ):
            self.server.fail(verb, *faults)
            self.assertEqual(self.run_command("get", "a", "-q", *options), status)
            self.assertEqual(len(self.err), 1, self.err)
            self.assertNotIn(b"a", self.files())
            self.server._faults.clear()
            self.server._files.clear()
            self.server._numbers = iter(range(1, 100))
            self.server.put(b"a", NEW)
            for name in self.files():
                os.unlink(name)

    def test_server_that_cannot_be_reached(self) -> None:
        self.server.close()
        for command in (("get", "a"), ("cat", "a"), ("sync", ".", "x"), ("download", "a")):
            self.assertIn("cannot connect", self.assert_fails(4, *command))
        self.assertEqual(self.files(), [])

    def test_interrupt(self) -> None:
        def press(*_: object) -> None:
            raise KeyboardInterrupt

        for command in (("get", "a"), ("cat", "a"), ("sync", ".", "x"), ("download", "a")):
            with mock.patch("natproxy.client.blocking.connection.Connection.send", press):
                self.assertEqual(self.assert_fails(130, *command), "natproxy: interrupted")


class CatTests(DownloadCase):
    def test_files_are_written_one_after_the_other(self) -> None:
        self.assertEqual(self.run_command("cat", "a", "d/b"), 0)
        self.assertEqual((self.out, self.err), (NEW + b"the b", []))

    def test_first_failure_ends_the_command(self) -> None:
        self.assert_fails(3, "cat", "d/b", "none", "a")
        self.assertEqual(self.out, b"the b")

    def test_file_that_changes(self) -> None:
        self.server.fail(b"STAT", Fault(act=lambda: self.server.put(b"a", b"new")))
        self.assert_fails(8, "cat", "a")

    def run_in_shell(self, line: str) -> subprocess.CompletedProcess[bytes]:
        natproxy = f"{sys.executable} -m natproxy --server {self.server.address}"
        return subprocess.run(
            ["/bin/sh", "-c", line.replace("natproxy", natproxy)],
            capture_output=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": PROJECT},
        )

    def test_full_disk_is_reported_in_one_line(self) -> None:
        for name in ("a", "d/b"):
            done = self.run_in_shell(f"natproxy cat {name} > /dev/full")
            self.assertEqual(
                (done.returncode, done.stderr),
                (9, b"natproxy: standard output: No space left on device\n"),
            )

    def test_reader_that_closes_the_pipe_is_no_failure(self) -> None:
        self.server.put(b"a", NEW * 100)
        done = self.run_in_shell("{ natproxy cat a; echo status $? >&2; } | head -c 3 >&2")
        self.assertEqual(done.stderr, NEW[:3] + b"status 0\n")


class DownloadTests(DownloadCase):
    def test_file_is_downloaded_by_version_1(self) -> None:
        self.assertEqual(self.run_command("download", "a"), 0)
        self.assertEqual((self.out, self.read(b"a")), (b"saved a (10240 bytes)\n", NEW))
        self.assertEqual(self.server.commands, [b"DOWNLOAD a"])

    def test_other_destination(self) -> None:
        self.assertEqual(self.run_command("download", "d/b", "x/"), 0)
        self.assertEqual((self.out, self.read(b"x/b")), (b"saved x/b (5 bytes)\n", b"the b"))

    def test_failures(self) -> None:
        self.assert_fails(3, "download", "none")
        self.server.fail(b"DOWNLOAD", Fault(cut=4000))
        self.assert_fails(5, "download", "a")
        os.mkfifo(b"a")
        self.assert_fails(9, "download", "a")
        self.assertEqual(self.files(), [b"a"])
