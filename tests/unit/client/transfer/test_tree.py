"""A local directory tree: access below its root, and never outside."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from shutil import rmtree
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import LocalError
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.tree import LocalTree
from natproxy.kernel.openat2 import choose_opener, open_by_walk, open_without_links
from tests.support.storage import descriptors


def listed(tree: LocalTree, path: bytes) -> list[tuple[bytes, bool]]:
    """Return the names in a directory, each with whether it is a directory."""
    found, errors = tree.scan(path)
    assert not errors
    return [(name, stat.S_ISDIR(mode)) for name, mode, _, _ in found]


class TreeCase(SynchronousTestCase):
    opener = staticmethod(open_without_links)

    def setUp(self) -> None:
        self.top = os.fsencode(os.path.realpath(tempfile.mkdtemp()))
        self.addCleanup(rmtree, self.top)
        self.outside = os.path.join(self.top, b"outside")
        self.root = os.path.join(self.top, b"root")
        for directory in (self.outside, self.root, os.path.join(self.root, b"d")):
            os.mkdir(directory)
        self.put(self.outside, b"precious")
        self.put(self.root, b"d", b"f")
        self.before = descriptors()

    def put(self, *parts: bytes) -> None:
        with open(os.path.join(*parts), "wb") as file:
            file.write(b"content")

    def tree(self, root: bytes | None = None) -> LocalTree:
        with mock.patch("natproxy.client.transfer.tree.choose_opener", return_value=self.opener):
            tree = LocalTree(self.root if root is None else root)
        self.addCleanup(tree.close)
        return tree

    def failure(self, call, *arguments, **named) -> int | None:  # type: ignore[no-untyped-def]
        return self.assertRaises(LocalError, call, *arguments, **named).errno


class Trees:
    def test_existing_paths(self: TreeCase) -> None:
        tree = self.tree()
        self.assertEqual(listed(tree, b""), [(b"d", True)])
        self.assertEqual(listed(tree, b"d"), [(b"f", False)])
        for path, kind in ((b"", stat.S_ISDIR), (b"d", stat.S_ISDIR), (b"d/f", stat.S_ISREG)):
            found = tree.lstat(path)
            assert found is not None
            self.assertTrue(kind(found.st_mode), path)

    def test_missing_paths(self: TreeCase) -> None:
        tree = self.tree()
        for path in (b"x", b"x/y/z", b"d/x"):
            self.assertIsNone(tree.lstat(path))
            self.assertEqual(self.failure(tree.unlink, path), errno.ENOENT)
        self.assertEqual(self.failure(tree.scan, b"x"), errno.ENOENT)
        self.assertEqual(self.failure(tree.parent, b"x/y"), errno.ENOENT)

    def test_missing_directories_are_created(self: TreeCase) -> None:
        tree = self.tree()
        for _ in range(2):
            with tree.parent(b"x/y/z", create=True) as directory:
                self.assertEqual(directory.path, os.path.join(self.root, b"x", b"y"))
        self.assertEqual(listed(tree, b"x"), [(b"y", True)])
        tree.directory(b"x/y/e", create=True).close()
        self.assertEqual(listed(tree, b"x/y"), [(b"e", True)])

    def test_names_of_new_directories_are_synchronized(self: TreeCase) -> None:
        tree = self.tree()
        synced = []
        real = os.fsync

        def fsync(file: int) -> None:
            synced.append(os.readlink(b"/proc/self/fd/%d" % file))
            real(file)

        with mock.patch("os.fsync", fsync):
            tree.directory(b"d/x/y", create=True).close()
        self.assertEqual(synced, [self.root + b"/d", self.root + b"/d/x"])

    def test_files_and_empty_directories_are_removed(self: TreeCase) -> None:
        tree = self.tree()
        self.assertEqual(self.failure(tree.rmdir, b"d"), errno.ENOTEMPTY)
        tree.unlink(b"d/f")
        tree.rmdir(b"d")
        self.assertEqual(listed(tree, b""), [])

    def test_links_below_the_root_are_not_followed(self: TreeCase) -> None:
        os.symlink(self.outside, os.path.join(self.root, b"absolute"))
        os.symlink(b"../outside", os.path.join(self.root, b"relative"))
        os.symlink(b"d", os.path.join(self.root, b"inside"))
        tree = self.tree()
        self.assertEqual(
            sorted(listed(tree, b"")),
            [(b"absolute", False), (b"d", True), (b"inside", False), (b"relative", False)],
        )
        for link in (b"absolute", b"relative", b"inside"):
            found = tree.lstat(link)
            assert found is not None
            self.assertTrue(stat.S_ISLNK(found.st_mode))
            for call in (
                lambda: tree.scan(link),  # noqa: B023
                lambda: tree.lstat(link + b"/precious"),  # noqa: B023
                lambda: tree.unlink(link + b"/precious"),  # noqa: B023
                lambda: tree.rmdir(link + b"/x"),  # noqa: B023
                lambda: tree.parent(link + b"/x"),  # noqa: B023
                lambda: tree.parent(link + b"/x/y", create=True),  # noqa: B023
                lambda: tree.directory(link, create=True),  # noqa: B023
            ):
                self.assertIn(self.failure(call), (errno.ELOOP, errno.ENOTDIR))
        tree.unlink(b"absolute")
        self.assertEqual(os.listdir(self.outside), [b"precious"])

    def test_open_directory_is_unaffected_by_replacing_it_with_a_link(self: TreeCase) -> None:
        tree = self.tree()
        with tree.parent(b"d/f") as directory:
            os.rename(os.path.join(self.root, b"d"), os.path.join(self.root, b"old"))
            os.symlink(self.outside, os.path.join(self.root, b"d"))
            os.close(directory.open(b"precious", os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            directory.rename(b"precious", b"new")
            directory.unlink(b"f")
            directory.sync()
        self.assertEqual(listed(tree, b"old"), [(b"new", False)])
        with open(os.path.join(self.outside, b"precious"), "rb") as file:
            self.assertEqual(file.read(), b"content")

    def test_open_root_is_unaffected_by_replacing_it(self: TreeCase) -> None:
        tree = self.tree()
        os.rename(self.root, self.root + b".old")
        os.symlink(self.outside, self.root)
        self.assertEqual(listed(tree, b""), [(b"d", True)])

    def test_file_is_not_a_directory(self: TreeCase) -> None:
        tree = self.tree()
        for call in (tree.scan, tree.directory):
            self.assertEqual(self.failure(call, b"d/f"), errno.ENOTDIR)
        self.assertEqual(self.failure(tree.parent, b"d/f/g", create=True), errno.ENOTDIR)
        self.assertEqual(self.failure(tree.lstat, b"d/f/g"), errno.ENOTDIR)

    def test_errors_name_the_whole_path(self: TreeCase) -> None:
        error = self.assertRaises(LocalError, self.tree().unlink, b"d/x")
        self.assertTrue(str(error).startswith(os.fsdecode(self.root) + "/d/x: "), error)

    def test_root_may_be_a_link(self: TreeCase) -> None:
        link = os.path.join(self.top, b"link")
        os.symlink(b"root", link)
        self.assertEqual(listed(self.tree(link), b""), [(b"d", True)])

    def test_missing_root_is_an_empty_tree_until_it_is_created(self: TreeCase) -> None:
        missing = os.path.join(self.top, b"m", b"n")
        tree = self.tree(missing)
        self.assertEqual((tree.exists, listed(tree, b"")), (False, []))
        self.assertEqual((tree.lstat(b""), tree.lstat(b"x"), tree.lstat(b"x/y")), (None,) * 3)
        self.assertFalse(os.path.exists(missing))
        for _ in range(2):
            tree.create()
        self.assertTrue(tree.exists)
        tree.directory(b"x", create=True).close()
        self.assertEqual(os.listdir(missing), [b"x"])
        other = self.tree(os.path.join(self.top, b"o"))
        other.directory(b"x/y", create=True).close()
        self.assertEqual(listed(other, b"x"), [(b"y", True)])

    def test_root_that_is_not_a_directory(self: TreeCase) -> None:
        os.symlink(b"nowhere", os.path.join(self.top, b"dangling"))
        self.assertEqual(self.failure(self.tree, os.path.join(self.root, b"d/f")), errno.ENOTDIR)
        self.assertEqual(self.failure(self.tree, os.path.join(self.top, b"dangling")), errno.ENOENT)

    def test_empty_root_is_the_working_directory(self: TreeCase) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.root)
        tree = self.tree(b"")
        self.assertEqual((listed(tree, b""), tree.path_of(b"d")), ([(b"d", True)], b"d"))

    def test_no_descriptor_is_left_open(self: TreeCase) -> None:
        with self.tree() as tree:
            listed(tree, b"d")
            tree.lstat(b"d/f")
            tree.parent(b"n/o/p", create=True).close()
            self.failure(tree.parent, b"d/f/g/h", create=True)
            self.failure(tree.scan, b"d/f")
        tree.close()
        self.assertEqual(descriptors(), self.before)


class Openat2TreeTests(Trees, TreeCase):
    if choose_opener(open_without_links) is not open_without_links:
        skip = "no openat2 here"


class WalkedTreeTests(Trees, TreeCase):
    opener = staticmethod(open_by_walk)


class DirectoryTests(TreeCase):
    def test_links_in_the_path_are_followed(self) -> None:
        os.symlink(b"root", os.path.join(self.top, b"link"))
        with LocalDirectory.at(os.path.join(self.top, b"link", b"d")) as directory:
            self.assertIsNotNone(directory.lstat(b"f"))
            self.assertIsNone(directory.lstat(b"g"))

    def test_names_that_are_links_are_not_followed(self) -> None:
        os.symlink(os.path.join(self.outside, b"precious"), os.path.join(self.root, b"link"))
        with LocalDirectory.at(self.root) as directory:
            with self.assertRaises(OSError) as caught:
                directory.open(b"link", os.O_WRONLY | os.O_CREAT)
            self.assertEqual(caught.exception.errno, errno.ELOOP)
            found = directory.lstat(b"link")
            assert found is not None
            self.assertTrue(stat.S_ISLNK(found.st_mode))

    def test_missing_directory(self) -> None:
        for path in (b"none", b"d/f"):
            self.assertRaises(LocalError, LocalDirectory.at, os.path.join(self.root, path))
