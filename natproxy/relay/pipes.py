"""A bounded pool of pipes, through which ``splice`` moves bytes."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

LARGE = 1 << 20
"""Bytes that the first pipes hold, and all that are kept."""

SMALLEST = 64 * 1024
"""Below this size, copying is cheaper than splicing."""

PIPES = 512
"""Pipes that are lent at once."""

# An unprivileged user's pipes may hold 64 MiB in all (pipe(7), pipe-user-pages-soft):
# the first few pipes are large, those lent when there are many are small.
_SIZES = ((16, LARGE), (64, LARGE // 4), (PIPES, SMALLEST))


@dataclass(frozen=True)
class Pipe:
    """A pipe that does not block.

    :ivar size: bytes that it can hold.
    """

    reader: int
    writer: int
    size: int

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """Lends pipes, and keeps a few empty ones to be lent again.

    :param limit: pipes that may be lent at once.
    :ivar lent: how many are in use.
    :ivar refused: how often there was none to lend.
    """

    KEPT = 16

    def __init__(self, limit: int = PIPES) -> None:
        self.lent = 0
        self.refused = 0
        self._limit = limit
        self._kept: list[Pipe] = []

    @property
    def kept(self) -> int:
        """The number of empty pipes that are kept to be lent again."""
        return len(self._kept)

    def lend(self) -> Pipe | None:
        """Return an empty pipe; ``None`` if there is none, and the body has to be copied."""
        pipe = self._take()
        if pipe is None:
            self.refused += 1
        else:
            self.lent += 1
        return pipe

    def take_back(self, pipe: Pipe, empty: bool) -> None:
        """Keep a lent pipe or close it; one that still holds bytes is never lent again."""
        self.lent -= 1
        if empty and pipe.size == LARGE and len(self._kept) < self.KEPT:
            self._kept.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        """Close the pipes that are kept."""
        while self._kept:
            self._kept.pop().close()

    def _take(self) -> Pipe | None:
        if self.lent >= self._limit:
            return None
        if self._kept:
            return self._kept.pop()
        wanted = next((size for limit, size in _SIZES if self.lent < limit), None)
        if wanted is None:
            return None
        try:
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        pipe = Pipe(reader, writer, _resize(writer, wanted))
        if pipe.size < SMALLEST:
            pipe.close()
            return None
        return pipe


def _resize(pipe: int, wanted: int) -> int:
    try:
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, wanted)
    except OSError:
        return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
