"""SHA-256 of files and of ranges of them: computed in threads, once for all clients that wait.

The digest of a large file takes longer than a client, or a proxy, waits for a reply. So a
computation that no client waits for any more is suspended: the next client that requests the
same digest continues it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from natproxy.fileserver.computation import Computation, FileRange, Progress, State, close_quietly
from natproxy.protocol import Refusal, errors
from natproxy.server.rotation import fire_in_turns
from natproxy.server.threads import (
    WORK_TIMEOUT,
    BoundedExecutor,
    InThread,
    Limits,
    Unresponsive,
    Work,
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

REMEMBERED = 10_000
"""Digests that are kept after they have been computed."""

SUSPENDED = 64
"""Suspended computations that are kept."""

SUSPENDED_FOR = 600.0
"""Seconds for which a suspended computation is kept."""


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
            close_quietly(file)
            self._known.move_to_end(part)
            return succeed(known)
        computation = self._running.get(part)
        if computation is not None:
            close_quietly(file)
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
