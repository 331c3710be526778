"""Which bytes of a file are in the page cache, and reading others in a thread.

Reading others in the reactor's thread would stall it for as long as the disk takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred

from natproxy.kernel.mounts import Mounts

T = TypeVar("T")

_BUFFER = 256 * 1024

# Linux 4.14.
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class ReadInThread(Protocol):
    """Calls a function in a thread and fires with its result."""

    def __call__(
        self, read: Callable[[], T], device: int, returned: Callable[[], object], /
    ) -> Deferred[T]:
        """Call ``read`` in a thread.

        :param device: that it reads from, ``st_dev``.
        :param returned: called once, when ``read`` has returned or will never be called: only
            then may the file that it reads be closed.
        :return: fires with the result; fails if it takes too long, or if too many others are
            waiting. After that, and after it has been cancelled, ``read`` may still be running.
        """
        ...


class PageCache:
    """Reports what the kernel has cached of a file (``preadv2(2)``, ``RWF_NOWAIT``).

    :param in_thread: where files are read.
    :param mounts: reports which file systems are in memory.
    """

    def __init__(self, in_thread: ReadInThread, mounts: Mounts | None = None) -> None:
        self._in_thread = in_thread
        self._mounts = mounts or Mounts()
        self._probe = [bytearray(1)]

    def known(self, file: int, device: int) -> bool:
        """Return whether `resident` can report anything about a file.

        The kernel cannot on FUSE, nor, in some versions, on network file systems, overlayfs
        and tmpfs; but files of tmpfs and similar file systems are in memory.

        :param device: that the file is on, ``st_dev``.
        """
        if _NOWAIT:
            try:
                os.preadv(file, self._probe, 0, _NOWAIT)
            except BlockingIOError:
                return True
            except OSError:
                # EOPNOTSUPP for the most part; ENOSYS or EPERM in a sandbox.
                pass
            else:
                return True
        return self._mounts.in_memory(device)

    def resident(self, file: int, offset: int, size: int) -> bool:
        """Return whether the first and the last byte of a range are in the cache.

        The kernel reads ahead from the first byte: the bytes between are cached, or being
        read. For a file that is not `known`, the result means nothing.
        """
        if not _NOWAIT:
            return True
        try:
            os.preadv(file, self._probe, offset, _NOWAIT)
            os.preadv(file, self._probe, offset + size - 1, _NOWAIT)
        except BlockingIOError:
            return False
        except OSError:
            # A file system in memory without support, or one that fails: the read itself
            # reports the error.
            return True
        return True

    def read_cached(self, file: int, offset: int, size: int) -> bytes:
        """Return the first bytes of a range, as far as the cache has them.

        :raises OSError: if it has none of them, or the file is not `known`.
        """
        buffer = bytearray(size)
        size = os.preadv(file, [buffer], offset, _NOWAIT) if _NOWAIT else 0
        return bytes(memoryview(buffer)[:size])

    def load(
        self, file: int, offset: int, size: int, device: int, returned: Callable[[], object]
    ) -> Deferred[None]:
        """Read a range in a thread, so that the kernel caches it.

        :param returned: as of `ReadInThread`.
        :return: fires when the range is cached, or cannot be read.
        """

        def read_range() -> None:
            buffer = [bytearray(min(_BUFFER, size))]
            position = offset
            while position < offset + size:
                try:
                    read = os.preadv(file, buffer, position)
                except OSError:
                    return
                if not read:
                    return
                position += read

        return self._in_thread(read_range, device, returned)

    def read(
        self, read: Callable[[], T], device: int, returned: Callable[[], object]
    ) -> Deferred[T]:
        """Read in a thread; see `ReadInThread`."""
        return self._in_thread(read, device, returned)
