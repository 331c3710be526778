"""Write every byte to a file object, whatever kind of file object it is.

``write()`` of a raw file object may take fewer bytes than it is given, or none at all
(`None`, in non-blocking mode). A buffered one raises `BlockingIOError` then, with the
number of bytes that it has taken.
"""

from __future__ import annotations

import errno
import io
import select
from collections.abc import Callable
from typing import Any

Write = Callable[[Any], object]
"""Takes bytes, in a `memoryview` most often. Returns how many it has taken, as ``write()`` of a
file object does, or `None` for all of them. (`None` from a raw file object: it would block.)"""


class WholeWriter:
    """Calls a ``write()`` until every byte has been taken.

    :param write: of a file object, or any other `Write`.
    :param copy: whether ``write`` may keep what it is given, so that it needs bytes of its own.
    """

    def __init__(self, write: Write, copy: bool = False) -> None:
        owner = getattr(write, "__self__", None)
        self._write = write
        self._copy = copy
        self._raw = isinstance(owner, io.RawIOBase)
        self._fileno: Callable[[], int] | None = getattr(owner, "fileno", None)

    def __call__(self, data: bytes | memoryview) -> None:
        """Write bytes, all of them.

        A file object in non-blocking mode is waited for.

        :raises OSError: as ``write`` does; `BlockingIOError` if it would block and has no
            descriptor to wait for.
        """
        rest = memoryview(data)
        while rest:
            try:
                taken = self._write(bytes(rest) if self._copy else rest)
            except InterruptedError:
                continue
            except BlockingIOError as error:
                rest = rest[getattr(error, "characters_written", 0) :]
                self._wait(error)
                continue
            if taken is None and self._raw:
                self._wait(BlockingIOError(errno.EAGAIN, "it would block"))
            elif isinstance(taken, int) and not isinstance(taken, bool):
                if not 0 < taken <= len(rest):
                    raise OSError(errno.EIO, f"write() took {taken} of {len(rest)} bytes")
                rest = rest[taken:]
            else:
                return

    def _wait(self, error: BlockingIOError) -> None:
        """Wait until the file object can take bytes.

        :raises BlockingIOError: the error, if it has no descriptor.
        """
        try:
            descriptor = -1 if self._fileno is None else self._fileno()
        except OSError:
            descriptor = -1
        if descriptor < 0:
            raise error
        wait_until_writable(descriptor)


def wait_until_writable(descriptor: int) -> None:
    """Wait until a descriptor can take bytes, or until writing to it is an error."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
