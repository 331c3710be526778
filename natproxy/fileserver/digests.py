"""SHA-256 of files and of ranges of them: computed in threads, once for all clients that wait.

The digest of a large file takes longer than a client, or a proxy, waits for a reply. So a
computation that no client waits for any more is suspended: the next client that requests the
same digest continues it.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import NamedTuple

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from natproxy.protocol import Refusal, errors
from natproxy.server.rotation import fire_in_turns
from natproxy.server.threads import (
    WORK_TIMEOUT,
    BoundedExecutor,
    InThread,
    Limits,
    Unresponsive,
    Work,
    WorkCancelled,
    WorkRefused,
)
from natproxy.storage import OpenFile

CONCURRENT_DIGESTS = 2
"""Digests of a class, on one device, that are computed at a time."""

DEVICES = 2
"""Devices whose digests are computed at a time: one that hangs leaves the other."""

THREADS = 2 * CONCURRENT_DIGESTS * DEVICES
"""Threads that are needed: there are two classes, short and long."""

QUEUED_DIGESTS = 64
"""Digests of a class that wait for a thread, each with its file open."""

SHORT = 4 << 20
"""Bytes up to which a digest is short: it does not wait for long ones."""

SLICE = 1.0
"""Seconds after which a computation releases its thread to the next one in the queue."""

REMEMBERED = 10_000
"""Digests that are kept after they have been computed."""

SUSPENDED = 64
"""Suspended computations that are kept."""

SUSPENDED_FOR = 600.0
"""Seconds for which a suspended computation is kept."""

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
        _close(self._file)

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


class Digests:
    """Computes digests, and remembers those that were requested last.

    :param in_thread: where files are read; of `THREADS` threads.
    :param clock: for the longest time that a client waits; ``None`` for no time-out.
    :param monotonic: seconds that never jump, called in threads as well.
    :ivar short: computes the digests of `SHORT` bytes at most.
    :ivar long: computes the others.
    """

    def __init__(
        self,
        in_thread: InThread,
        clock: IReactorTime | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # Each class has its own queue: in a common one, short digests would wait for long ones.
        self.short, self.long = (
            BoundedExecutor(
                in_thread,
                "digests",
                Limits(CONCURRENT_DIGESTS * DEVICES, QUEUED_DIGESTS, CONCURRENT_DIGESTS),
                clock,
            )
            for _ in range(2)
        )
        self._clock = clock
        self._monotonic = monotonic
        self._known: OrderedDict[FileRange, str] = OrderedDict()
        self._running: dict[FileRange, Computation] = {}
        self._suspended: OrderedDict[FileRange, tuple[float, Progress]] = OrderedDict()

    def digest(
        self, file: OpenFile, offset: int, length: int, client: Hashable = None
    ) -> Deferred[str]:
        """Return the SHA-256 of a range of a file, in hexadecimal.

        :param file: opened right before; it is closed when it is no longer needed.
        :param length: bytes from the offset on, none of them beyond the file's end.
        :param client: who requests it, for a fair order.
        :return: fails with `WorkRefused` if it has to wait for too long; with `Refusal` (503) if
            the file has changed meanwhile or the server is stopping; or with ``OSError``. May
            be cancelled.
        :raises Overloaded: if too many digests are waiting.
        :raises Unresponsive: if all that are being computed hang.
        """
        part = FileRange(file.identity, offset, length)
        known = self._known.get(part)
        if known is not None:
            _close(file)
            self._known.move_to_end(part)
            return succeed(known)
        computation = self._running.get(part)
        if computation is not None:
            _close(file)
            if computation.state is State.CANCELLED:
                computation.state = State.RESUMED
                if self._clock is not None:
                    computation.timer = self._clock.callLater(
                        WORK_TIMEOUT, self._timed_out, computation
                    )
            return self._wait(computation)
        computation = Computation(
            part, file, not file.is_racy(), self._progress_of(part), self._monotonic, client
        )
        result = self._wait(computation)
        try:
            self._submit(computation)
        except WorkRefused:
            self._suspend(computation)
            raise
        return result

    def cancel(self) -> None:
        """Cancel every computation, and drop what is suspended."""
        for computation in list(self._running.values()):
            computation.slice.cancel()
            computation.state = State.DISCARDED
            self._fail(computation, Failure(Refusal(errors.UNAVAILABLE, "the server is stopping")))
        self._suspended.clear()

    def _wait(self, computation: Computation) -> Deferred[str]:
        result: Deferred[str] = Deferred(partial(self._withdraw, computation))
        computation.waiting[result] = None
        return result

    def _withdraw(self, computation: Computation, result: Deferred[str]) -> None:
        if result not in computation.waiting:
            # The results are being fired, and this one is skipped.
            return
        del computation.waiting[result]
        if computation.waiting:
            return
        if computation.state is State.RUNNING:
            computation.slice.cancel()
        else:
            self._cancel_timer(computation)
            computation.cancel()

    def _submit(self, computation: Computation, continued: bool = False) -> None:
        executor = self.short if computation.remaining <= SHORT else self.long
        work = Work(
            computation.run,
            computation.client,
            computation.device,
            computation.cancel,
            partial(self._released, computation),
        )
        computation.state = State.RUNNING
        computation.slice = executor.submit(work, continued)
        self._running[computation.part] = computation
        computation.slice.addCallback(self._computed, computation)
        computation.slice.addErrback(self._failed, computation)

    def _computed(self, sha256: str | None, computation: Computation) -> None:
        if sha256 is None:
            self._submit(computation, continued=True)
            return
        if computation.reusable:
            self._known[computation.part] = sha256
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        computation.close()
        self._forget(computation)
        self._fire(computation, sha256)

    def _failed(self, failure: Failure, computation: Computation) -> None:
        cancelled = failure.check(CancelledError) is not None
        if computation.state is State.RUNNING:
            # No thread works on it. A slice that fails in the queue leaves the progress intact.
            self._suspend(computation)
        if not cancelled:
            self._fail(computation, failure)

    def _timed_out(self, computation: Computation) -> None:
        """Fail a resumed computation whose thread has not returned: it hangs."""
        computation.timer = None
        computation.state = State.DISCARDED
        self._fail(computation, Failure(Unresponsive()))

    def _released(self, computation: Computation) -> None:
        """Continue or suspend a computation whose thread has returned after it was cancelled.

        In the state ``RUNNING``, the Deferred of the slice fires after this.
        """
        if computation.state is State.RUNNING:
            return
        self._cancel_timer(computation)
        if computation.state is State.RESUMED and computation.error is None:
            self._submit(computation, continued=True)
            return
        self._suspend(computation)
        if computation.error is not None:
            self._fail(computation, Failure(computation.error))

    def _suspend(self, computation: Computation) -> None:
        """Close the file of a computation that is not continued for now; keep its progress."""
        computation.close()
        self._forget(computation)
        # Soon after a change, the same identity may come to stand for other bytes.
        if (
            computation.progress.done
            and computation.reusable
            and computation.error is None
            and computation.state is not State.DISCARDED
        ):
            self._suspended[computation.part] = (self._monotonic(), computation.progress)
            if len(self._suspended) > SUSPENDED:
                self._suspended.popitem(last=False)

    def _progress_of(self, part: FileRange) -> Progress | None:
        oldest = self._monotonic() - SUSPENDED_FOR
        while self._suspended and next(iter(self._suspended.values()))[0] < oldest:
            self._suspended.popitem(last=False)
        return self._suspended.pop(part, (0.0, None))[1]

    def _fail(self, computation: Computation, failure: Failure) -> None:
        self._forget(computation)
        self._fire(computation, failure)

    def _fire(self, computation: Computation, result: str | Failure) -> None:
        # Many clients may disconnect at once while the results are fired.
        waiting, computation.waiting = computation.waiting, OrderedDict()
        fire_in_turns(waiting, result, self._clock)

    @staticmethod
    def _cancel_timer(computation: Computation) -> None:
        if computation.timer is not None:
            computation.timer.cancel()
            computation.timer = None

    def _forget(self, computation: Computation) -> None:
        self._cancel_timer(computation)
        if self._running.get(computation.part) is computation:
            del self._running[computation.part]


def _close(file: OpenFile) -> None:
    # The file is only read: nothing is lost when it cannot be closed properly.
    with suppress(OSError):
        file.close()
