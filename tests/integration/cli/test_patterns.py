"""Patterns and lists of names on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from unittest import mock

from natproxy.protocol import DIRECTORY, FILE, Entry, Metadata
from tests.support.commands import DownloadCase
from tests.support.paths import ROOT
from tests.support.served_files import MTIME


class PatternCase(DownloadCase):
    def setUp(self) -> None:
        super().setUp()
        for name in (b"t/1.csv", b"t/2.csv", b"t/x.txt", b"t/.h.csv", b"t/old/3.csv", b"q*"):
            self.server.put(name, name)


class GetTests(PatternCase):
    def test_pattern_is_expanded_by_the_server(self) -> None:
        self.assertEqual(self.run_command("get", "t/*.csv"), 0)
        self.assertEqual(self.files(), [b"1.csv", b"2.csv"])
        self.assertEqual(self.read(b"1.csv"), b"t/1.csv")

    def test_listed_metadata_is_not_requested_again(self) -> None:
        self.assertEqual(self.run_command("get", "-q", "t/*.csv"), 0)
        self.assertEqual(self.server.arguments_of(b"STAT"), [b"t/*.csv"])
        self.assertEqual(self.run_command("get", "-r", "-q", "t/*", "-o", "new"), 0)
        self.assertNotIn(b"t/1.csv", self.server.arguments_of(b"STAT"))

    def test_space_for_all_files_is_checked_first(self) -> None:
        with (
            mock.patch("natproxy.client.transfer.volumes.free_space", return_value=10),
            mock.patch("natproxy.client.transfer.space.free_space", return_value=10),
        ):
            line = self.assert_fails(9, "get", "t/*.csv")
        self.assertIn("not enough space: 14 bytes are needed, 10 are free", line)
        self.assertEqual(self.files(), [])

    def test_two_stars_search_the_directories_below(self) -> None:
        self.assertEqual(self.run_command("get", "-q", "t/**/*.csv"), 0)
        self.assertEqual(self.files(), [b"1.csv", b"2.csv", b"3.csv"])
        self.assertEqual(self.server.arguments_of(b"LS"), [b"t depth=inf"])

    def test_file_is_downloaded_once(self) -> None:
        self.assertEqual(self.run_command("get", "t/2.csv", "t/[12].csv", "t/1.*"), 0)
        self.assertEqual(self.files(), [b"1.csv", b"2.csv"])

    def test_name_that_exists_is_no_pattern(self) -> None:
        self.server.put(b"qq", b"another")
        self.assertEqual(self.run_command("get", "q*"), 0)
        self.assertEqual(self.files(), [b"q*"])

    def test_pattern_that_matches_nothing_is_an_error(self) -> None:
        for path in ("t/*.pdf", "nowhere/*", "a/*", "[!a-z]z"):
            line = self.assert_fails(3, "get", "t/1.csv", path)
            self.assertEqual(line, f"natproxy: {path}: no file matches")
        self.assertEqual(self.files(), [])

    def test_pattern_that_matches_directories_only_is_an_error(self) -> None:
        line = self.assert_fails(2, "get", "t/o*")
        self.assertEqual(
            line, "natproxy: t/o*: only directories match; 'natproxy get -r' downloads them"
        )

    def test_number_of_matches_is_limited(self) -> None:
        with mock.patch("natproxy.cli.search.MOST_MATCHES", 1):
            line = self.assert_fails(1, "get", "t/*.csv")
        self.assertIn("t/*.csv: more than 1 names match", line)
        self.assertEqual(self.files(), [])

    def test_malformed_pattern_is_a_name(self) -> None:
        self.assertIn("t/[a: file not found", self.assert_fails(3, "get", "t/[a"))

    def test_name_outside_of_the_listed_directory_is_refused(self) -> None:
        metadata = Metadata(FILE, 1, MTIME, "e")
        for name in (b"u/1.csv", b"t/../1.csv"):
            self.server.listing = [Entry(name, metadata)]
            self.assertIn("unsafe path", self.assert_fails(6, "get", "t/*.csv"))

    def test_directory_that_cannot_be_searched_is_reported(self) -> None:
        directory = Metadata(DIRECTORY, 0, MTIME, "d")
        self.server.listing = [
            Entry(b"t/1.csv", Metadata(FILE, 7, MTIME, "e")),
            Entry(b"t/secret", directory, unread=True),
        ]
        self.assertEqual(self.run_command("get", "-q", "t/**/*.csv"), 0)
        self.assertEqual(self.err, ["natproxy: t/secret: the server cannot read it"])

    def test_names_of_version_1_are_matched(self) -> None:
        self.server.version = 1
        self.server.put(b"a2", b"2")
        self.assertEqual(self.run_command("get", "-q", "a?"), 0)
        self.assertEqual(self.files(), [b"a2"])
        self.assertIn("no file matches", self.assert_fails(3, "get", "-q", "t/*.csv"))


class OtherCommandTests(PatternCase):
    def test_cat_and_hash_take_files(self) -> None:
        self.assertEqual(self.run_command("cat", "t/*.csv"), 0)
        self.assertEqual(self.out, b"t/1.csvt/2.csv")
        self.assertEqual(self.run_command("hash", "t/?.csv"), 0)
        self.assertEqual([line[66:] for line in self.out.splitlines()], [b"t/1.csv", b"t/2.csv"])

    def test_stat_takes_directories_as_well(self) -> None:
        self.assertEqual(self.run_command("stat", "t/[ox]*"), 0)
        self.assertEqual(
            [line for line in self.out.splitlines() if line.startswith(b"name")],
            [b"name:     t/old", b"name:     t/x.txt"],
        )
        self.assertIn("t/z*: nothing matches", self.assert_fails(3, "stat", "t/z*"))

    def test_ls_shows_what_matches(self) -> None:
        self.assertEqual(self.run_command("ls", "t/[1o]*"), 0)
        self.assertEqual(self.out, b"t/1.csv\nt/old/\n")
        self.assertEqual(self.run_command("ls", "q*"), 0)
        self.assertEqual(self.server.arguments_of(b"LS")[-1], b"q*")
        self.assertIn("t/z*: nothing matches", self.assert_fails(3, "ls", "t/z*"))
        self.assertIn("-R lists a directory", self.assert_fails(2, "ls", "-R", "t/*"))


class ListTests(PatternCase):
    def names_in(self, content: bytes) -> str:
        self.write(b"list", content)
        return os.fsdecode(self.path(b"list"))

    def test_each_line_is_a_name(self) -> None:
        names = self.names_in(b"# ours\nt/1.csv\r\n\n; others\n/q*\n\nd/b")
        self.assertEqual(self.run_command("get", "a", "-i", names), 0)
        self.assertEqual(self.files(), [b"1.csv", b"a", b"b", b"list", b"q*"])
        self.assertEqual(self.server.arguments_of(b"LS"), [])

    def test_names_may_end_with_nul(self) -> None:
        self.server.put(b"#\n", b"odd")
        names = self.names_in(b"#\n\0a\0")
        self.assertEqual(self.run_command("get", "-0", "--input-file", names), 0)
        self.assertEqual(self.read(b"#\n"), b"odd")
        self.assertIn(b"a", self.files())

    def test_standard_input_is_a_hyphen(self) -> None:
        command = [sys.executable, "-m", "natproxy", "--server", str(self.server.address)]
        run = subprocess.run(
            [*command, "get", "-q", "-i", "-"],
            input=b"d/b\n",
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            timeout=30,
        )
        self.assertEqual((run.stdout, run.stderr), (b"", b""))
        self.assertEqual(self.files(), [b"b"])

    def test_errors_name_what_is_missing(self) -> None:
        for reason, arguments in (
            ("a path is needed", ("get",)),
            ("--null describes --input-file", ("get", "-0", "a")),
        ):
            self.assertIn(reason, self.assert_fails(2, *arguments))
        line = self.assert_fails(9, "get", "-i", "nowhere")
        self.assertEqual(line, "natproxy: nowhere: No such file or directory")

    def test_empty_list_is_no_error(self) -> None:
        self.assertEqual(self.run_command("get", "-i", self.names_in(b"\n")), 0)
        self.assertEqual((self.files(), self.err), ([b"list"], []))
