"""``get -r``: where directories are saved, what is skipped, and what is reported."""

from __future__ import annotations

import os
from unittest import mock

from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import DIRECTORY, FILE, Entry, Metadata
from tests.support.commands import NEW, DownloadCase
from tests.support.served_files import MTIME


class TreeCase(DownloadCase):
    def setUp(self) -> None:
        super().setUp()
        for name in (b"t/1.csv", b"t/x.txt", b"t/old/2.csv", b"t/old/deep/3.csv"):
            self.server.put(name, name)
        self.server.directories.add(b"t/empty")

    def tree(self, top: bytes = b".") -> list[bytes]:
        """Return the paths below a directory; those of directories end with a slash."""
        found = []
        for above, directories, files in os.walk(top):
            found += [os.path.join(above, name) + b"/" for name in directories]
            found += [os.path.join(above, name) for name in files]
        return sorted(os.path.relpath(each, top) + b"/" * each.endswith(b"/") for each in found)


ALL = [b"1.csv", b"empty/", b"old/", b"old/2.csv", b"old/deep/", b"old/deep/3.csv", b"x.txt"]


class GetTests(TreeCase):
    def test_directory_is_saved_under_its_name(self) -> None:
        for path in ("t", "/t/", f"natproxy://{self.server.address}/t"):
            self.assertEqual(self.run_command("get", "-r", path), 0)
            self.assertEqual((self.files(), self.tree(b"t")), ([b"t"], ALL))
        self.assertEqual(self.err, ["t: 0 downloaded (0 bytes), 4 unchanged"])

    def test_output_is_the_directory_above(self) -> None:
        for output in ("new", "new", "new/"):
            self.assertEqual(self.run_command("get", "-r", "t/old", "a", "-o", output), 0)
            self.assertEqual(
                self.tree(b"new"), [b"a", b"old/", b"old/2.csv", b"old/deep/", b"old/deep/3.csv"]
            )

    def test_dot_is_what_is_in_a_directory(self) -> None:
        self.assertEqual(self.run_command("get", "-r", "t/.", "-o", "new"), 0)
        self.assertEqual(self.tree(b"new"), ALL)
        self.assertEqual(self.run_command("get", "-r", "-q", "."), 0)
        self.assertEqual(self.files(), [b"a", b"d", b"new", b"t"])

    def test_files_and_patterns_may_be_beside_it(self) -> None:
        self.assertEqual(self.run_command("get", "-r", "a", "t/o*", "t/*.txt"), 0)
        self.assertEqual(self.files(), [b"a", b"old", b"x.txt"])
        self.assertEqual(self.read(b"a"), NEW)
        self.assertEqual(
            self.err,
            [
                "old: 2 downloaded (27 bytes), 0 unchanged",
                "saved a (10240 bytes)",
                "saved x.txt (7 bytes)",
            ],
        )

    def test_what_two_stars_match_is_not_saved_twice(self) -> None:
        self.assertEqual(self.run_command("get", "-r", "t/**"), 0)
        self.assertEqual(self.files(), [b"1.csv", b"empty", b"old", b"x.txt"])

    def test_existing_files_are_as_for_one_file(self) -> None:
        os.makedirs(b"t/old")
        self.write(b"t/old/2.csv", b"mine")
        self.assertEqual(self.run_command("get", "-r", "-q", "t"), 9)
        self.assertEqual(
            self.err,
            [
                "natproxy: t/old/2.csv: it is there, and differs:"
                " --overwrite replaces it, --no-clobber keeps it"
            ],
        )
        self.assertEqual(self.tree(b"t"), ALL)
        self.assertEqual(self.run_command("get", "-r", "--no-clobber", "t"), 0)
        self.assertEqual(self.err, ["t: 0 downloaded (0 bytes), 4 unchanged"])
        self.assertEqual(self.read(b"t/old/2.csv"), b"mine")
        self.assertEqual(self.run_command("get", "-r", "-q", "--overwrite", "t"), 0)
        self.assertEqual(self.read(b"t/old/2.csv"), b"t/old/2.csv")

    def test_one_directory_is_open_at_a_time(self) -> None:
        for number in range(20):
            self.server.put(b"many/%02d/f" % number, b"abc")
        opened: set[LocalTree] = set()
        most = 0
        enter, leave = LocalTree.__init__, LocalTree.close

        def count_opened(tree: LocalTree, root: bytes) -> None:
            nonlocal most
            enter(tree, root)
            opened.add(tree)
            most = max(most, len(opened))

        def count_closed(tree: LocalTree) -> None:
            leave(tree)
            opened.discard(tree)

        with (
            mock.patch.object(LocalTree, "__init__", count_opened),
            mock.patch.object(LocalTree, "close", count_closed),
        ):
            self.assertEqual(self.run_command("get", "-r", "-q", "many/*"), 0)
        self.assertEqual((most, opened), (1, set()))
        self.assertEqual(self.files(), [b"%02d" % number for number in range(20)])

    def test_selection_is_below_the_directory(self) -> None:
        self.assertEqual(self.run_command("get", "-r", "t", "--include", "*.csv"), 0)
        self.assertEqual(
            self.tree(b"t"), [b"1.csv", b"old/", b"old/2.csv", b"old/deep/", b"old/deep/3.csv"]
        )
        options = ("--include", "/old/", "--exclude", "/*", "--exclude", "deep")
        self.assertEqual(self.run_command("get", "-r", "t", "-o", "x", *options), 0)
        self.assertEqual(self.tree(b"x/t"), [b"old/", b"old/2.csv"])

    def test_what_is_missing_does_not_affect_the_others(self) -> None:
        self.write(b"d", b"")
        self.assertEqual(self.run_command("get", "-r", "-q", "none", "d", "t", "a"), 3)
        self.assertEqual(self.err[0], "natproxy: none: file not found")
        self.assertIn("natproxy: d: Not a directory", self.err[1])
        self.assertEqual(self.files(), [b"a", b"d", b"t"])
        self.assertEqual(self.tree(b"t"), ALL)

    def test_every_failure_is_reported(self) -> None:
        self.write(b"a", b"mine")
        self.assertEqual(self.run_command("get", "-r", "none", "a", "t/x.txt"), 3)
        self.assertEqual(self.err[0], "natproxy: none: file not found")
        self.assertIn("natproxy: a: it is there, and differs", self.err[1])
        self.assertEqual(self.err[2:], ["saved x.txt (7 bytes)"])

    def test_what_the_server_cannot_read_is_reported(self) -> None:
        directory = Metadata(DIRECTORY, 0, MTIME, "d")
        self.server.listing = [
            Entry(b"t/1.csv", Metadata(FILE, 7, MTIME, "e")),
            Entry(b"t/secret", directory, unread=True),
        ]
        self.assertEqual(self.run_command("get", "-r", "t"), 1)
        self.assertIn("t/secret: the server cannot read it", self.err[0])

    def test_list_may_have_directories(self) -> None:
        self.write(b"list", b"t/old\na\n")
        self.assertEqual(self.run_command("get", "-rq", "-i", "list"), 0)
        self.assertEqual(self.files(), [b"a", b"list", b"old"])

    def test_wrong_options_are_named(self) -> None:
        self.server.put(b"u/old", b"")
        for reason, arguments in (
            ("-r saves directories: --output - is not one", ("-r", "t", "-o", "-")),
            ("are for directories: with -r", ("a", "--include", "x")),
            ("are for directories: with -r", ("a", "--max-entries", "5")),
            ("'[' cannot be used: a [ without its ]", ("-r", "t", "--exclude", "[")),
            ("would both be saved as", ("-r", "t/old", "u/old")),
            ("a path is needed", ("-r",)),
            ("an empty name", ("-r", "t", "-o", "")),
        ):
            self.assertIn(reason, self.assert_fails(2, "get", *arguments), arguments)
        self.assertIn(
            "lists more than 3 entries",
            self.assert_fails(1, "get", "-r", "t", "--max-entries", "3"),
        )


class SpaceTests(TreeCase):
    def test_nothing_is_downloaded_if_there_is_no_space_for_all(self) -> None:
        for arguments in (("get", "-r", "t", "a"), ("sync", ".", "copy")):
            with (
                mock.patch("natproxy.client.transfer.volumes.free_space", return_value=10_000),
                mock.patch("natproxy.client.transfer.space.free_space", return_value=10_000),
            ):
                line = self.assert_fails(9, *arguments)
            self.assertRegex(line, "not enough space: [0-9]+ bytes are needed, 10000 are free")
        self.assertEqual(self.server.arguments_of(b"GET"), [])


class SyncTests(TreeCase):
    def sync(self, *options: str) -> str:
        """Mirror ``t`` in ``copy``; return the summary."""
        self.assertEqual(self.run_command("sync", "t", "copy", *options), 0)
        return self.err[-1]

    def test_what_is_excluded_is_neither_downloaded_nor_deleted(self) -> None:
        self.server.put(b"t/y.txt", b"")
        self.sync()
        for name in (b"1.csv", b"x.txt"):
            self.server.remove(b"t/" + name)
        self.server.put(b"t/old/new.csv", b"new")
        summary = self.sync("--delete", "--exclude", "*.csv")
        self.assertIn("0 downloaded", summary)
        self.assertIn("1 deleted", summary)
        self.assertEqual(self.tree(b"copy"), [*ALL[:-1], b"y.txt"])

    def test_patterns_are_read_from_files_in_order(self) -> None:
        self.write(b"first", b"# kept\n\n/old/2.csv\n")
        self.write(b"second", b"*.csv\r\n")
        self.sync("--include-from", "first", "--exclude-from=second")
        self.assertEqual(
            self.tree(b"copy"), [b"empty/", b"old/", b"old/2.csv", b"old/deep/", b"x.txt"]
        )
        line = self.assert_fails(9, "sync", "t", "copy", "--exclude-from", "nowhere")
        self.assertEqual(line, "natproxy: nowhere: No such file or directory")

    def test_time_alone_does_not_matter_with_size_only(self) -> None:
        self.sync()
        self.server.put(b"t/1.csv", b"another", MTIME + 10**9)
        self.assertIn("0 downloaded", self.sync("--size-only"))
        self.assertIn("1 downloaded", self.sync())
        self.assertEqual(self.read(b"copy/1.csv"), b"another")

    def test_bytes_alone_matter_with_checksum(self) -> None:
        self.sync()
        self.server.put(b"t/1.csv", b"another", MTIME)
        self.server.put(b"t/x.txt", b"t/x.txt", MTIME + 10**9)
        self.assertIn("1 downloaded (7 bytes), 3 unchanged", self.sync("--checksum"))
        self.assertEqual(self.read(b"copy/1.csv"), b"another")
        self.assertEqual(len(self.server.arguments_of(b"HASH")), 4)

    def test_one_comparison_is_selected(self) -> None:
        self.assertEqual(self.run_command("sync", "t", "c", "--checksum", "--size-only"), 2)
        self.assertIn("not allowed with argument --checksum", self.err[-1])

    def test_files_need_not_be_on_the_disk(self) -> None:
        self.assertIn("4 downloaded", self.sync("--no-fsync"))
        self.assertEqual(self.run_command("get", "-q", "--no-fsync", "a"), 0)
        self.assertEqual(self.read(b"a"), NEW)
