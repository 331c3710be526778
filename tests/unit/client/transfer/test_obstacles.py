"""What may have the path of a directory or of a file that is to be mirrored."""

from __future__ import annotations

import errno
import os
import stat

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.errors import LocalError
from natproxy.client.transfer.obstacles import DEEPEST, directory_error, file_error
from natproxy.client.transfer.traversal import LocalEntry
from natproxy.client.transfer.tree import LocalTree

DIRECTORY = LocalEntry(b"a", stat.S_IFDIR)
FILE = LocalEntry(b"a", stat.S_IFREG)
LINK = LocalEntry(b"a", stat.S_IFLNK)
FIFO = LocalEntry(b"a", stat.S_IFIFO)


class ObstacleTests(SynchronousTestCase):
    def setUp(self) -> None:
        path = self.mktemp()
        os.mkdir(path)
        self.tree = LocalTree(os.fsencode(path))

    def directory(self, local: LocalEntry | None, path: bytes = b"a") -> str:
        return str(directory_error(self.tree, path, local) or "")

    def file(self, local: LocalEntry | None, found: LocalEntry | None) -> str:
        return str(file_error(self.tree, b"a", local, found) or "")

    def test_nothing_and_the_same_kind_are_none(self) -> None:
        self.assertEqual((self.directory(None), self.directory(DIRECTORY)), ("", ""))
        self.assertEqual((self.file(None, None), self.file(FILE, FILE)), ("", ""))
        self.assertEqual((self.file(LINK, FILE), self.file(LINK, None)), ("", ""))

    def test_another_kind(self) -> None:
        self.assertIn("is a file here, a directory there", self.directory(FILE))
        self.assertIn("is a link here, a directory there", self.directory(LINK))
        self.assertIn("is a directory here, a file there", self.file(DIRECTORY, DIRECTORY))
        self.assertIn("is a directory here, a file there", self.file(LINK, DIRECTORY))
        self.assertIn("neither a file nor a link", self.file(FIFO, FIFO))

    def test_entry_that_cannot_be_read(self) -> None:
        error = LocalError(b"a", OSError(errno.EIO, "bad disk"))
        self.assertIs(directory_error(self.tree, b"a", LocalEntry(b"a", 0, error=error)), error)

    def test_depth(self) -> None:
        self.assertEqual(self.directory(None, b"/".join([b"a"] * DEEPEST)), "")
        self.assertIn("is too deep", self.directory(None, b"/".join([b"a"] * (DEEPEST + 1))))
