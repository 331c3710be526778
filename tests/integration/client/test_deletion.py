"""What is deleted in a mirror, what is refused, and that nothing outside is reached."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from shutil import rmtree
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import LocalError
from natproxy.client.transfer.deletion import ExtraPath, delete, deletion_refusal
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.mirror import compare
from natproxy.client.transfer.tree import LocalTree
from tests.support.mirrors import MirrorCase


class DeletionTests(MirrorCase):
    def test_files_links_and_empty_directories_are_deleted(self) -> None:
        self.write(b"d/a", b"")
        self.write(b"kept/b", b"")
        os.symlink(b"kept", self.path(b"link"))
        done = delete(
            self.tree(),
            [ExtraPath(b"d/a", False), ExtraPath(b"d", True), ExtraPath(b"link", False)],
        )
        self.assertEqual((done.number, done.errors), (3, []))
        self.assertEqual((self.files(), self.read(b"kept", b"b")), ([b"kept"], b""))

    def test_deletion_goes_on_after_errors_and_tells_each_cause_once(self) -> None:
        for name in (b"d/e/a", b"d/e/b", b"f/new", b"z"):
            self.write(name, b"")
        extra = [
            *(ExtraPath(b"z", False), ExtraPath(b"gone", False), ExtraPath(b"f", True)),
            *(ExtraPath(b"d/e/b", False), ExtraPath(b"d/e/a", False), ExtraPath(b"d/e", True)),
            ExtraPath(b"d", True),
        ]
        unlink = LocalTree.unlink

        def refuse(tree: LocalTree, path: bytes) -> None:
            if path == b"d/e/b":
                raise LocalError(tree.path_of(path), OSError(errno.EPERM, "denied"))
            unlink(tree, path)

        with mock.patch.object(LocalTree, "unlink", refuse):
            done = delete(self.tree(), extra)
        self.assertEqual(done.number, 2)
        self.assertEqual([error.errno for error in done.errors], [errno.ENOTEMPTY, errno.EPERM])
        self.assertEqual(sorted(os.listdir(self.path(b"d/e"))), [b"b"])

    def test_directory_that_becomes_a_link_is_not_followed(self) -> None:
        outside = os.fsencode(os.path.realpath(tempfile.mkdtemp()))
        self.addCleanup(rmtree, outside)
        with open(os.path.join(outside, b"a"), "wb"):
            pass
        self.write(b"z/a", b"")
        self.server.put(b"y", b"abc")
        tree = self.tree()
        plan = compare(self.session, b"", tree)
        self.assertEqual(self.extra(plan), [b"z/a", b"z"])
        os.rename(self.path(b"z"), self.path(b"z.old"))
        os.symlink(outside, self.path(b"z"))
        done = delete(tree, plan.extra)
        self.assertEqual(os.listdir(outside), [b"a"])
        self.assertEqual((done.number, len(done.errors)), (0, 1))

    def test_directory_that_becomes_a_link_while_it_is_compared_is_not_followed(self) -> None:
        outside = os.fsencode(os.path.realpath(tempfile.mkdtemp()))
        self.addCleanup(rmtree, outside)
        with open(os.path.join(outside, b"a"), "wb"):
            pass
        self.write(b"z/a", b"")
        lstat = LocalDirectory.lstat

        def swap(directory: LocalDirectory, name: bytes) -> os.stat_result | None:
            found = lstat(directory, name)
            if name == b"z":
                os.rename(self.path(b"z"), self.path(b"z.old"))
                os.symlink(outside, self.path(b"z"))
            return found

        with mock.patch.object(LocalDirectory, "lstat", swap):
            plan = self.compare()
        self.assertNotIn(b"z/a", self.extra(plan))
        self.assertEqual(len(plan.local_errors), 1)


class RefusalTests(SynchronousTestCase):
    def refusal(
        self, files: int, held: int, source: int, most: float | None = None, directories: int = 0
    ) -> str | None:
        extra = [ExtraPath(b"d%d" % number, True) for number in range(directories)]
        extra += [ExtraPath(b"%d" % number, False) for number in range(files)]
        refusal = deletion_refusal(extra, held, source, most)
        return None if refusal is None else str(refusal)

    def test_source_without_files_deletes_nothing(self) -> None:
        self.assertEqual(
            self.refusal(5000, 5000, 0, directories=1),
            "nothing deleted: 5000 of 5000 files here and 1 directory would be, and the server"
            " lists no files; --max-delete 5001 allows it",
        )
        for files, held, directories in ((1, 1, 0), (1, 100, 0), (0, 0, 2)):
            self.assertIsNotNone(self.refusal(files, held, 0, directories=directories))

    def test_more_than_half_of_a_mirror_that_is_not_small_is_refused(self) -> None:
        self.assertEqual(
            self.refusal(6, 11, 5),
            "nothing deleted: 6 of 11 files here would be, and that is more than half;"
            " --max-delete 6 allows it",
        )
        for files, held in ((5, 11), (6, 12), (10, 10), (1, 1)):
            self.assertIsNone(self.refusal(files, held, 1))

    def test_directories_count_for_a_limit_only(self) -> None:
        self.assertIsNone(self.refusal(5, 11, 6, directories=100))
        self.assertIn(
            "which is more than --max-delete 104 allows",
            str(self.refusal(5, 11, 6, 104, directories=100)),
        )
        self.assertIsNone(self.refusal(5, 11, 6, 105, directories=100))

    def test_limit_that_was_set_is_the_only_one(self) -> None:
        for most in (5000, 5001, math.inf):
            self.assertIsNone(self.refusal(5000, 5000, 0, most))
        for files, held in ((1, 100), (6, 11)):
            self.assertIsNotNone(self.refusal(files, held, 50, 0))

    def test_nothing_to_delete_is_never_refused(self) -> None:
        for most in (None, 0, math.inf):
            self.assertIsNone(self.refusal(0, 0, 0, most))
