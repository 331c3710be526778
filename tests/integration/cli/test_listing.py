"""``ls``, ``list``, ``stat``, ``hash``: what they write, and their exit status."""

from __future__ import annotations

import json
import os
import time
from unittest import mock

from natproxy.protocol import Entry, Metadata, format_entry
from tests.support.answering_server import Version2
from tests.support.commands import FILES, NAMES, CommandCase, Terminal


class ListingTests(CommandCase):
    def test_names_are_written_unchanged_unless_on_a_terminal(self) -> None:
        address = self.serve()
        for command in ("ls", "list"):
            self.assertEqual(self.written(command, "--server", address), NAMES)

    def test_names_are_escaped_on_a_terminal(self) -> None:
        address = self.serve()
        for command in ("ls", "list"):
            _, out, _ = self.main(command, "--server", address, output=Terminal)
            self.assertEqual(
                out.decode().splitlines(), ["a.txt", "b c", "esc\\x1b[2J", "latin\\xe9", "üml"]
            )

    def test_directories_end_with_a_slash(self) -> None:
        entries = [
            Entry(b"d", Metadata("dir", 0, 10**9, "e")),
            Entry(b"d/f", Metadata("file", 12345, 2 * 10**9, "f")),
        ]
        page = b"".join(format_entry(entry) for entry in entries)
        address = self.instead(LS=b"OK %d\n%b" % (len(page), page))
        self.assertEqual(self.written("ls", "-R", "--server", address), b"d/\nd/f\n")
        self.assertEqual(self.server.lines[-1], b"LS depth=inf")
        with mock.patch.dict(os.environ, TZ="UTC"):
            time.tzset()
            out = self.written("ls", "-lR", "/x/", "--server", address)
        self.addCleanup(time.tzset)
        self.assertEqual(
            out.decode().splitlines(),
            [
                "           -  1970-01-01 00:00:01  d/",
                "       12345  1970-01-01 00:00:02  d/f",
            ],
        )
        self.assertEqual(self.server.lines[-1], b"LS x depth=inf")

    def test_json_has_every_name_and_its_metadata(self) -> None:
        address = self.serve()
        objects = self.json_of("ls", "--json", "--server", address)
        self.assertEqual([os.fsencode(str(each["name"])) for each in objects], sorted(FILES))
        self.assertEqual(
            {key: objects[0][key] for key in ("type", "size", "mtime", "mtime_ns")},
            {"type": "file", "size": 5, "mtime": 1.0, "mtime_ns": 10**9},
        )
        self.assertTrue(objects[0]["etag"])
        self.assertEqual(self.json_of("stat", "a.txt", "--json", "--server", address), objects[:1])

    def test_json_of_an_empty_directory_is_an_empty_array(self) -> None:
        self.assertEqual(self.json_of("ls", "--json", "--server", self.serve(Version2({}))), [])

    def test_metadata_of_files_is_written(self) -> None:
        address = self.serve()
        with mock.patch.dict(os.environ, TZ="UTC"):
            time.tzset()
            out = self.written("stat", "a.txt", ".", "--server", address).decode().splitlines()
        self.addCleanup(time.tzset)
        self.assertEqual(
            out[:4],
            ["name:     a.txt", "type:     file", "size:     5", "modified: 1970-01-01 00:00:01"],
        )
        self.assertEqual(out[5:7], ["name:     .", "type:     dir"])

    def test_digests_are_written_as_sha256sum_does(self) -> None:
        files = {b"a": b"x", b"b\\\n": b"x"}
        address = self.serve(Version2(files))
        digest = b"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
        self.assertEqual(
            self.written("hash", "a", "b\\\n", "--server", address),
            digest + b"  a\n\\" + digest + b"  b\\\\\\n\n",
        )
        (each,) = self.json_of("hash", "--json", "a", "--server", address)
        self.assertEqual((each["name"], each["sha256"]), ("a", digest.decode()))
        self.assertEqual(each["size"], 1)

    def test_file_of_a_name_that_is_not_utf_8_is_found(self) -> None:
        address = self.serve()
        out = self.written("stat", os.fsdecode(b"latin\xe9"), "--server", address)
        self.assertIn(b"name:     latin\\xe9\n", out)


class OrderTests(CommandCase):
    def setUp(self) -> None:
        super().setUp()
        zone = mock.patch.dict(os.environ, TZ="UTC")
        zone.start()
        time.tzset()
        self.addCleanup(time.tzset)
        self.addCleanup(zone.stop)
        entries = [
            Entry(b"a", Metadata("file", 5, 3 * 10**9, "a")),
            Entry(b"b", Metadata("file", 1_500_000, 10**9, "b")),
            Entry(b"c", Metadata("dir", 0, 4 * 10**9, "c")),
            Entry(b"d", Metadata("file", 5, 2 * 10**9, "d")),
        ]
        page = b"".join(format_entry(entry) for entry in entries)
        self.address = self.instead(LS=b"OK %d\n%b" % (len(page), page))

    def names(self, *options: str) -> str:
        lines = self.written("ls", *options, "--server", self.address).decode().split("\n")
        return "".join(line.rstrip("/") for line in lines)

    def test_entries_are_sorted(self) -> None:
        for options, names in (
            ((), "abcd"),
            (("--sort", "name"), "abcd"),
            (("-r",), "dcba"),
            (("--sort", "size"), "badc"),
            (("--sort", "size", "-r"), "cdab"),
            (("--sort=time",), "cadb"),
            (("--sort=time", "--reverse"), "bdac"),
        ):
            self.assertEqual(self.names(*options), names, options)
        objects = self.json_of("ls", "--json", "--sort", "time", "--server", self.address)
        self.assertEqual([each["name"] for each in objects], ["c", "a", "d", "b"])

    def test_too_many_entries_are_not_sorted(self) -> None:
        with mock.patch("natproxy.cli.listing.MOST_SORTED", 3):
            self.assertEqual(self.names(), "abcd")
            self.assert_fails(
                1, "more than 3 entries are not sorted", "ls", "-r", "--server", self.address
            )

    def test_total_is_the_last_line(self) -> None:
        out = self.written("ls", "--total", "--server", self.address)
        self.assertEqual(out, b"a\nb\nc/\nd\ntotal: 3 files, 1 directory, 1,500,010 bytes\n")
        out = self.written("ls", "--total", "-lh", "--sort=size", "--server", self.address)
        self.assertEqual(
            out.decode().splitlines(),
            [
                "  1.5 MB  1970-01-01 00:00:01  b",
                "     5 B  1970-01-01 00:00:03  a",
                "     5 B  1970-01-01 00:00:02  d",
                "       -  1970-01-01 00:00:04  c/",
                "total: 3 files, 1 directory, 1.5 MB",
            ],
        )
        self.assert_fails(
            2, "--total is for people", "ls", "--total", "--json", "--server", self.address
        )

    def test_help_has_its_long_name_only(self) -> None:
        status, out, _ = self.main("ls", "--help")
        self.assertEqual(status, 0)
        self.assertIn(b"-h, --human-readable", out)


class SeveralTests(CommandCase):
    def test_missing_file_does_not_affect_the_others(self) -> None:
        address = self.serve()
        for command, shown in (("stat", b"etag:"), ("hash", b"  a.txt")):
            paths = ["nothing", "a.txt", "nor this"]
            status, out, err = self.main(command, *paths, "--server", address)
            self.assertEqual(status, 3)
            self.assertIn(shown, out)
            self.assertEqual(
                err, "natproxy: nothing: file not found\nnatproxy: nor this: file not found\n"
            )

    def test_refused_name_does_not_affect_the_others(self) -> None:
        version2 = Version2(dict(FILES))

        def reply(line: bytes) -> bytes:
            return b"ERR 400 is a directory\n" if line.endswith(b" d") else version2(line)

        address = self.serve(reply)
        for command in ("stat", "hash"):
            status, out, err = self.main(command, "d", "a.txt", "--server", address)
            self.assertEqual((status, err), (1, "natproxy: d: is a directory\n"))
            self.assertIn(b"a.txt", out)

    def test_json_is_complete_after_a_failure(self) -> None:
        address = self.serve()
        for command in ("stat", "hash"):
            paths = ["a.txt", "nothing"]
            status, out, _ = self.main(command, *paths, "--json", "--server", address)
            self.assertEqual((status, len(json.loads(out))), (3, 1))
