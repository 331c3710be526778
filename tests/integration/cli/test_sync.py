"""``sync``: files and directories afterwards, refused deletions, messages, exit status."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from contextlib import AbstractContextManager
from shutil import rmtree
from types import ModuleType
from typing import Any
from unittest import mock

from natproxy.client import LocalError
from natproxy.client.transfer import batch, deletion
from natproxy.client.transfer.plan import MirrorPlan
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import (
    DIRECTORY,
    UNREAD_METADATA,
    Entry,
    Metadata,
    Page,
    format_entry,
    format_page,
)
from tests.support.commands import NEW, DownloadCase
from tests.support.served_files import MTIME, Fault


class SyncCase(DownloadCase):
    def tree(self) -> dict[str, bytes]:
        return {
            os.path.relpath(os.path.join(place, name), "here"): self.read(
                os.fsencode(os.path.join(place, name))
            )
            for place, _, names in os.walk("here")
            for name in names
        }


class SyncTests(SyncCase):
    def test_directory_becomes_like_the_servers(self) -> None:
        self.server.directories = {b"empty"}
        self.assertEqual(self.run_command("sync", ".", "here"), 0)
        self.assertEqual(self.tree(), {"a": NEW, "d/b": b"the b"})
        self.assertEqual(self.err, [f"2 downloaded ({len(NEW) + 5} bytes), 0 unchanged"])
        self.assertTrue(os.path.isdir("here/empty"))
        self.server.put(b"d/b", b"another", MTIME + 1)
        self.assertEqual(self.run_command("sync", ".", "here", "-j", "1"), 0)
        self.assertEqual(self.err, ["1 downloaded (7 bytes), 1 unchanged"])
        self.assertEqual(self.run_command("sync", ".", "here", "-q"), 0)
        self.assertEqual((self.err, self.tree()), ([], {"a": NEW, "d/b": b"another"}))

    def test_directory_below(self) -> None:
        self.run_command("sync", "d", "here")
        self.assertEqual(self.tree(), {"b": b"the b"})

    def test_nothing_is_deleted_without_the_option(self) -> None:
        self.write(b"here/mine", b"mine")
        self.write(b"here/.x.part", b"under way")
        self.assertEqual(self.run_command("sync", ".", "here"), 0)
        self.assertIn("mine", self.tree())
        self.assertEqual(self.run_command("sync", ".", "here", "--delete"), 0)
        self.assertEqual(self.err, ["0 downloaded (0 bytes), 2 unchanged, 1 deleted"])
        self.assertEqual(sorted(self.tree()), [".x.part", "a", "d/b"])

    def test_nothing_is_deleted_if_a_download_failed(self) -> None:
        self.write(b"here/mine", b"mine")
        # Files that a pack cannot have are requested one by one.
        self.server.fail(b"PACK", Fault(reply=b"ERR 400 refused\n"))
        self.server.fail(b"GET", Fault(reply=b"ERR 500 internal\n"))
        self.assertEqual(self.run_command("sync", ".", "here", "--delete", "-j", "1"), 1)
        self.assertIn("mine", self.tree())
        self.assertIn("nothing deleted", self.err[1])
        self.assertIn("0 deleted, 1 failed", self.err[2])

    def test_dry_run_prints_the_plan_and_changes_nothing(self) -> None:
        self.write(b"here/mine", b"mine")
        self.assertEqual(self.run_command("sync", ".", "here", "-n", "--delete"), 0)
        self.assertEqual(
            self.out.splitlines(),
            [b"download here/a", b"download here/d/b", b"create   here/d/", b"delete   here/mine"],
        )
        self.assertEqual((self.tree(), self.server.arguments_of(b"GET")), ({"mine": b"mine"}, []))
        self.run_command("sync", ".", "here", "-n")
        self.assertNotIn(b"delete", self.out)

    def test_interrupted_listing_is_retried(self) -> None:
        self.server.page = 1
        self.server.fail(b"LS", Fault(), Fault(cut=10), Fault(reply=b"ERR 503 not now\n"))
        self.assertEqual(self.run_command("sync", ".", "here"), 0)
        self.assertEqual((len(self.slept), sorted(self.tree())), (2, ["a", "d/b"]))
        # It goes on with the page that is missing.
        pages = [
            line.partition(b"after=")[2].partition(b" ")[0]
            for line in self.server.arguments_of(b"LS")
        ]
        self.assertEqual(pages, [b"", b"a", b"a", b"a", b"d"])

    def test_failed_listing_deletes_nothing(self) -> None:
        self.write(b"here/mine", b"mine")
        self.server.fail(b"LS", Fault(reply=b"ERR 500 internal\n"))
        self.assert_fails(1, "sync", ".", "here", "--delete")
        self.assertEqual(self.tree(), {"mine": b"mine"})

    def test_directory_that_the_server_cannot_list_keeps_its_content(
        self,
    ) -> None:
        self.server.directories = {b"closed"}
        self.write(b"here/closed/mine", b"mine")
        self.write(b"here/old", b"old")
        unread = (
            "natproxy: closed: the server cannot read it: nothing was downloaded or deleted there"
        )
        for options, status in ((["-n", "--delete"], 1), (["--delete"], 1), ([], 0)):
            self.server.fail(b"LS", Fault(), Fault(reply=b"ERR 404 file not found\n"))
            self.assertEqual(self.run_command("sync", ".", "here", *options), status)
            self.assertEqual(unread in self.err, bool(options))
            self.assertEqual("old" in self.tree(), "-n" in options)
        self.assertEqual(self.tree()["closed/mine"], b"mine")

    def test_incomplete_downloads_of_the_server_are_skipped_and_reported(self) -> None:
        self.server.put(b".a.part", b"under way there")
        self.run_command("sync", ".", "here")
        self.assertEqual(sorted(self.tree()), ["a", "d/b"])
        self.assertIn("1 left out", self.err[0])
        for option in ("-q", "-n"):
            self.assertEqual(self.run_command("sync", ".", "here", option), 0)
            self.assertEqual(self.err, ["natproxy: 1 left out (incomplete downloads there)"])

    def test_unread_entries_are_reported_and_kept_with_status_1(self) -> None:
        self.server.listing = [
            Entry(b"a", self.server._files[b"a"].metadata),
            Entry(b"d", UNREAD_METADATA),
            Entry(b"e", Metadata(DIRECTORY, 0, MTIME, "e"), unread=True),
        ]
        for name in (b"here/d/mine", b"here/e/mine", b"here/old"):
            self.write(name, b"mine")
        for options, old in (([], True), (["-n", "--delete"], True), (["--delete"], False)):
            self.assertEqual(self.run_command("sync", ".", "here", *options), 1)
            reported = [line for line in self.err if "the server cannot read it" in line]
            self.assertEqual([line[10:12] for line in reported], ["d:", "e:"])
            self.assertEqual("old" in self.tree(), old)
        self.assertEqual(sorted(self.tree()), ["a", "d/mine", "e/mine"])
        self.assertIn("1 deleted, 2 that the server cannot read", self.err[-1])

    def test_incomplete_listing_deletes_nothing_with_status_1(self) -> None:
        page = format_entry(Entry(b"a", self.server._files[b"a"].metadata))
        answer = format_page(len(page), Page(unread=2)) + page
        self.write(b"here/old", b"old")
        for options in ([], ["--delete"], ["-n", "--delete"]):
            self.server.fail(b"LS", Fault(reply=answer))
            self.assertEqual(self.run_command("sync", ".", "here", *options), 1)
            self.assertIn("the server could not read 2 directories", self.err[0])
            self.assertEqual(self.out, b"")
        self.assertEqual(sorted(self.tree()), ["a", "old"])

    def test_many_names_of_one_kind_are_counted_and_json_has_them_all(self) -> None:
        self.server.listing = [Entry(b"%02d" % n, UNREAD_METADATA) for n in range(50)]
        self.assertEqual(self.run_command("sync", ".", "here", "-q"), 1)
        self.assertEqual(len(self.err), 21)
        self.assertIn("and 30 more like this", self.err[-1])
        self.run_command("sync", ".", "here", "-q", "--progress", "json")
        lines = [json.loads(line) for line in self.err if line.startswith("{")]
        failed = [line["event"]["name"] for line in lines if "event" in line]
        self.assertEqual(failed, [f"{number:02}" for number in range(50)])
        self.assertEqual((lines[-1]["files"]["failed"], lines[-1]["files"]["total"]), (50, 50))
        (facts,) = [line["sync"] for line in lines if "sync" in line]
        self.assertEqual((facts["unread"], facts["status"]), (50, 1))

    def test_sync_continues_after_obstacles(self) -> None:
        for name in (b"z", b"f/g"):
            self.server.put(name, b"the z")
        self.write(b"here/d", b"a file")
        self.write(b"here/f", b"a file")
        self.write(b"here/a/mine", b"in a directory")
        self.write(b"here/old", b"old")
        for options in ([], ["-n", "--delete"], ["--delete"]):
            self.assertEqual(self.run_command("sync", ".", "here", *options), 9)
            self.assertEqual(
                [line.partition("here/")[2] for line in self.err[:3]],
                [
                    "a: is a directory here, a file there",
                    "d: is a file here, a directory there",
                    "f: is a file here, a directory there",
                ],
            )
            self.assertNotIn(b"delete", self.out)
        self.assertIn("nothing deleted, since not everything could be downloaded", self.err[3])
        self.assertIn("5 with something in the way here", self.err[-1])
        self.assertEqual(self.tree()["z"], b"the z")
        self.assertEqual(self.tree()["old"], b"old")

    def test_name_that_the_file_system_rejects_does_not_affect_the_others(self) -> None:
        self.server.put(b"x" * 300, b"long")
        self.server.put(b"y" * 300 + b"/z", b"long")
        self.assertEqual(self.run_command("sync", ".", "here"), 9)
        self.assertEqual(sorted(self.tree()), ["a", "d/b"])
        self.assertEqual(len([line for line in self.err if "File name too long" in line]), 2)

    def test_served_directory_with_the_name_of_a_part_does_not_block_the_file(self) -> None:
        self.server.put(b".a.part/b", b"the b")
        self.assertEqual(self.run_command("sync", ".", "here"), 0)
        self.assertEqual(sorted(self.tree()), ["a", "d/b"])
        self.assertIn("natproxy: .a.part: left out, with what is in it", self.err[0])
        self.assertIn("2 left out", self.err[1])

    def test_failed_deletion_is_reported_and_the_others_are_done(self) -> None:
        for name in (b"here/x", b"here/y"):
            self.write(name, b"mine")
        unlink = LocalTree.unlink

        def refuse(tree: LocalTree, path: bytes) -> None:
            if path == b"y":
                raise LocalError(tree.path_of(path), OSError(errno.EPERM, "denied"))
            unlink(tree, path)

        with mock.patch.object(LocalTree, "unlink", refuse):
            self.assertEqual(self.run_command("sync", ".", "here", "--delete"), 9)
        self.assertEqual(self.err[0], "natproxy: here/y: denied")
        self.assertIn("1 deleted, 1 not deleted", self.err[1])
        self.assertEqual(sorted(self.tree()), ["a", "d/b", "y"])

    def mirror(self, files: int) -> None:
        for number in range(files):
            self.write(b"here/%02d" % number, b"mine")

    def test_source_without_files_deletes_nothing(self) -> None:
        self.server._files.clear()
        self.server.directories = {b"e"}
        self.mirror(3)
        for options in (["-n"], []):
            self.assertEqual(self.run_command("sync", ".", "here", "--delete", *options), 11)
            self.assertEqual(
                self.err[0],
                "natproxy: nothing deleted: 3 of 3 files here would be, and the server lists no"
                " files; --max-delete 3 allows it",
            )
            self.assertNotIn(b"delete", self.out)
            self.assertEqual(len(self.tree()), 3)
        options = ("sync", ".", "here", "--delete", "--max-delete")
        self.assertEqual(self.run_command(*options, "2"), 11)
        self.assertIn("would be, which is more than --max-delete 2 allows", self.err[0])
        self.assertEqual(self.run_command(*options, "3", "-n"), 0)
        self.assertEqual(len(self.out.splitlines()), 3)
        self.assertEqual(self.run_command(*options, "3"), 0)
        self.assertEqual(self.tree(), {})

    def test_more_than_half_of_a_mirror_is_not_deleted_but_new_files_are_downloaded(self) -> None:
        self.mirror(11)
        self.assertEqual(self.run_command("sync", ".", "here", "--delete"), 11)
        self.assertIn("nothing deleted: 11 of 11 files here would be", self.err[0])
        self.assertIn("2 downloaded", self.err[1])
        self.assertIn("0 deleted", self.err[1])
        self.assertEqual(len(self.tree()), 13)
        options = ("sync", ".", "here", "--delete", "--progress", "json", "-q")
        self.assertEqual(self.run_command(*options), 11)
        facts = [json.loads(line) for line in self.err if line.startswith("{")]
        (deletions,) = [each["sync"]["deletions"] for each in facts if "sync" in each]
        self.assertEqual((deletions["planned"], deletions["deleted"]), (11, 0))
        self.assertIn("more than half", deletions["refused"])
        self.assertEqual(self.run_command(*options, "--max-delete", "inf"), 0)
        self.assertEqual(sorted(self.tree()), ["a", "d/b"])

    def test_limits_are_checked(self) -> None:
        self.assertIn("both are needed", self.assert_fails(2, "sync", ".", "x", "--max-delete=1"))
        for option in ("--max-delete=-1", "--max-delete=x", "--max-delete=", "--max-entries=0"):
            self.assertEqual(self.run_command("sync", ".", "x", "--delete", option), 2)
        error = self.assert_fails(1, "sync", ".", "x", "--max-entries", "2")
        self.assertIn("lists more than 2 entries", error)
        self.assertEqual(self.files(), [])
        self.assertEqual(self.run_command("sync", ".", "x", "--max-entries", "inf"), 0)

    def test_what_cannot_be_synchronized(self) -> None:
        self.write(b"file", b"")
        self.assert_fails(2, "sync", "a", "here")
        self.assertEqual(self.run_command("sync", ".", ""), 2)
        self.assertIn("LOCAL_DIR: the name must not be empty", self.err[-1])
        self.assert_fails(3, "sync", "none", "here")
        self.assert_fails(9, "sync", ".", "file")
        self.server.version = 1
        self.assertIn("version 1", self.assert_fails(1, "sync", ".", "here"))


class OutsideTests(SyncCase):
    """Directories of the mirror are replaced by links while ``sync`` runs."""

    def setUp(self) -> None:
        super().setUp()
        self.outside = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(rmtree, self.outside)
        for name in ("b", "mine"):
            with open(os.path.join(self.outside, name), "w") as file:
                file.write("outside")
        self.write(b"here/d/mine", b"mine")

    def swap(self) -> None:
        """Put a link that leads outside in the place of a directory."""
        os.rename("here/d", "here/d.old")
        os.symlink(self.outside, "here/d")

    def assert_untouched(self) -> None:
        self.assertEqual(sorted(os.listdir(self.outside)), ["b", "mine"])
        for name in ("b", "mine"):
            with open(os.path.join(self.outside, name)) as file:
                self.assertEqual(file.read(), "outside")

    def swapping_before(self, module: ModuleType, name: str) -> AbstractContextManager[object]:
        """Swap just before a step of the command begins."""
        step = getattr(module, name)

        def swap_and_continue(*arguments: Any) -> object:
            self.swap()
            return step(*arguments)

        return mock.patch.object(module, name, swap_and_continue)

    def test_between_comparison_and_download(self) -> None:
        with self.swapping_before(batch, "download_and_count"):
            self.assertEqual(self.run_command("sync", ".", "here", "--delete"), 9)
        self.assert_untouched()
        self.assertIn("here/d", self.err[0])
        self.assertEqual(sorted(self.tree()), ["a", "d.old/mine"])

    def test_during_a_download(self) -> None:
        self.server.fail(b"GET", Fault(act=self.swap))
        self.server.put(b"d/b", b"x" * 5)
        self.server.remove(b"a")
        self.run_command("sync", ".", "here", "-j", "1")
        self.assert_untouched()

    def test_between_download_and_deletion(self) -> None:
        with self.swapping_before(deletion, "delete"):
            self.assertEqual(self.run_command("sync", ".", "here", "--delete"), 9)
        self.assert_untouched()
        self.assertEqual(sorted(self.tree()), ["a", "d.old/b", "d.old/mine"])

    def test_before_directories_are_created(self) -> None:
        self.server.put(b"d/e/f", b"the f")
        check = MirrorPlan.check_directories

        def swap_and_check(plan: MirrorPlan) -> None:
            self.swap()
            check(plan)

        with mock.patch.object(MirrorPlan, "check_directories", swap_and_check):
            self.assertEqual(self.run_command("sync", ".", "here"), 9)
        self.assert_untouched()
