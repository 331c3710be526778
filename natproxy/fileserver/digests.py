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
    """A range of a file with one etag, and so with one digest.

    :ivar etag: of the whole file.
    :ivar offset: of the first byte.
    :ivar length: number of bytes.
    """

    etag: str
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


class Computation:
    """One digest being computed. Its file is closed with `close`, when no thread reads it.

    :param part: no byte of it is beyond the file's end.
    :param file: the file.
    :param reusable: whether the file will have another etag when it has another digest.
    :param progress: of an earlier computation of the same range.
    :param clock: monotonic seconds.
    :param client: the first client that requested it.
    :ivar waiting: the Deferreds of those who wait for it; many may be cancelled at once.
    :ivar slice: the work in a thread: fires when the thread has returned, or when that takes
        too long.
    :ivar detached: whether ``slice`` has fired before the thread has returned.
    :ivar invalid: whether the progress is of no use, because a read has failed or the file
        was changed.
    :ivar timer: for those who wait for it while it is detached.
    """

    slice: Deferred[str | None]
    timer: IDelayedCall | None = None

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
        self.invalid = False
        self.detached = False
        self._file = file
        self._clock = clock
        # The reactor's thread writes it, the other reads it; both may write `invalid`.
        self.cancelled = False

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
        self.cancelled = True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def run(self) -> str | None:
        """Read the file for one `SLICE`, in a thread.

        :return: the digest in hexadecimal; `None` if there is more to be read.
        :raises Refusal: with code 503, if the file was changed since it was opened.
        :raises WorkCancelled: if it was cancelled.
        :raises OSError: if it cannot be read.
        """
        try:
            return self._read()
        except WorkCancelled:
            raise
        except Exception:
            self.invalid = True
            raise

    def _read(self) -> str | None:
        file, part, progress = self._file, self.part, self.progress
        until = self._clock() + SLICE
        while self.remaining:
            if self.cancelled:
                raise WorkCancelled
            data = file.read_at(part.offset + progress.done, min(CHUNK, self.remaining))
            if not data:
                break
            progress.sha256.update(data)
            progress.done += len(data)
            if self.remaining and self._clock() >= until:
                return None
        if self.remaining or file.current_etag() != part.etag:
            raise Refusal(errors.UNAVAILABLE, "the file is changing")
        return progress.sha256.hexdigest()


class Digests:
    """Computes digests, and remembers those that were requested last.

    :param in_thread: where files are read; of `THREADS` threads.
    :param clock: for the longest time that a client waits; `None` for no time-out.
    :param monotonic: seconds that never jump, called in threads as well.
    """

    def __init__(
        self,
        in_thread: InThread,
        clock: IReactorTime | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # Each class has its own queue: in a common one, short digests would wait for long ones.
        self._short, self._long = (
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
            the file has changed meanwhile or the server is stopping; or with `OSError`. May
            be cancelled.
        :raises Overloaded: if too many digests are waiting.
        :raises Unresponsive: if all that are being computed hang.
        """
        part = FileRange(file.metadata.etag, offset, length)
        known = self._known.get(part)
        if known is not None:
            file.close()
            self._known.move_to_end(part)
            return succeed(known)
        computation = self._running.get(part)
        if computation is not None:
            file.close()
            # If it was cancelled and its thread has not returned yet, it is continued.
            if computation.detached and computation.timer is None and self._clock is not None:
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
            computation.invalid = True
            computation.slice.cancel()
            self._forget(computation)
            self._fire(computation, Failure(Refusal(errors.UNAVAILABLE, "the server is stopping")))
        self._suspended.clear()

    def _wait(self, computation: Computation) -> Deferred[str]:
        result: Deferred[str] = Deferred(partial(self._withdraw, computation))
        computation.waiting[result] = None
        computation.cancelled = False
        return result

    def _withdraw(self, computation: Computation, result: Deferred[str]) -> None:
        del computation.waiting[result]
        if not computation.waiting:
            self._cancel_timer(computation)
            computation.slice.cancel()

    def _submit(self, computation: Computation, continued: bool = False) -> None:
        executor = self._short if computation.remaining <= SHORT else self._long
        work = Work(
            computation.run,
            computation.client,
            computation.device,
            computation.cancel,
            partial(self._released, computation),
        )
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
        # If a slice fails after its thread was cancelled, the thread has not returned yet.
        computation.detached = computation.cancelled
        if failure.check(CancelledError):
            if not computation.detached:
                self._suspend(computation)
            return
        # A slice that fails in the queue, or because its thread hangs, leaves the progress intact.
        if computation.detached:
            self._forget(computation)
        else:
            self._suspend(computation)
        self._fire(computation, failure)

    def _timed_out(self, computation: Computation) -> None:
        """Fail a detached computation whose thread has not returned: it hangs."""
        computation.timer = None
        computation.invalid = True
        computation.cancel()
        self._forget(computation)
        self._fire(computation, Failure(Unresponsive()))

    def _released(self, computation: Computation) -> None:
        """Continue or suspend a computation whose thread has returned after it was cancelled.

        The Deferred of its slice fires after this.
        """
        if not computation.detached:
            return
        computation.detached = False
        self._cancel_timer(computation)
        if computation.waiting and not computation.invalid:
            # It was requested again before the thread returned.
            self._submit(computation, continued=True)
        else:
            self._suspend(computation)

    def _suspend(self, computation: Computation) -> None:
        """Close the file of a computation that is not continued for now; keep its progress."""
        computation.close()
        self._forget(computation)
        # Soon after a change, the same etag may come to stand for other bytes.
        if computation.progress.done and computation.reusable and not computation.invalid:
            self._suspended[computation.part] = (self._monotonic(), computation.progress)
            if len(self._suspended) > SUSPENDED:
                self._suspended.popitem(last=False)

    def _progress_of(self, part: FileRange) -> Progress | None:
        oldest = self._monotonic() - SUSPENDED_FOR
        while self._suspended and next(iter(self._suspended.values()))[0] < oldest:
            self._suspended.popitem(last=False)
        return self._suspended.pop(part, (0.0, None))[1]

    def _fire(self, computation: Computation, result: str | Failure) -> None:
        fire_in_turns(computation.waiting, result, self._clock)

    @staticmethod
    def _cancel_timer(computation: Computation) -> None:
        if computation.timer is not None:
            computation.timer.cancel()
            computation.timer = None

    def _forget(self, computation: Computation) -> None:
        self._cancel_timer(computation)
        if self._running.get(computation.part) is computation:
            del self._running[computation.part]
