"""What a page says of a tree that changes, or fails, while it is made: for both openers."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable

from natproxy.protocol import Page
from natproxy.storage import (
    Directory,
    FileNotFound,
    choose_opener,
    open_beneath,
    open_by_walk,
)
from natproxy.storage.local.scans import Check, Runs, Scans, unchecked
from tests.support.storage import PagesCase, descriptors, descriptors_left


class Failing(Scans):
    """Cannot read one folder."""

    def __init__(self, folder: os.stat_result, code: int) -> None:
        super().__init__()
        self.folder = folder
        self.code = code

    def of(self, folder: int, check: Check = unchecked) -> Runs:
        if os.path.samestat(os.fstat(folder), self.folder):
            raise OSError(self.code, os.strerror(self.code))
        return super().of(folder, check)


class Afterwards(Scans):
    """Changes something after the first scan."""

    def __init__(self, change: Callable[[], None]) -> None:
        super().__init__()
        self.changes = [change]

    def of(self, folder: int, check: Check = unchecked) -> Runs:
        runs = super().of(folder, check)
        if self.changes:
            self.changes.pop()()
        return runs


class BothOpeners:
    """What is the same, whichever way names are opened."""

    def test_lack_of_descriptors_never_shortens_a_page(self) -> None:
        whole = self.directory.page(b"", math.inf, b"", 1000)
        metadata = self.directory.metadata(b"sub/deep/c")
        for left in range(8):
            before = descriptors()
            try:
                with descriptors_left(left):
                    page = self.directory.page(b"", math.inf, b"", 1000)
                    self.assertEqual(self.directory.metadata(b"sub/deep/c"), metadata)
            except OSError as error:
                self.assertEqual(error.errno, errno.EMFILE)
                self.assertLess(left, 6)
            else:
                self.assertEqual(page, whole, f"with {left} descriptors left")
            self.assertLessEqual(descriptors(), before)

    def test_directory_that_fails_to_be_read_when_its_line_is_written_is_marked(self) -> None:
        left = [name for name in self.model() if not name.startswith(b"sub/")]
        sub = os.stat(self.path(b"sub"))
        for code in (errno.EACCES, errno.EIO, errno.ESTALE):
            directory = Directory(self.served, self.opener, Failing(sub, code))
            entries = list(self.pages(directory=directory))
            self.assertEqual([entry.name for entry in entries], left)
            self.assertEqual([entry.name for entry in entries if entry.unread], [b"sub"])
            self.assertEqual(directory.page(b"", math.inf, b"", 1000).page.unread, 1)

    def test_directory_that_vanishes_is_not_marked(self) -> None:
        left = [name for name in self.model() if not name.startswith(b"sub/")]
        sub = os.stat(self.path(b"sub"))
        directory = Directory(self.served, self.opener, Failing(sub, errno.ENOENT))
        self.assertEqual(self.names(directory=directory), left)
        self.assertEqual(directory.page(b"", math.inf, b"", 1000).page, Page())

    def test_directory_itself_that_cannot_be_read_is_not_an_empty_page(self) -> None:
        sub = os.stat(self.path(b"sub"))
        for code in (errno.EACCES, errno.ENOENT):
            directory = Directory(self.served, self.opener, Failing(sub, code))
            self.assertRaises(FileNotFound, directory.page, b"sub", 1, b"", 10)
        for code in (errno.EIO, errno.EMFILE):
            before = descriptors()
            directory = Directory(self.served, self.opener, Failing(sub, code))
            with self.assertRaises(OSError) as caught:
                directory.page(b"sub", math.inf, b"", 1000)
            self.assertEqual(caught.exception.errno, code)
            self.assertLessEqual(descriptors(), before)

    def test_lack_of_memory_fails_a_page(self) -> None:
        sub = os.stat(self.path(b"sub"))
        for code in (errno.ENOMEM, errno.ENFILE):
            directory = Directory(self.served, self.opener, Failing(sub, code))
            self.assertRaises(OSError, directory.page, b"", math.inf, b"", 1000)

    def test_folder_that_is_replaced_after_the_scan_is_not_descended_into(self) -> None:
        def gone() -> None:
            os.rename(self.path(b"sub"), self.path(b"../gone"))

        def linked() -> None:
            gone()
            os.symlink(b"other", self.path(b"sub"))

        def filed() -> None:
            gone()
            self.put(b"sub", b"now a file")

        os.mkdir(self.path(b"other"))
        self.put(b"other/x", b"")
        for change in (gone, linked, filed):
            directory = Directory(self.served, self.opener, Afterwards(change))
            names = self.names(directory=directory)
            self.assertEqual(names, self.model())
            self.assertIn(b"other/x", names)
            if os.path.lexists(self.path(b"sub")):
                os.unlink(self.path(b"sub"))
            os.rename(self.path(b"../gone"), self.path(b"sub"))

    def test_folder_that_vanishes_before_the_walk_comes_back_is_left(self) -> None:
        def vanishing(folder: int, name: bytes, flags: int) -> int:
            if name == b"sub" and flags & os.O_NOFOLLOW:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
            return self.opener(folder, name, flags)

        self.put(b"sub/z", b"")
        self.put(b"zz", b"")
        names = self.names(directory=Directory(self.served, vanishing))
        self.assertIn(b"sub/deep/c", names)
        self.assertIn(b"zz", names)
        self.assertNotIn(b"sub/z", names)


class BeneathTests(BothOpeners, PagesCase):
    """``openat2``."""

    opener = staticmethod(open_beneath)
    follows_links = True
    if choose_opener() is not open_beneath:
        skip = "no openat2 here"


class WalkTests(BothOpeners, PagesCase):
    """One component at a time."""

    opener = staticmethod(open_by_walk)
    follows_links = False
