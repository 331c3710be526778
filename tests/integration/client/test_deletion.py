"""Deletions in a mirror, none of which affects files outside."""

from __future__ import annotations

import errno
import os
import tempfile
from shutil import rmtree
from unittest import mock

from natproxy.client import LocalError
from natproxy.client.transfer.deletion import ExtraPath, delete
from natproxy.client.transfer.mirror import compare
from natproxy.client.transfer.tree import LocalTree, Scanned
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

    def test_deletion_continues_after_errors_and_reports_each_cause_once(self) -> None:
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
        scan = LocalTree.scan

        def swap(tree: LocalTree, path: bytes) -> tuple[list[Scanned], dict[bytes, OSError]]:
            found = scan(tree, path)
            if not path:
                os.rename(self.path(b"z"), self.path(b"z.old"))
                os.symlink(outside, self.path(b"z"))
            return found

        with mock.patch.object(LocalTree, "scan", swap):
            plan = self.compare()
        self.assertNotIn(b"z/a", self.extra(plan))
        self.assertEqual(len(plan.local_errors), 1)
