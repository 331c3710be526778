"""Entries that exist and cannot be read: listed as unread, never left out."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable

from natproxy.fileserver.pages import PageReply, make_page
from natproxy.kernel.openat2 import DIRECTORY as DIRECTORY_FLAGS
from natproxy.kernel.openat2 import choose_opener, open_beneath, open_by_walk
from natproxy.protocol import UNREAD_METADATA, Entry, Page
from natproxy.storage import LocalStorage
from natproxy.storage.local.scans import Scans
from natproxy.storage.local.walk import Tree
from tests.support.storage import PagesCase, ServedCase, descriptors, page_of, parsed

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EXDEV)
UNREAD = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINVAL)

# Prints what a server that runs as another user lists; or fails.


def failure(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class UnreadCase(PagesCase):
    """Lets ``stat`` or ``open`` of a name fail."""

    def fail_stat(self, name: bytes, code: int) -> None:
        """Let ``stat`` of that name fail, in any directory."""
        stat_ = os.stat

        def failing(path: bytes, **named: object) -> os.stat_result:
            if path == name:
                raise failure(code)
            return stat_(path, **named)

        self.patch(os, "stat", failing)

    def fail_open(self, wanted: Callable[[bytes, int], bool], code: int) -> None:
        """Fail to open the names, with the flags, that are wanted."""
        open_ = os.open

        def failing(path: bytes, flags: int, *mode: int, **named: int) -> int:
            if isinstance(path, bytes) and wanted(path, flags):
                raise failure(code)
            return open_(path, flags, *mode, **named)

        self.patch(os, "open", failing)

    def found(self, storage: LocalStorage | None = None) -> dict[bytes, Entry]:
        return {entry.name: entry for entry in self.pages(storage=storage)}


class BothOpeners:
    """What is the same, whichever way names are opened."""

    def test_entry_whose_metadata_cannot_be_read_is_listed(self) -> None:
        whole = self.names()
        for code in UNREAD:
            self.fail_stat(b"b.txt", code)
            found = self.found()
            self.assertEqual(list(found), whole)
            self.assertEqual(found[b"sub/b.txt"].metadata, UNREAD_METADATA, code)
            paged = self.page(b"sub", 1, b"", 1000)
            self.assertEqual(paged.page, Page(unread=1))
            self.assertIn(b"type=unread size=0 mtime=0.0 etag=- sub/b.txt\n", paged.body)

    def test_absent_entry_is_left_out(self) -> None:
        for code in NOT_THERE:
            self.fail_stat(b"b.txt", code)
            self.assertNotIn(b"sub/b.txt", self.found())
            self.assertEqual(self.page(b"sub", 1, b"", 1000).page.unread, 0)

    def test_lack_of_descriptors_or_memory_fails_the_page(self) -> None:
        for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            self.fail_stat(b"b.txt", code)
            self.assertRaises(OSError, self.page, b"", math.inf, b"", 1000)

    def test_unread_entries_are_counted_for_each_page(self) -> None:
        self.fail_stat(b"b.txt", errno.EACCES)
        counts = []
        after = b""
        more = True
        while more:
            paged = self.page(b"sub", math.inf, after, 1)
            entries, more = parsed(paged)
            counts.append((entries[0].name, paged.page.unread))
            after = paged.page.after or entries[-1].name
        self.assertEqual(counts[0], (b"sub/b.txt", 1))
        self.assertEqual({count for _, count in counts[1:]}, {0})

    def test_directory_that_cannot_be_opened_is_marked_if_it_would_be_descended_into(
        self,
    ) -> None:
        self.fail_open(lambda path, flags: path == b"sub" and bool(flags & os.O_DIRECTORY), 13)
        for depth, marked in ((1, []), (2, [b"sub"]), (math.inf, [b"sub"])):
            entries, _ = parsed(self.page(b"", depth, b"", 1000))
            self.assertEqual([entry.name for entry in entries if entry.unread], marked)
            self.assertIn(b"sub", [entry.name for entry in entries])

    def test_directory_that_cannot_be_searched_is_marked_and_not_descended_into(self) -> None:
        sub = os.stat(self.path(b"sub"))
        stat_ = os.stat

        def failing(path: bytes, **named: object) -> os.stat_result:
            result = stat_(path, **named)
            if path == b"." and os.path.samestat(result, sub):
                raise failure(errno.EACCES)
            return result

        self.patch(os, "stat", failing)
        found = self.found()
        self.assertTrue(found[b"sub"].unread)
        self.assertEqual([name for name in found if name.startswith(b"sub/")], [])

    def test_unread_directory_at_the_end_of_a_page_does_not_stop_the_walk(self) -> None:
        self.put(b"sub-x", b"")
        self.put(b"zz", b"")
        self.fail_open(lambda path, flags: path == b"sub" and bool(flags & os.O_DIRECTORY), 13)
        whole = [name for name in self.model() if not name.startswith(b"sub/")]
        for self.follows_header in (True, False):
            for limit in (1, 2, 3):
                self.assertEqual(self.names(limits=[limit]), whole)

    def test_directory_that_becomes_unreadable_between_pages_fails_the_next(self) -> None:
        # Inside of it, and where it is about to be entered.
        marks = (b"sub/b.txt", b"sub/")
        for after in marks:
            self.assertNotEqual(self.page(b"", math.inf, after, 1).body, b"")
        self.fail_open(lambda path, flags: path == b"sub" and bool(flags & os.O_DIRECTORY), 13)
        for after in marks:
            with self.assertRaises(OSError) as caught:
                self.page(b"", math.inf, after, 1000)
            self.assertEqual(caught.exception.errno, errno.EACCES)
            self.assertEqual(caught.exception.filename, "sub/")

    def test_position_before_the_entries_of_a_directory_shows_that_it_was_readable(self) -> None:
        whole = self.names()
        limit = whole.index(b"sub") + 1
        paged = self.page(b"", math.inf, b"", limit)
        entries, more = parsed(paged)
        self.assertEqual((entries[-1].name, more), (b"sub", True))
        self.assertEqual(paged.page.after, b"sub/")

    def test_directory_whose_line_is_on_an_earlier_page_is_not_counted_again(self) -> None:
        self.fail_open(lambda path, flags: path == b"sub" and bool(flags & os.O_DIRECTORY), 13)
        paged = self.page(b"", math.inf, b"sub", 1000)
        self.assertEqual(paged.page.unread, 0)

    def test_position_right_after_a_directory_shows_that_it_was_readable(
        self,
    ) -> None:
        self.put(b"sub-x", b"")
        whole = self.names()
        limit = whole.index(b"sub") + 1
        self.assertEqual(whole[limit], b"sub-x")
        after = self.page(b"", math.inf, b"", limit).page.after
        self.assertEqual(after, b"sub\0")
        rest, _ = parsed(self.page(b"", math.inf, b"sub\0", 1000))
        self.assertEqual([entry.name for entry in rest], whole[limit:])
        # It will not be entered.
        limit = self.model(depth=1).index(b"sub") + 1
        self.assertIsNone(self.page(b"", 1, b"", limit).page.after)
        self.fail_open(lambda path, flags: path == b"sub" and bool(flags & os.O_DIRECTORY), 13)
        self.assertRaises(OSError, self.page, b"", math.inf, b"sub\0", 1000)

    def test_directory_is_counted_if_another_name_lies_between_it_and_its_content(self) -> None:
        for name in (b"sub-x", b"sub-y", b"zz"):
            self.put(name, b"")
        self.fail_open(lambda path, flags: path == b"sub" and bool(flags & os.O_DIRECTORY), 13)
        for after, limit, names, unread in (
            (b"sub", 1000, [b"sub-x", b"sub-y", b"zz"], 0),
            (b"sub-x", 1000, [b"sub-y", b"zz"], 1),
            # The page ends after the directory was counted, and the next one counts it again.
            (b"sub-x", 1, [b"sub-y"], 1),
            (b"sub-y", 1, [], 1),
        ):
            paged = self.page(b"", math.inf, after, limit)
            entries, _ = parsed(paged)
            found = [entry.name for entry in entries]
            self.assertEqual(found, [name for name in found if name > after])
            self.assertEqual([name for name in names if name not in found], [])
            self.assertEqual(paged.page.unread, unread, after)
            self.assertFalse(paged.page.after and paged.page.after.startswith(b"sub/"))

    def test_directory_that_becomes_unreadable_during_a_page_fails_it(self) -> None:
        opened: list[bytes] = []

        def second_time(path: bytes, flags: int) -> bool:
            if path == b"sub" and flags & os.O_DIRECTORY:
                opened.append(path)
            return len(opened) > 1

        self.fail_open(second_time, errno.EACCES)
        self.assertRaises(OSError, self.page, b"", math.inf, b"", 1000)


class BeneathTests(BothOpeners, UnreadCase):
    """``openat2``."""

    opener = staticmethod(open_beneath)
    follows_links = True
    if choose_opener() is not open_beneath:
        skip = "no openat2 here"

    def test_link_whose_target_may_be_there_is_unread(self) -> None:
        for code in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE):
            found = self.found(self.failing_link(code))
            self.assertEqual(found[b"insub"].metadata, UNREAD_METADATA)

    def test_link_that_leads_nowhere_is_left_out(self) -> None:
        for code in (*NOT_THERE, errno.ENAMETOOLONG, errno.EINVAL, errno.EOVERFLOW):
            self.assertNotIn(b"insub", self.found(self.failing_link(code)))

    def failing_link(self, code: int) -> LocalStorage:
        def opener(directory: int, name: bytes, flags: int) -> int:
            if name == b"insub":
                raise failure(code)
            return open_beneath(directory, name, flags)

        return LocalStorage(self.served, opener)


class WalkTests(BothOpeners, UnreadCase):
    """One component at a time."""

    opener = staticmethod(open_by_walk)
    follows_links = False


class BoundsTests(PagesCase):
    """The bounds of one page."""

    opener = staticmethod(choose_opener())
    follows_links = choose_opener() is open_beneath

    def bounded_page(
        self, after: bytes, steps: int = 5, clock: Callable[[], float] = float
    ) -> PageReply:
        root = os.open(self.served, DIRECTORY_FLAGS)
        tree = Tree(root, self.opener, Scans())
        try:
            return make_page(tree.walk(b"", math.inf, after), 1000, clock, steps)
        finally:
            tree.close()
            os.close(root)

    def test_page_of_few_steps_has_a_position_to_continue_from(self) -> None:
        for number in range(50):
            os.symlink(b"../outside", self.path(b"m%02d" % number))
        found: list[bytes] = []
        after = b""
        pages = 0
        more = True
        while more:
            paged = self.bounded_page(after)
            entries, more = parsed(paged)
            found += [entry.name for entry in entries]
            if more:
                before, after = after, paged.page.after or entries[-1].name
                self.assertGreater(after, before)
            pages += 1
        self.assertEqual(found, self.model())
        self.assertGreater(pages, 10)

    def test_page_ends_after_a_time_and_has_at_least_one_step(self) -> None:
        ticks = iter(range(0, 10**6, 1000))
        paged = self.bounded_page(b"", 10**6, lambda: float(next(ticks)))
        self.assertEqual(parsed(paged), (parsed(self.bounded_page(b"", 1))[0], True))

    def test_exception_of_the_check_ends_walks_and_scans(self) -> None:
        class Cancelled(Exception):
            pass

        def until(calls: int) -> Callable[[], None]:
            left = iter(range(calls))

            def check() -> None:
                if next(left, None) is None:
                    raise Cancelled

            return check

        before = descriptors()
        for calls in range(6):
            check = until(calls)
            self.assertRaises(Cancelled, page_of, self.storage, b"", math.inf, b"", 1000, check)
            self.assertRaises(Cancelled, self.storage.top_files, until(calls))
            self.assertLessEqual(descriptors(), before)


class ListingTests(ServedCase):
    """Entries of the top directory whose type cannot be read."""

    def test_entry_whose_type_cannot_be_read_is_reported(self) -> None:
        storage = LocalStorage(self.served)
        names, unread = storage.top_files()
        whole = list(names)
        self.assertEqual(unread, ())
        scandir = os.scandir
        test = self

        class Entries:
            def __init__(self, directory: int) -> None:
                self.entries = scandir(directory)

            def __enter__(self) -> object:
                return map(Entry, self.entries)

            def __exit__(self, *_: object) -> None:
                self.entries.close()

        class Entry:
            def __init__(self, entry: os.DirEntry[str]) -> None:
                self.entry = entry
                self.name = entry.name
                self.is_symlink = entry.is_symlink

            def is_file(self, follow_symlinks: bool) -> bool:
                if self.name == "a.txt":
                    raise failure(test.code)
                return self.entry.is_file(follow_symlinks=follow_symlinks)

        self.patch(os, "scandir", Entries)
        self.code = errno.EACCES
        names, unread = storage.top_files()
        self.assertEqual(unread, (b"a.txt",))
        self.assertEqual(list(names), [name for name in whole if name != b"a.txt"])
        self.code = errno.EMFILE
        self.assertRaises(OSError, storage.top_files)
