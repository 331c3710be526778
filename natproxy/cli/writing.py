"""Standard output, every byte of it or an error; and messages on a stream that may be gone."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BUFFER = 1 << 16
"""Bytes that are held back before they are written, unless it is a terminal."""


class Descriptor(io.RawIOBase):
    """A descriptor to write to, which waits where it would block.

    It stays open when this is closed.

    :param descriptor: `None` for standard output that was closed before the program began.
    :ivar failure: the first error, so that it cannot be overlooked; from then on, what is
        written is dropped.
    """

    def __init__(self, descriptor: int | None) -> None:
        self.failure: OSError | None = None
        self._descriptor = descriptor
        self._discarding = False

    def fileno(self) -> int:
        """Return the descriptor.

        :raises OSError: if there is none.
        """
        if self._descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._descriptor is not None and os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some of the bytes; return how many. The buffer above it writes the rest.

        :raises OSError: if that is not possible.
        """
        while not self._discarding:
            try:
                return os.write(self.fileno(), data)
            except BlockingIOError:
                from natproxy.client.output import wait_until_writable

                wait_until_writable(self.fileno())
            except OSError as error:
                self._discarding = True
                self.failure = error
                raise
        return memoryview(data).nbytes

    def discard(self) -> None:
        """Drop what is written from now on."""
        self._discarding = True


def open_missing_streams() -> bool:
    """Open the null device for each standard stream that was closed before the program began.

    Otherwise a socket would take its descriptor.

    :return: whether standard output was one of them.
    """
    closed = sys.stdout is None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    return closed


@contextmanager
def standard_output(closed: bool = False) -> Iterator[Descriptor | None]:
    """Replace `sys.stdout` by a stream that writes every byte or raises, until it is left.

    Python's own is a raw file object under ``PYTHONUNBUFFERED``, whose ``write()`` may write
    less than it is given, and it loses bytes where it would block. Characters that the
    encoding does not have come out escaped.

    :param closed: whether standard output was closed before the program began: writing to it
        is an error.
    :return: what is below that stream; `None` if `sys.stdout` has no descriptor, and stays.
    """
    before = sys.stdout
    with suppress(AttributeError):
        before.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    raw = None
    with suppress(OSError, ValueError, AttributeError):
        before.flush()
        raw = Descriptor(None if closed else before.fileno())
    if raw is None:
        yield None
        return
    stream = io.TextIOWrapper(
        io.BufferedWriter(raw, BUFFER),
        encoding=before.encoding,
        errors="backslashreplace",
        newline="\n",
        line_buffering=raw.isatty(),
    )
    sys.stdout = stream
    try:
        yield raw
    finally:
        sys.stdout = before
        # What has not been written by now is not to be written.
        raw.discard()
        stream.close()


def write_line(stream: TextIO, line: str) -> None:
    """Write a line; or not, if nobody can read it."""
    try:
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):
        # Nothing ends, or ends otherwise, because it cannot be told. A stream that is
        # closed, or that cannot write a character, raises a ValueError.
        pass
