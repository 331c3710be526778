"""Mirrors of a selection, comparisons by size or digest, and what other runs have left."""

from __future__ import annotations

import os
from unittest import mock

from natproxy.client.transfer import digests, publication
from natproxy.client.transfer.batch import download_and_count
from natproxy.client.transfer.deletion import delete
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.mirror import compare
from natproxy.client.transfer.part_file import PartFile
from natproxy.client.transfer.pattern import Pattern
from natproxy.client.transfer.plan import MirrorPlan
from natproxy.client.transfer.request import DownloadOptions
from natproxy.client.transfer.run_directory import RunDirectory
from natproxy.client.transfer.selection import Equality, Rule, Selection
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import MAX_PACKED
from tests.support.mirrors import MirrorCase
from tests.support.served_files import MTIME, Fault


def names(plan: MirrorPlan) -> list[bytes]:
    return [entry.name for entry in plan.downloads]


class SelectionTests(MirrorCase):
    def setUp(self) -> None:
        super().setUp()
        for name in (b"a.csv", b"a.log", b"d/b.csv", b"d/b.log", b"tmp/c.csv", b"z/deep/d.csv"):
            self.server.put(name, b"abc")

    def select(self, *rules: tuple[bool, bytes]) -> MirrorPlan:
        selection = Selection(Rule(include, Pattern(text)) for include, text in rules)
        return self.compare(selection=selection)

    def test_excluded_entries_are_neither_downloaded_nor_extra(self) -> None:
        for name in (b"mine.log", b"tmp/mine.csv", b"old.csv", b"d/mine.log", b"gone/x.log"):
            self.write(name, b"mine")
        self.write(b"gone/y", b"mine")
        plan = self.select((False, b"*.log"), (False, b"tmp/"))
        self.assertEqual(names(plan), [b"a.csv", b"d/b.csv", b"z/deep/d.csv"])
        self.assertEqual(self.extra(plan), [b"old.csv", b"gone/y"])
        self.assertEqual((plan.source_files, plan.local_files), (3, 2))
        delete(plan.tree, plan.extra)
        self.assertEqual(self.files(), [b"d", b"gone", b"mine.log", b"tmp"])

    def test_directories_are_created_for_included_files_only(self) -> None:
        plan = self.select((True, b"d.csv"))
        self.assertEqual(names(plan), [b"z/deep/d.csv"])
        self.assertEqual(plan.directories, [b"z", b"z/deep"])

    def test_excluded_local_files_do_not_hide_an_unchanged_one(self) -> None:
        for name in (b"a.csv", b"a.log", b"d/b.csv", b"d/b.log"):
            self.write(name, b"abc", MTIME)
        plan = self.select((False, b"*.log"))
        self.assertEqual((plan.unchanged, plan.extra), (2, []))
        self.assertEqual(names(plan), [b"tmp/c.csv", b"z/deep/d.csv"])


class EqualityTests(MirrorCase):
    def setUp(self) -> None:
        super().setUp()
        for name in (b"other", b"same", b"size", b"time"):
            self.server.put(name, b"abc")
        self.write(b"same", b"abc", MTIME)
        self.write(b"size", b"abcd", MTIME)
        self.write(b"time", b"abc", MTIME - 10**9)
        self.write(b"other", b"xyz", MTIME)

    def differing(self, equality: Equality) -> list[bytes]:
        plan = self.compare(equality=equality)
        self.assertEqual(plan.unchanged, 4 - len(plan.downloads))
        self.assertEqual(plan.same_size, [])
        return names(plan)

    def test_size_and_time_or_size_or_digest(self) -> None:
        self.assertEqual(self.differing(Equality.SIZE_AND_TIME), [b"size", b"time"])
        self.assertEqual(self.differing(Equality.SIZE_ONLY), [b"size"])
        self.assertEqual(self.server.arguments_of(b"HASH"), [])
        self.assertEqual(self.differing(Equality.CHECKSUM), [b"other", b"size"])
        self.assertEqual(self.server.arguments_of(b"HASH"), [b"other", b"same", b"time"])

    def test_file_with_another_digest_is_replaced(self) -> None:
        plan = self.compare(equality=Equality.CHECKSUM)
        self.assertTrue(plan.replaces)
        download_and_count(self.session, plan.requests, DownloadOptions(Existing.REPLACE), 2)
        self.assertEqual((self.read(b"other"), self.read(b"size")), (b"abc", b"abc"))
        self.assertEqual(self.differing(Equality.CHECKSUM), [])

    def test_digest_that_takes_long_is_requested_alone(self) -> None:
        self.server.fail(b"HASH", Fault(), Fault(cut=-1))
        with mock.patch.object(digests, "DIGESTS_AHEAD", 1):
            self.assertEqual(self.differing(Equality.CHECKSUM), [b"other", b"size"])
        self.server.fail(b"HASH", Fault(reply=b"ERR 404 file not found\n"))
        self.assertEqual(self.differing(Equality.CHECKSUM), [b"other", b"size"])

    def test_unreadable_file_or_link_is_replaced(self) -> None:
        os.unlink(self.path(b"same"))
        os.symlink(b"other", self.path(b"same"))
        self.assertEqual(self.differing(Equality.CHECKSUM), [b"other", b"same", b"size"])


class LeftoverTests(MirrorCase):
    def setUp(self) -> None:
        super().setUp()
        self.server.put(b"a", b"abc")
        self.write(b"a", b"abc", MTIME)
        self.root = LocalDirectory.at(self.directory)
        self.addCleanup(self.root.close)

    def run_directory(self, *content: bytes) -> RunDirectory:
        run = RunDirectory(self.root)
        self.addCleanup(run.close)
        for name in content:
            self.write(os.path.join(run.name, name), b"part")
        return run

    def test_directory_of_another_run_is_never_extra(self) -> None:
        run = self.run_directory(b"1", b"2/x")
        plan = self.compare()
        self.assertEqual((plan.extra, plan.leftovers, plan.local_files), ([], True, 1))
        plan.create_directories()
        self.assertEqual(self.files(), sorted([run.name, b"a"]))

    def test_leftover_of_a_killed_run_is_removed_although_nothing_is_downloaded(self) -> None:
        run = self.run_directory(b"1", b"2/x")
        os.close(run.descriptor)
        run.descriptor = -1
        plan = self.compare()
        self.assertEqual((plan.extra, plan.downloads), ([], []))
        plan.create_directories()
        self.assertEqual(self.files(), [b"a"])

    def test_leftover_in_a_directory_below_keeps_it(self) -> None:
        self.write(b"old/.natproxy-0123456789ab.part/x", b"part")
        self.write(b"old/y", b"mine")
        plan = self.compare()
        self.assertEqual((self.extra(plan), plan.leftovers), ([b"old/y"], False))

    def test_what_a_killed_download_left_is_removed_although_nothing_is_downloaded(self) -> None:
        self.write(b"old/.b.0123456789ab.part", b"part")
        self.write(b"old/.b.part", b"")
        self.write(b".c.0123456789ab.part.json", b"")
        plan = self.compare()
        self.assertEqual(plan.extra, [])
        plan.create_directories()
        self.assertEqual(self.files(), [b"a", b"old"])
        self.assertEqual(os.listdir(os.path.join(self.directory, b"old")), [b".b.part"])


class DurableTests(MirrorCase):
    def test_nothing_is_synchronized_if_that_is_not_wanted(self) -> None:
        for name in (b"d/large", b"d/small", b"small"):
            self.server.put(name, b"x" * (MAX_PACKED + 1) if b"large" in name else b"abc")
        for durable in (False, True):
            root = self.path(b"%d" % durable)
            tree = LocalTree(root)
            self.addCleanup(tree.close)
            plan = compare(self.session, b"", tree)
            plan.check_directories()
            options = DownloadOptions(Existing.UPDATE, durable=durable)
            file, directory, group = (mock.Mock() for _ in range(3))
            with (
                mock.patch.object(PartFile, "sync", file),
                mock.patch.object(LocalDirectory, "sync", directory),
                mock.patch.object(publication, "syncfs", group),
                mock.patch.object(publication, "has_syncfs", return_value=True),
            ):
                totals = download_and_count(self.session, plan.requests, options, 1)
                plan.create_directories(durable)
            self.assertEqual(totals.failures, [])
            called = [each.called for each in (file, directory, group)]
            self.assertEqual(called, [durable] * 3)
