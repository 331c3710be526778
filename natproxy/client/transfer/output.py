"""Write every byte to a file object, raw or buffered, blocking or not.

``write()`` of a raw file object may write fewer bytes than it is passed, or none (it returns
``None`` in non-blocking mode). A buffered file object raises ``BlockingIOError`` instead, with the
number of bytes that it has accepted.
"""

from __future__ import annotations

import errno
import io
import select
from collections.abc import Callable
from typing import Any

Write = Callable[[Any], object]
"""Accepts bytes, usually as a ``memoryview``. Returns the number of accepted bytes, as ``write()``
of a file object does, or ``None`` for all of them. (A raw file object returns ``None`` if it would
block.)"""


class WholeWriter:
    """Calls a ``write()`` until it has accepted every byte.

    :param write: of a file object, or any other `Write`.
    :param copy: whether ``write`` may keep a reference to the data, so that it needs a copy.
    """

    def __init__(self, write: Write, copy: bool = False) -> None:
        owner = getattr(write, "__self__", None)
        self._write = write
        self._copy = copy
        self._raw = isinstance(owner, io.RawIOBase)
        self._fileno: Callable[[], int] | None = getattr(owner, "fileno", None)

    def __call__(self, data: bytes | memoryview) -> None:
        """Write all bytes, and wait for a file object in non-blocking mode.

        :raises OSError: as ``write`` does; ``BlockingIOError`` if it would block and has no
            descriptor to wait for.
        """
        rest = memoryview(data)
        while rest:
            try:
                accepted = self._write(bytes(rest) if self._copy else rest)
            except InterruptedError:
                continue
            except BlockingIOError as error:
                rest = rest[getattr(error, "characters_written", 0) :]
                self._wait(error)
                continue
            if accepted is None and self._raw:
                self._wait(BlockingIOError(errno.EAGAIN, "it would block"))
            elif isinstance(accepted, int) and not isinstance(accepted, bool):
                if not 0 < accepted <= len(rest):
                    raise OSError(errno.EIO, f"write() accepted {accepted} of {len(rest)} bytes")
                rest = rest[accepted:]
            else:
                return

    def _wait(self, error: BlockingIOError) -> None:
        """Wait until the file object accepts bytes.

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
    """Wait until a descriptor is writable, or until writing to it is an error."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
