"""Which parts of a file are in the page cache, and reading others in a thread.

Reading what is not there would stall the reactor for as long as the disk takes.
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
    """Calls a function in a thread and fires when it has returned."""

    def __call__(
        self, read: Callable[[], T], device: int, returned: Callable[[], object], /
    ) -> Deferred[T]:
        """Call it.

        :param device: that it reads from, ``st_dev``.
        :param returned: called once, when the function has returned or will never be
            called: only then may the file that it reads be closed.
        :return: fails if it takes too long, or too many others are waiting; then, and when
            it is cancelled, the function may still be running.
        """
        ...


class Warmth(Protocol):
    """Says what can be read without waiting, and makes it so."""

    def known(self, file: int, device: int) -> bool:
        """Return whether `resident` can tell anything about a file.

        :param device: that it is on, ``st_dev``.
        """
        ...

    def resident(self, file: int, offset: int, size: int) -> bool:
        """Return whether both ends of a stretch can be read at once."""
        ...

    def warm(
        self, file: int, offset: int, size: int, device: int, returned: Callable[[], object]
    ) -> Deferred[None]:
        """Bring a stretch in; fires when it is there, or cannot be read.

        :param returned: as of `ReadInThread`.
        """
        ...

    def read(
        self, read: Callable[[], T], device: int, returned: Callable[[], object]
    ) -> Deferred[T]:
        """Read in a thread; see `ReadInThread`."""
        ...


class PageCache:
    """The system's page cache (``preadv2(2)``, ``RWF_NOWAIT``).

    :param in_thread: where files are read.
    :param mounts: says which file systems are in memory.
    """

    def __init__(self, in_thread: ReadInThread, mounts: Mounts | None = None) -> None:
        self._in_thread = in_thread
        self._mounts = mounts or Mounts()
        self._probe = [bytearray(1)]

    def known(self, file: int, device: int) -> bool:
        """Return whether the kernel can tell what is in the cache.

        It cannot on FUSE, nor, in some versions, on network file systems, overlayfs and
        tmpfs; but files of tmpfs and its like are in memory.
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
        """Return whether the first and the last byte of a stretch are in the cache.

        The kernel reads ahead from the first on: what lies between is there, or coming.
        Of a file that is not `known`, it means nothing.
        """
        if not _NOWAIT:
            return True
        try:
            os.preadv(file, self._probe, offset, _NOWAIT)
            os.preadv(file, self._probe, offset + size - 1, _NOWAIT)
        except BlockingIOError:
            return False
        except OSError:
            # A file system in memory that cannot tell, or one that fails: the read itself
            # will say.
            return True
        return True

    def warm(
        self, file: int, offset: int, size: int, device: int, returned: Callable[[], object]
    ) -> Deferred[None]:
        """Read a stretch in a thread and throw it away; see `Warmth`."""

        def read() -> None:
            buffer = [bytearray(min(_BUFFER, size))]
            position = offset
            while position < offset + size:
                try:
                    got = os.preadv(file, buffer, position)
                except OSError:
                    return
                if not got:
                    return
                position += got

        return self._in_thread(read, device, returned)

    def read(
        self, read: Callable[[], T], device: int, returned: Callable[[], object]
    ) -> Deferred[T]:
        """Read in a thread; see `ReadInThread`."""
        return self._in_thread(read, device, returned)
