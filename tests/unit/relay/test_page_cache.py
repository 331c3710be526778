"""What the kernel reports of the page cache, and what it cannot."""

from __future__ import annotations

import errno
import os
import tempfile

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from natproxy.relay import PageCache
from tests.support.relay_cases import PlayedMounts, UnknownFileCase

UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)


class PageCacheTests(UnknownFileCase):
    def test_unsupported_means_not_known_unless_the_file_is_in_memory(self) -> None:
        with tempfile.TemporaryFile() as file:
            for self.code in UNSUPPORTED:
                for memory in (False, True):
                    cache = PageCache(self.read, PlayedMounts(memory))
                    self.assertEqual(cache.known(file.fileno(), 0), memory, self.code)
            self.code = errno.EAGAIN
            self.assertTrue(PageCache(self.read, PlayedMounts(False)).known(file.fileno(), 0))

    def test_nothing_is_read_from_the_cache_without_support(self) -> None:
        with tempfile.TemporaryFile() as file:
            for self.code in UNSUPPORTED:
                with self.assertRaises(OSError):
                    PageCache(self.read, PlayedMounts(True)).read_cached(file.fileno(), 0, 1)


class ReadCachedTests(SynchronousTestCase):
    def test_it_returns_what_is_cached_of_a_range(self) -> None:
        def cached(file: int, buffers: list[bytearray], offset: int, flags: int) -> int:
            self.assertEqual((offset, flags), (3, os.RWF_NOWAIT))
            buffers[0][:2] = b"ab"
            return 2

        self.patch(os, "preadv", cached)
        cache = PageCache(lambda *_: Deferred(), PlayedMounts(False))
        self.assertEqual(cache.read_cached(0, 3, 2), b"ab")
        self.assertEqual(cache.read_cached(0, 3, 5), b"ab")
