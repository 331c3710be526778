"""Which parts of a file are in the page cache, and getting others there in a thread.

Reading what is not there would stall the reactor for as long as the disk takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

_BUFFER = 256 * 1024

InThread = Callable[[Callable[[], None]], "Deferred[None]"]
"""Calls a function in a thread and fires when it has returned."""

# Linux 4.14; elsewhere everything is taken to be warm.
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class Warmth(Protocol):
    """Says what can be read without waiting, and makes it so."""

    def resident(self, file: int, offset: int, size: int) -> bool:
        """Tell whether both ends of a stretch can be read at once."""
        ...

    def warm(self, file: int, offset: int, size: int) -> Deferred[None]:
        """Bring a stretch in; fires when it is there, or cannot be had."""
        ...


class PageCache:
    """The system's page cache (``preadv2(2)``, ``RWF_NOWAIT``).

    :param in_thread: where files are read.
    """

    def __init__(self, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._probe = [bytearray(1)]

    def resident(self, file: int, offset: int, size: int) -> bool:
        """Tell whether the first and the last byte of a stretch are in the cache.

        The kernel reads ahead from the first on: what lies between is there, or coming.
        """
        if not _NOWAIT:
            return True
        try:
            os.preadv(file, self._probe, offset, _NOWAIT)
            os.preadv(file, self._probe, offset + size - 1, _NOWAIT)
        except BlockingIOError:
            return False
        except OSError:
            # A file system that cannot tell, or one that fails: the read itself will say.
            return True
        return True

    def warm(self, file: int, offset: int, size: int) -> Deferred[None]:
        """Read a stretch in a thread and throw it away."""

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

        return self._in_thread(read)
