"""Standard output that loses no byte without an error, and messages that may be lost."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer

BUFFER = 1 << 16
"""Bytes that are buffered before they are written; a terminal is written line by line."""


class Output(io.BufferedWriter):
    """Writes every byte to a file object in blocking or in non-blocking mode, or raises an error.

    The ``io.FileIO`` below keeps account of what has been written when an interrupt occurs, so
    that nothing is written twice.

    :ivar failure: the first error; it remains even if the writer ignores the exception.
    """

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all bytes; return their number.

        :raises OSError: if they cannot be written.
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
        """Write the buffered bytes.

        :raises OSError: if they cannot be written.
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

    Otherwise a socket could get the descriptor of a standard stream.

    :return: whether standard output was one of them.
    """
    closed = sys.stdout is None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    return closed


@contextmanager
def standard_output(closed: bool = False) -> Iterator[Output | None]:
    """Replace ``sys.stdout`` within a block by a stream that writes every byte or raises an error.

    Python's own stream loses bytes where it would block, and with ``PYTHONUNBUFFERED`` its
    ``write()`` may write less than its argument. Characters that the encoding lacks are
    escaped.

    :param closed: whether standard output was closed before the program started: writing to it
        is an error.
    :return: the binary stream; ``None`` if ``sys.stdout`` has no descriptor and is not replaced.
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
        # Writing to a read-only descriptor fails as writing to a closed one does.
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
        # Bytes still in the buffer are discarded.
        raw.close()


def release_standard_error() -> None:
    """Remove ``sys.stderr`` if it cannot be flushed.

    Otherwise the interpreter flushes it at exit, fails, and sets the exit status to 120.
    """
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal; a closed one is not."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def confirmed(prompt: str) -> bool | None:
    """Return whether the user confirms on the terminal; ``None`` if there is none.

    :param prompt: printable, and without the choices.
    """
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        return None
    sys.stderr.write(f"{prompt} [y/N] ")
    sys.stderr.flush()
    reply = sys.stdin.readline()
    if not reply.endswith("\n"):
        # Ctrl-D leaves the cursor behind the prompt.
        write_line(sys.stderr, "")
    return reply.strip().lower() in ("y", "yes")


def write_line(stream: TextIO, line: str) -> None:
    """Write a line, and ignore errors."""
    try:
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):
        # A message that cannot be written does not change the result. A stream that is
        # closed, or that cannot encode a character, raises a ValueError.
        pass
