"""Metadata and etags of local files and directories, for both openers."""

from __future__ import annotations

import os
import socket
import string
from contextlib import closing

from natproxy.kernel.openat2 import choose_opener, open_beneath, open_by_walk
from natproxy.protocol import DIRECTORY, FILE
from natproxy.storage import LocalStorage
from natproxy.storage.local.metadata import metadata_of
from tests.support.storage import (
    REFUSED,
    REFUSED_LINKS,
    OpenWatch,
    PagesCase,
    ServedCase,
)


class BothOpeners:
    """What is the same, whichever way names are opened."""

    def test_only_regular_files_and_directories_inside_have_metadata(self) -> None:
        metadata = self.storage.metadata(b"a.txt")
        self.assertEqual((metadata.type, metadata.size), (FILE, 5))
        self.assertEqual(metadata, metadata_of(os.stat(self.path(b"a.txt"))))
        for name in (b"sub", b"sub/deep", b""):
            metadata = self.storage.metadata(name)
            self.assertEqual((metadata.type, metadata.size), (DIRECTORY, 0))
            self.assertEqual(metadata, metadata_of(os.stat(self.path(name))))
        for name in {*REFUSED, *REFUSED_LINKS, b"absolute"} - {b"", b"sub", b"sub/deep"}:
            self.assert_without_metadata(name)
        for path in (self.path(b"nowhere"), self.path(b"a.txt")):
            for name in (b"", b"a.txt"):
                self.assert_without_metadata(name, LocalStorage(path, self.opener))

    def test_metadata_is_that_of_the_open_file(self) -> None:
        for name in (b"a.txt", b"sub/b.txt"):
            with closing(self.storage.open(name)) as file:
                self.assertEqual(file.metadata, self.storage.metadata(name))
                self.assertEqual(file.metadata.size, file.size)
                self.assertEqual(file.identity, file.current_identity())

    def test_fifos_and_sockets_are_left_out_and_never_opened(self) -> None:
        os.mkfifo(self.path(b"fifo"))
        os.symlink(b"fifo", self.path(b"tofifo"))
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.path(b"sock"))
        watch = OpenWatch(self.path(b"fifo"))
        self.addCleanup(watch.close)
        self.assertFalse({b"fifo", b"tofifo", b"sock"} & set(self.names()))
        for name in (b"fifo", b"tofifo", b"sock", b"fifo/"):
            self.assert_without_metadata(name)
        self.assertFalse(watch.opened())


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


class EtagTests(ServedCase):
    """When an etag changes."""

    def etag(self, name: bytes) -> str:
        return LocalStorage(self.served).metadata(name).etag

    def test_it_is_a_short_word(self) -> None:
        for name in (b"a.txt", b"sub", b""):
            etag = self.etag(name)
            self.assertLessEqual(len(etag), 32)
            self.assertLessEqual(set(etag), {*string.ascii_letters, *string.digits, *"-_"})

    def test_it_changes_with_the_content(self) -> None:
        os.utime(self.path(b"a.txt"), ns=(0, 10**9))
        seen = [self.etag(b"a.txt")]
        self.put(b"new", b"the b")
        os.utime(self.path(b"new"), ns=(0, 10**9))
        os.rename(self.path(b"new"), self.path(b"a.txt"))
        seen.append(self.etag(b"a.txt"))
        os.truncate(self.path(b"a.txt"), 4)
        os.utime(self.path(b"a.txt"), ns=(0, 10**9))
        seen.append(self.etag(b"a.txt"))
        os.utime(self.path(b"a.txt"), ns=(0, 10**9 + 1))
        seen.append(self.etag(b"a.txt"))
        self.assertEqual(len(set(seen)), len(seen))

    def test_it_changes_with_each_field_of_the_identity(self) -> None:
        result = os.stat(self.path(b"a.txt"))
        mode, inode, device, *rest = result
        times = {"st_mtime_ns": result.st_mtime_ns, "st_ctime_ns": result.st_ctime_ns}
        alike = os.stat_result(tuple(result), times)
        larger = os.stat_result((*result[:6], result.st_size + 1, *result[7:]), times)
        others = [
            larger,
            os.stat_result((mode, inode + 1, device, *rest), times),
            os.stat_result((mode, inode, device + 1, *rest), times),
            *(os.stat_result(tuple(result), {**times, key: times[key] + 1}) for key in times),
        ]
        self.assertEqual(metadata_of(alike).etag, self.etag(b"a.txt"))
        self.assertEqual(len({metadata_of(other).etag for other in (alike, *others)}), 6)

    def test_it_stays_when_the_file_is_read_or_a_sibling_is_renamed(self) -> None:
        before = self.etag(b"a.txt")
        self.read(LocalStorage(self.served), b"a.txt")
        os.rename(self.path(b"b c"), self.path(b"d"))
        self.assertEqual(self.etag(b"a.txt"), before)

    def test_equal_files_have_different_etags(self) -> None:
        for name in (b"one", b"two"):
            self.put(name, b"")
            os.utime(self.path(name), ns=(0, 0))
        self.assertNotEqual(self.etag(b"one"), self.etag(b"two"))

    def test_changed_directory_has_another_etag(self) -> None:
        before = self.etag(b"sub")
        self.put(b"sub/more", b"")
        os.utime(self.path(b"sub"), ns=(0, 0))
        self.assertNotEqual(self.etag(b"sub"), before)
