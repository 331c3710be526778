"""Small files of the local directory, each read in one state, while others change the directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing
from typing import Any
from unittest import SkipTest

from natproxy.daemon.descriptors import PACK
from natproxy.kernel.openat2 import choose_opener, open_beneath, open_by_walk
from natproxy.storage import Changing, LocalStorage, NotFound, Snapshot, TooLarge
from natproxy.storage.interface import SNAPSHOT_TRIES
from natproxy.storage.local.snapshots import MOST_WAITED, TICK, SnapshotReader
from tests.support.storage import (
    CONTENT,
    INSIDE_LINKS,
    REFUSED,
    REFUSED_LINKS,
    OpenWatch,
    ServedCase,
    descriptors_left,
    within,
)

LARGEST = 1000


class BothOpeners:
    opener: staticmethod
    follows_links: bool

    def setUp(self) -> None:
        super().setUp()
        self.opened: list[bytes] = []

        def opener(directory: int, name: bytes, flags: int) -> int:
            self.opened.append(name)
            return self.opener(directory, name, flags)

        self.storage = LocalStorage(self.served, opener)

    def all(self, *names: bytes) -> list[Any]:
        with within(5), closing(self.storage.snapshots(names, LARGEST)) as snapshots:
            return list(snapshots)

    def one(self, name: bytes) -> Any:
        (found,) = self.all(name)
        return found

    def assert_found(self, name: bytes, content: bytes) -> None:
        self.assertEqual(self.one(name), Snapshot(self.storage.metadata(name), content))

    def during(self, function: str, *acts: Callable[[], object]) -> None:
        """Act after each of the next calls of a function of ``os``."""
        original = getattr(os, function)
        left = list(acts)

        def call(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            if left:
                # The act may call the function as well.
                left.pop(0)()
            return result

        self.patch(os, function, call)

    def replace(self, name: bytes, by: bytes) -> None:
        os.rename(self.path(by), self.path(name))

    def test_names_of_every_kind(self) -> None:
        for name in (b"\xff\xfe", b"a\nb", b"a b=c", b"%2e", b" ", b"...", b"sub/x" + b"x" * 250):
            self.put(name, name)
            self.assert_found(name, name)
        for name, content in CONTENT.items():
            self.assert_found(name, content)

    def test_same_names_as_for_open_are_not_found(self) -> None:
        names = (*REFUSED, *REFUSED_LINKS, b"absolute")
        self.assertEqual([type(each) for each in self.all(*names)], [NotFound] * len(names))

    def test_links_inside_are_followed_by_the_kernel_only(self) -> None:
        for name in (*INSIDE_LINKS, b"sublink/b.txt"):
            if self.follows_links:
                self.assert_found(name, self.read(self.storage, name))
            else:
                self.assertIsInstance(self.one(name), NotFound)

    def test_directory_is_opened_once_for_the_names_that_follow_one_another(self) -> None:
        names = [b"sub/%d" % number for number in range(5)]
        for name in names:
            self.put(name, name)
        found = self.all(b"a.txt", *names, b"sub/deep/c", b"b c", *names)
        self.assertEqual(len([each for each in found if isinstance(each, Snapshot)]), 13)
        self.assertEqual(self.opened, [b"sub", b"sub/deep", b"sub"])

    def test_fifo_and_device_are_not_opened(self) -> None:
        os.mkfifo(self.path(b"fifo"))
        os.symlink(b"fifo", self.path(b"tofifo"))
        watch = OpenWatch(self.path(b"fifo"))
        self.addCleanup(watch.close)
        for name in (b"fifo", b"tofifo", b"sub", b"sub/deep"):
            self.assertIsInstance(self.one(name), NotFound)
        self.assertFalse(watch.opened())

    def test_large_file_is_not_opened(self) -> None:
        self.put(b"large", bytes(LARGEST + 1))
        self.put(b"fitting", bytes(LARGEST))
        watch = OpenWatch(self.path(b"large"))
        self.addCleanup(watch.close)
        self.assertIsInstance(self.one(b"large"), TooLarge)
        self.assertFalse(watch.opened())
        self.assert_found(b"fitting", bytes(LARGEST))

    def test_file_that_changes_is_read_again(self) -> None:
        for change in (
            lambda: self.put(b"sub/b.txt", b"other"),
            lambda: self.put(b"sub/b.txt", b""),
            lambda: self.put(b"sub/b.txt", b"the b, longer"),
            lambda: os.chmod(self.path(b"sub/b.txt"), 0o600),
            lambda: os.utime(self.path(b"sub/b.txt"), (1, 1)),
        ):
            self.put(b"sub/b.txt", b"the b")
            os.utime(self.path(b"sub/b.txt"), (0, 0))
            self.during("read", change)
            found = self.one(b"sub/b.txt")
            self.assertEqual(found.metadata, self.storage.metadata(b"sub/b.txt"))
            with open(self.path(b"sub/b.txt"), "rb") as file:
                self.assertEqual(found.data, file.read())

    def test_change_within_one_granule_of_the_ctime_is_noticed(self) -> None:
        fstat = os.fstat

        def with_ctime_of_before(descriptor: int) -> os.stat_result:
            result = fstat(descriptor)
            return os.stat_result(result, {"st_ctime_ns": 1, "st_mtime_ns": result.st_mtime_ns})

        for change in (
            lambda: os.utime(self.path(b"a.txt"), (1, 1)),
            lambda: (self.put(b"a.txt", b"the a, longer"), os.utime(self.path(b"a.txt"), (0, 0))),
        ):
            self.put(b"a.txt", b"the a")
            os.utime(self.path(b"a.txt"), (0, 0))
            self.during("read", change)
            patched = self.patch(os, "fstat", with_ctime_of_before)
            found = self.one(b"a.txt")
            patched.restore()
            self.assertEqual(found.metadata[:3], self.storage.metadata(b"a.txt")[:3])
            self.assertEqual(len(found.data), found.metadata.size)

    def reader(self, now: Callable[[], int], sleep: Callable[[float], object]) -> SnapshotReader:
        root = os.open(self.served, os.O_RDONLY)
        self.addCleanup(os.close, root)
        reader = SnapshotReader(root, self.opener, self.storage.open, now=now, sleep=sleep)
        self.addCleanup(reader.close)
        return reader

    def test_second_change_within_one_tick_is_noticed(self) -> None:
        os.symlink(b"a.txt", self.path(b"latest"))
        for name in (b"a.txt", b"latest")[: 1 + self.follows_links]:
            self.put(b"a.txt", b"one")
            before = os.stat(self.path(b"a.txt"))
            clock = [before.st_ctime_ns + TICK // 4]

            def write(seconds: float, clock: list[int] = clock) -> None:
                # It leaves size and timestamps as they are.
                self.put(b"a.txt", b"two")
                clock[0] += round(seconds * 1e9)

            # As a kernel whose clock has not ticked between the two.
            patched = self.patch(os, "fstat", lambda descriptor, before=before: before)
            found = self.reader(lambda clock=clock: clock[0], write).read(name, LARGEST)
            patched.restore()
            self.assertEqual((found.data, clock), (b"two", [before.st_ctime_ns + TICK]))

    def test_file_is_not_waited_for_once_its_tick_is_over_or_by_another_clock(self) -> None:
        changed = os.stat(self.path(b"a.txt")).st_ctime_ns
        for now in (changed + TICK, changed - 1):
            reader = self.reader(lambda now=now: now, self.fail)
            self.assertEqual(reader.read(b"a.txt", LARGEST).data, b"the a")

    def test_wait_for_files_that_always_change_is_bounded(self) -> None:
        changed = os.stat(self.path(b"a.txt")).st_ctime_ns
        waits: list[float] = []
        reader = self.reader(lambda: changed, waits.append)
        found = [reader.read(b"a.txt", LARGEST) for _ in range(100)]
        self.assertEqual(sum(waits) * 1e9, MOST_WAITED)
        kinds = [type(each) for each in found]
        self.assertEqual(kinds, [Snapshot] * len(waits) + [Changing] * (100 - len(waits)))

    def test_file_that_is_read_short_is_given_up(self) -> None:
        read = os.read
        self.patch(os, "read", lambda descriptor, size: read(descriptor, size - 1))
        self.assertIsInstance(self.one(b"a.txt"), Changing)

    def test_file_that_always_changes_is_given_up(self) -> None:
        def grow() -> None:
            with open(self.path(b"a.txt"), "ab") as file:
                file.write(b"x")

        self.during("read", *[grow] * SNAPSHOT_TRIES)
        self.assertIsInstance(self.one(b"a.txt"), Changing)
        self.assertEqual(self.one(b"a.txt").data, b"the a" + b"x" * SNAPSHOT_TRIES)

    def test_file_that_is_replaced_before_it_is_opened(self) -> None:
        os.symlink(b"b.txt", self.path(b"sub/link"))
        os.symlink(b"../../outside/secret", self.path(b"sub/out"))
        os.mkfifo(self.path(b"sub/fifo"))
        os.mkdir(self.path(b"sub/directory"))
        self.put(b"sub/large", bytes(LARGEST + 1))
        self.put(b"sub/other", b"other")
        followed = Snapshot if self.follows_links else NotFound
        for source, kind in (
            (b"sub/other", Snapshot),
            (b"sub/large", TooLarge),
            (b"sub/fifo", NotFound),
            (b"sub/out", NotFound),
            (b"sub/link", followed),
        ):
            self.put(b"sub/a", b"the a")
            self.during("stat", lambda source=source: self.replace(b"sub/a", source))
            found, other = self.all(b"sub/a", b"sub/b.txt")
            self.assertIsInstance(found, kind, source)
            self.assertIsInstance(other, Snapshot)
            if kind is Snapshot:
                self.assertEqual(found.data, b"the b" if source == b"sub/link" else b"other")
            os.unlink(self.path(b"sub/a"))

    def test_file_that_becomes_a_directory_or_vanishes(self) -> None:
        def remove() -> None:
            os.unlink(self.path(b"a.txt"))

        def make_directory() -> None:
            remove()
            os.mkdir(self.path(b"a.txt"))

        self.during("stat", remove)
        self.assertIsInstance(self.one(b"a.txt"), NotFound)
        self.put(b"a.txt", b"again")
        self.during("stat", make_directory)
        self.assertIsInstance(self.one(b"a.txt"), NotFound)

    def test_file_that_is_replaced_while_it_is_read_stays_what_it_was(self) -> None:
        self.put(b"other", b"other")
        metadata = self.storage.metadata(b"a.txt")
        self.during("open", lambda: None, lambda: self.replace(b"a.txt", b"other"))
        found = self.one(b"a.txt")
        # Its ctime has changed: the name was removed.
        self.assertIn(found.data, (b"the a", b"other"))
        if found.data == b"the a":
            self.assertEqual(found.metadata[:3], metadata[:3])
        else:
            self.assertEqual(found.metadata, self.storage.metadata(b"a.txt"))

    def test_work_ends_before_the_next_file_when_it_is_cancelled(self) -> None:
        checks = iter((None, None, ZeroDivisionError))

        def check() -> None:
            failure = next(checks)
            if failure is not None:
                raise failure

        names = [b"a.txt", b"sub/b.txt", b"b c"]
        snapshots = self.storage.snapshots(names, LARGEST, check)
        self.assertEqual([next(snapshots).data for _ in range(2)], [b"the a", b"the b"])
        self.assertRaises(ZeroDivisionError, next, snapshots)

    def test_path_that_is_too_long_is_not_found_in_an_open_directory(self) -> None:
        above = b"/".join([b"d" * 245] * 16)
        directory = os.open(self.served, os.O_RDONLY)
        for component in above.split(b"/"):
            os.mkdir(component, dir_fd=directory)
            below = os.open(component, os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = below
        for last in (b"x" * 100, b"x" * 200):
            os.close(os.open(last, os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        os.close(directory)
        found = self.all(above + b"/" + b"x" * 100, above + b"/" + b"x" * 200)
        self.assertEqual([type(each) for each in found], [Snapshot, NotFound])

    def test_failure_of_the_caller_is_not_a_missing_directory(self) -> None:
        def check() -> None:
            raise NotFound

        with self.assertRaises(NotFound):
            list(self.storage.snapshots([b"a.txt"], LARGEST, check))

    def test_missing_directory_has_no_files(self) -> None:
        for path in (self.path(b"nowhere"), self.path(b"a.txt")):
            self.storage = LocalStorage(path, self.opener)
            self.assertEqual([type(each) for each in self.all(b"a", b"b")], [NotFound] * 2)

    def test_file_that_cannot_be_read_is_not_found_and_a_failure_is_none(self) -> None:
        for code, kind in (
            (errno.EACCES, NotFound),
            (errno.EPERM, NotFound),
            (errno.EIO, OSError),
            (errno.ENOMEM, OSError),
        ):

            def failing(*_: object, code: int = code, **__: object) -> bytes:
                raise OSError(code, os.strerror(code))

            patched = self.patch(os, "read", failing)
            found = self.all(b"a.txt", b"sub", b"b c")
            patched.restore()
            self.assertIsInstance(found[0], kind)
            self.assertIsInstance(found[1], NotFound)
            # An empty file is not read.
            self.assertIsInstance(found[2], Snapshot)

    def test_files_in_deep_directories_take_no_more_descriptors(self) -> None:
        deep = b"/".join([b"d"] * 50)
        os.makedirs(self.path(deep))
        for name in (deep + b"/a", deep + b"/b"):
            self.put(name, b"deep")
        os.symlink(b"a", self.path(deep + b"/link"))
        with descriptors_left(PACK):
            found = self.all(*(deep + name for name in (b"/a", b"/link", b"/b")), b"a.txt")
        links = [b"deep"] if self.follows_links else []
        self.assertEqual(
            [each.data for each in found if isinstance(each, Snapshot)],
            [b"deep", *links, b"deep", b"the a"],
        )
        self.assertFalse([each for each in found if isinstance(each, OSError)])

    def test_lack_of_descriptors_is_not_reported_as_not_found(self) -> None:
        for left in range(4):
            with descriptors_left(left):
                try:
                    found = self.all(b"a.txt", b"sub/b.txt")
                except OSError as error:
                    self.assertEqual((error.errno, left), (errno.EMFILE, 0))
                    continue
            for each in found:
                self.assertIsInstance(each, (Snapshot, OSError))
        self.assertEqual([each.data for each in found], [b"the a", b"the b"])


class BeneathTests(BothOpeners, ServedCase):
    opener = staticmethod(open_beneath)
    follows_links = True

    def setUp(self) -> None:
        if choose_opener() is not open_beneath:
            raise SkipTest("no openat2 here")
        super().setUp()


class WalkTests(BothOpeners, ServedCase):
    opener = staticmethod(open_by_walk)
    follows_links = False
