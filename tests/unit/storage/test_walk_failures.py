"""Listings of a tree that changes, or fails, meanwhile, for both openers."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable

from natproxy.kernel.openat2 import choose_opener, open_beneath, open_by_walk
from natproxy.protocol import Page
from natproxy.storage import LocalStorage, NotFound
from natproxy.storage.interface import Check, unchecked
from natproxy.storage.local.scans import Runs, Scans
from tests.support.storage import PagesCase, descriptors, descriptors_left, page_of


class Failing(Scans):
    """Cannot read one directory."""

    def __init__(self, directory: os.stat_result, code: int) -> None:
        super().__init__()
        self.directory = directory
        self.code = code

    def of(self, directory: int, check: Check = unchecked) -> Runs:
        if os.path.samestat(os.fstat(directory), self.directory):
            raise OSError(self.code, os.strerror(self.code))
        return super().of(directory, check)


class Afterwards(Scans):
    """Changes something after the first scan."""

    def __init__(self, change: Callable[[], None]) -> None:
        super().__init__()
        self.changes = [change]

    def of(self, directory: int, check: Check = unchecked) -> Runs:
        runs = super().of(directory, check)
        if self.changes:
            self.changes.pop()()
        return runs


class BothOpeners:
    """What is the same, whichever way names are opened."""

    def test_lack_of_descriptors_never_shortens_a_page(self) -> None:
        whole = self.page(b"", math.inf, b"", 1000)
        metadata = self.storage.metadata(b"sub/deep/c")
        for left in range(8):
            before = descriptors()
            try:
                with descriptors_left(left):
                    page = self.page(b"", math.inf, b"", 1000)
                    self.assertEqual(self.storage.metadata(b"sub/deep/c"), metadata)
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
            storage = LocalStorage(self.served, self.opener, Failing(sub, code))
            entries = list(self.pages(storage=storage))
            self.assertEqual([entry.name for entry in entries], left)
            self.assertEqual([entry.name for entry in entries if entry.unread], [b"sub"])
            self.assertEqual(page_of(storage, b"", math.inf, b"", 1000).page.unread, 1)

    def test_directory_that_vanishes_is_not_marked(self) -> None:
        left = [name for name in self.model() if not name.startswith(b"sub/")]
        sub = os.stat(self.path(b"sub"))
        storage = LocalStorage(self.served, self.opener, Failing(sub, errno.ENOENT))
        self.assertEqual(self.names(storage=storage), left)
        self.assertEqual(page_of(storage, b"", math.inf, b"", 1000).page, Page())

    def test_listing_of_an_unreadable_directory_fails(self) -> None:
        sub = os.stat(self.path(b"sub"))
        for code in (errno.EACCES, errno.ENOENT):
            storage = LocalStorage(self.served, self.opener, Failing(sub, code))
            self.assertRaises(NotFound, page_of, storage, b"sub", 1, b"", 10)
        for code in (errno.EIO, errno.EMFILE):
            before = descriptors()
            storage = LocalStorage(self.served, self.opener, Failing(sub, code))
            with self.assertRaises(OSError) as caught:
                page_of(storage, b"sub", math.inf, b"", 1000)
            self.assertEqual(caught.exception.errno, code)
            self.assertLessEqual(descriptors(), before)

    def test_lack_of_memory_fails_a_page(self) -> None:
        sub = os.stat(self.path(b"sub"))
        for code in (errno.ENOMEM, errno.ENFILE):
            storage = LocalStorage(self.served, self.opener, Failing(sub, code))
            self.assertRaises(OSError, page_of, storage, b"", math.inf, b"", 1000)

    def test_directory_that_is_replaced_after_the_scan_is_not_descended_into(self) -> None:
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
            storage = LocalStorage(self.served, self.opener, Afterwards(change))
            names = self.names(storage=storage)
            self.assertEqual(names, self.model())
            self.assertIn(b"other/x", names)
            if os.path.lexists(self.path(b"sub")):
                os.unlink(self.path(b"sub"))
            os.rename(self.path(b"../gone"), self.path(b"sub"))

    def test_directory_that_vanishes_before_the_walk_returns_is_left(self) -> None:
        def vanishing(directory: int, name: bytes, flags: int) -> int:
            if name == b"sub" and flags & os.O_NOFOLLOW:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
            return self.opener(directory, name, flags)

        self.put(b"sub/z", b"")
        self.put(b"zz", b"")
        names = self.names(storage=LocalStorage(self.served, vanishing))
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
