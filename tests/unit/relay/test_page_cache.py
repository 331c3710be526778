"""What the kernel reports of the page cache, and what it cannot."""

from __future__ import annotations

import errno
import tempfile

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
