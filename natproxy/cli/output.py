"""Standard output, every byte of it or an error; and messages on a stream that may be gone."""

from __future__ import annotations

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


class Output(io.BufferedWriter):
    """Writes every byte to a file object in blocking or in non-blocking mode, or raises.

    What goes to the descriptor, and how much of it has gone when an interrupt comes, is left
    to the interpreter's own `io.FileIO` below: nothing is written twice.

    :ivar failure: the first error, so that it cannot be overlooked.
    """

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write bytes, all of them; return how many.

        :raises OSError: if that is not possible.
        """
        rest = memoryview(data).cast("B")
        size = len(rest)
        while True:
            try:
                super().write(rest)
            except BlockingIOError as error:
                rest = rest[error.characters_written :]
                self._wait()
            except OSError as error:
                self.failure = self.failure or error
                raise
            else:
                return size

    def flush(self) -> None:
        """Write what has been held back.

        :raises OSError: if that is not possible.
        """
        while True:
            try:
                super().flush()
            except BlockingIOError:
                self._wait()
            except OSError as error:
                self.failure = self.failure or error
                raise
            else:
                return

    def _wait(self) -> None:
        from natproxy.client.transfer.output import wait_until_writable

        wait_until_writable(self.fileno())


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
def standard_output(closed: bool = False) -> Iterator[Output | None]:
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
        raw = io.FileIO(before.fileno(), "wb", closefd=False)
    if raw is None:
        yield None
        return
    if closed:
        # Like a descriptor that is closed, one to read from cannot be written to.
        raw = io.FileIO(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), "wb")
    output = Output(raw, BUFFER)
    stream = io.TextIOWrapper(
        output,
        encoding=before.encoding,
        errors="backslashreplace",
        newline="\n",
        line_buffering=raw.isatty(),
    )
    sys.stdout = stream
    try:
        yield output
    finally:
        sys.stdout = before
        # What has not been written by now is not to be written.
        raw.close()


def release_standard_error() -> None:
    """Remove `sys.stderr` if what it holds back cannot be written.

    Otherwise the interpreter tries again at its end, and replaces the exit status by 120.
    """
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None


def write_line(stream: TextIO, line: str) -> None:
    """Write a line; or not, if nobody can read it."""
    try:
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):
        # Nothing ends, or ends otherwise, because it cannot be told. A stream that is
        # closed, or that cannot write a character, raises a ValueError.
        pass
