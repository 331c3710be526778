"""One SHA-256 that is being computed: in slices, in a thread, until it is no longer wanted."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from enum import Enum
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from natproxy.protocol import Refusal, errors
from natproxy.server.threads import WorkCancelled
from natproxy.storage import OpenFile

SLICE = 1.0
"""Seconds after which a computation releases its thread to the next one in the queue."""

CHUNK = 1 << 20
"""Bytes read at once; after each read, a thread checks whether the work is still wanted."""


class FileRange(NamedTuple):
    """A range of a file of one identity, and so with one digest.

    :ivar identity: of the whole file; see `OpenFile.identity`.
    :ivar offset: of the first byte.
    :ivar length: number of bytes.
    """

    identity: str
    offset: int
    length: int


class Progress:
    """How far a digest has been computed.

    :ivar sha256: of the bytes read so far.
    :ivar done: number of these bytes.
    """

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.done = 0


class State(Enum):
    """The states of a `Computation`."""

    RUNNING = "running"
    """A slice is queued or in a thread; the Deferred of the slice reports its end."""
    CANCELLED = "cancelled"
    """That Deferred has fired, and the thread returns after its current read."""
    RESUMED = "resumed"
    """The digest was requested again before the thread has returned."""
    DISCARDED = "discarded"
    """The thread hangs, or the server stops: its progress is not used."""


class Computation:
    """One digest being computed. Its file is closed with `close`, when no thread reads it.

    The reactor's thread changes ``state``, and the thread that computes checks it.

    :param part: no byte of it is beyond the file's end.
    :param file: the file.
    :param reusable: whether the file will have another identity when it has another digest.
    :param progress: of an earlier computation of the same range.
    :param clock: monotonic seconds.
    :param client: the first client that requested it.
    :ivar waiting: the Deferreds of the clients that wait for it.
    :ivar slice: the work in a thread: fires when the thread has returned, or when it is
        cancelled or takes too long.
    :ivar error: raised by the last slice: the progress is not used. ``None`` if there was none.
    :ivar timer: limits how long clients wait in the state ``RESUMED``.
    """

    slice: Deferred[str | None]
    timer: IDelayedCall | None = None
    error: Exception | None = None

    def __init__(
        self,
        part: FileRange,
        file: OpenFile,
        reusable: bool,
        progress: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
        client: Hashable = None,
    ) -> None:
        self.part = part
        self.reusable = reusable
        self.progress = progress or Progress()
        self.client = client
        self.waiting: OrderedDict[Deferred[str], None] = OrderedDict()
        self.state = State.RUNNING
        self._file = file
        self._clock = clock

    @property
    def remaining(self) -> int:
        """Bytes that are still to be read."""
        return self.part.length - self.progress.done

    @property
    def device(self) -> int:
        """The device that the file is on."""
        return self._file.device

    def cancel(self) -> None:
        """Let the thread return after the current read."""
        self.state = State.CANCELLED

    def close(self) -> None:
        """Close the file."""
        close_quietly(self._file)

    def run(self) -> str | None:
        """Read the file for one `SLICE`, in a thread.

        :return: the digest in hexadecimal; ``None`` if there is more to be read.
        :raises Refusal: with code 503, if the file was changed since it was opened.
        :raises WorkCancelled: if it was cancelled.
        :raises OSError: if the file cannot be read.
        """
        try:
            return self._read()
        except WorkCancelled:
            raise
        except Exception as error:
            self.error = error
            raise

    def _read(self) -> str | None:
        file, part, progress = self._file, self.part, self.progress
        if not progress.done and part.length == file.size:
            stored = file.stored_sha256()
            if stored is not None:
                return stored
        until = self._clock() + SLICE
        while self.remaining:
            if self.state not in (State.RUNNING, State.RESUMED):
                raise WorkCancelled
            data = file.read_at(part.offset + progress.done, min(CHUNK, self.remaining))
            if not data:
                break
            progress.sha256.update(data)
            progress.done += len(data)
            if self.remaining and self._clock() >= until:
                return None
        if self.remaining or file.current_identity() != part.identity:
            raise Refusal(errors.UNAVAILABLE, "the file is changing")
        return progress.sha256.hexdigest()


def close_quietly(file: OpenFile) -> None:
    """Close a file that was only read: nothing is lost if that fails."""
    with suppress(OSError):
        file.close()
