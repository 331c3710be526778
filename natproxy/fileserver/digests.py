"""SHA-256 of files and of parts of them: computed in threads, once for all who ask.

A digest of a large file takes longer than a client, or a proxy, waits for a reply. So a
digest that nobody waits for any more is stopped, not dropped: the next client that asks for
it continues where it was.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from natproxy.protocol import Refusal
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
from natproxy.storage import Served, Settling, metadata_of

AT_ONCE = 2
"""Digests of a class, on one file system, that are computed at a time."""

FILE_SYSTEMS = 2
"""File systems whose digests are computed at a time: one that hangs leaves room."""

THREADS = 2 * AT_ONCE * FILE_SYSTEMS
"""Threads that are needed: there are two classes, short and long."""

IN_LINE = 64
"""Digests of a class that wait for their turn, each with its file open."""

SHORT = 4 << 20
"""Bytes up to which a digest is short: it does not wait for long ones."""

SLICE = 1.0
"""Seconds after which a computation lets the next one in line have its thread."""

REMEMBERED = 10_000
"""Digests that are kept when they have been computed."""

STOPPED = 64
"""Stopped computations that are kept."""

STOPPED_FOR = 600.0
"""Seconds for which a stopped computation is kept."""

CHUNK = 1 << 20
"""Bytes read at once; after each, a thread looks whether it is to stop."""

SETTLED = 2.0
"""Seconds after a change until the next one is sure to be seen in the ``etag``."""


class Part(NamedTuple):
    """Bytes that have but one digest.

    :ivar etag: of the whole file.
    :ivar offset: of the first byte.
    :ivar length: how many there are.
    """

    etag: str
    offset: int
    length: int


class Progress:
    """How far a digest has been computed.

    :ivar sha256: of the bytes read so far.
    :ivar done: how many these are.
    """

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.done = 0


class Computation:
    """One digest being computed. Its file is closed with `close`, when no thread reads it.

    :param part: none of it beyond the file's end.
    :param served: the file.
    :param lasting: whether the file will have another ``etag`` when it has another digest.
    :param progress: of an earlier computation of the same part.
    :param clock: monotonic seconds.
    :param client: the first that asked for it.
    :ivar askers: are to be told; a crowd of them may leave at once.
    :ivar turn: fires when the thread has returned, or nobody waits for that any more.
    :ivar detached: whether nobody waits for the thread, and it has not returned.
    :ivar dropped: whether what has been computed is of no use, because reading has failed or
        the file was changed.
    :ivar timer: of those who ask for it while it is detached.
    """

    turn: Deferred[str | None]
    timer: IDelayedCall | None = None

    def __init__(
        self,
        part: Part,
        served: Served,
        lasting: bool,
        progress: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
        client: Hashable = None,
    ) -> None:
        self.part = part
        self.lasting = lasting
        self.progress = progress or Progress()
        self.client = client
        self.askers: OrderedDict[Deferred[str], None] = OrderedDict()
        self.dropped = False
        self.detached = False
        self._served = served
        self._clock = clock
        # Written by the reactor's thread and read by the other; `dropped` may be written by both.
        self.stopped = False

    @property
    def remaining(self) -> int:
        """Bytes that are still to be read."""
        return self.part.length - self.progress.done

    @property
    def device(self) -> int:
        """Where the file is, ``st_dev``."""
        return self._served.result.st_dev

    def stop(self) -> None:
        """Let the thread return, as soon as it has read what it is reading."""
        self.stopped = True

    def close(self) -> None:
        """Close the file."""
        self._served.file.close()

    def run(self) -> str | None:
        """Read the file for a while, in a thread.

        :return: the digest in hexadecimal; `None` if there is more to be read.
        :raises Refusal: with code 503, if it has been changed since it was opened.
        :raises WorkCancelled: if `stop` was called.
        :raises OSError: if it cannot be read.
        """
        try:
            return self._read()
        except WorkCancelled:
            raise
        except Exception:
            self.dropped = True
            raise

    def _read(self) -> str | None:
        file, progress = self._served.file, self.progress
        buffer = memoryview(bytearray(min(CHUNK, self.remaining)))
        until = self._clock() + SLICE
        file.seek(self.part.offset + progress.done)
        while self.remaining:
            if self.stopped:
                raise WorkCancelled
            size = file.readinto(buffer[: self.remaining])
            if not size:
                break
            progress.sha256.update(buffer[:size])
            progress.done += size
            if self.remaining and self._clock() >= until:
                return None
        now = os.fstat(file.fileno())
        if self.remaining or metadata_of(now) != self._served.metadata:
            raise Refusal(503, "the file is changing")
        return progress.sha256.hexdigest()


class Digests:
    """Computes digests, and remembers those that were asked for last.

    :param in_thread: where files are read; of `THREADS` threads.
    :param settling: says which digests may be remembered.
    :param clock: for the longest time that anybody waits; `None` for no time-out.
    :param monotonic: seconds that never jump, called in threads as well.
    """

    def __init__(
        self,
        in_thread: InThread,
        settling: Settling | None = None,
        clock: IReactorTime | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # A class of work that waits in one line with others would wait for them.
        self._short, self._long = (
            BoundedExecutor(
                in_thread, "digests", Limits(AT_ONCE * FILE_SYSTEMS, IN_LINE, AT_ONCE), clock
            )
            for _ in range(2)
        )
        self._clock = clock
        self._settling = settling or Settling()
        self._monotonic = monotonic
        self._known: OrderedDict[Part, str] = OrderedDict()
        self._under_way: dict[Part, Computation] = {}
        self._stopped: OrderedDict[Part, tuple[float, Progress]] = OrderedDict()

    def digest(
        self, served: Served, offset: int, length: int, client: Hashable = None
    ) -> Deferred[str]:
        """Return the SHA-256 of a part of a file, in hexadecimal.

        :param served: the file; it is closed when it is not needed any more.
        :param length: bytes from the offset on, none of them beyond the file's end.
        :param client: who asks, for a fair line.
        :return: fires with the digest, or fails with `WorkRefused`, with `Refusal` (503) if the
            file has changed meanwhile or the server is stopping, or with `OSError`.
        :raises Overloaded: if too many digests are waiting.
        :raises Unresponsive: if all that are being computed hang.
        """
        part = Part(served.metadata.etag, offset, length)
        known = self._known.get(part)
        if known is not None:
            served.file.close()
            self._known.move_to_end(part)
            return succeed(known)
        computation = self._under_way.get(part)
        if computation is not None:
            served.file.close()
            # If it has been told to stop, and has not yet, it is taken up again.
            if computation.detached and computation.timer is None and self._clock is not None:
                computation.timer = self._clock.callLater(WORK_TIMEOUT, self._late, computation)
            return self._asker(computation)
        result = served.result
        lasting = self._settling.settled(
            part.etag, result.st_dev, result.st_ctime, SETTLED, self._settling.now()
        )
        computation = Computation(
            part, served, lasting, self._progress_of(part), self._monotonic, client
        )
        asker = self._asker(computation)
        try:
            self._take_turn(computation)
        except WorkRefused:
            self._keep(computation)
            raise
        return asker

    def stop(self) -> None:
        """Compute nothing more of what has been asked for so far."""
        for computation in list(self._under_way.values()):
            computation.dropped = True
            computation.turn.cancel()
            self._forget(computation)
            self._tell(computation, Failure(Refusal(503, "the server is stopping")))
        self._stopped.clear()

    def _asker(self, computation: Computation) -> Deferred[str]:
        asker: Deferred[str] = Deferred(partial(self._withdrawn, computation))
        computation.askers[asker] = None
        computation.stopped = False
        return asker

    def _withdrawn(self, computation: Computation, asker: Deferred[str]) -> None:
        del computation.askers[asker]
        if not computation.askers:
            self._stop_timer(computation)
            computation.turn.cancel()

    def _take_turn(self, computation: Computation, again: bool = False) -> None:
        executor = self._short if computation.remaining <= SHORT else self._long
        work = Work(
            computation.run,
            computation.client,
            computation.device,
            computation.stop,
            partial(self._ended, computation),
        )
        computation.turn = executor.submit(work, continued=again)
        self._under_way[computation.part] = computation
        computation.turn.addCallback(self._computed, computation)
        computation.turn.addErrback(self._failed, computation)

    def _computed(self, sha256: str | None, computation: Computation) -> None:
        if sha256 is None:
            self._take_turn(computation, again=True)
            return
        if computation.lasting:
            self._known[computation.part] = sha256
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._finish(computation, sha256)

    def _failed(self, failure: Failure, computation: Computation) -> None:
        # A turn that fails after its thread was told to stop has not ended yet.
        computation.detached = computation.stopped
        if failure.check(CancelledError):
            if not computation.detached:
                self._keep(computation)
            return
        # A turn that was refused, in line or while its thread hangs, leaves the progress intact.
        if computation.detached:
            self._forget(computation)
        else:
            self._keep(computation)
        self._tell(computation, failure)

    def _late(self, computation: Computation) -> None:
        """The thread of a detached computation has not returned: it hangs."""
        computation.timer = None
        computation.dropped = True
        computation.stop()
        self._forget(computation)
        self._tell(computation, Failure(Unresponsive()))

    def _ended(self, computation: Computation) -> None:
        """The thread has returned. The Deferred of its turn fires after this."""
        if not computation.detached:
            return
        computation.detached = False
        self._stop_timer(computation)
        if computation.askers and not computation.dropped:
            # It was asked for again before the thread had stopped.
            self._take_turn(computation, again=True)
        else:
            self._keep(computation)

    def _keep(self, computation: Computation) -> None:
        """Close the file of a computation that is not continued for now."""
        computation.close()
        self._forget(computation)
        # Soon after a change, the same etag may come to stand for other bytes.
        if computation.progress.done and computation.lasting and not computation.dropped:
            self._stopped[computation.part] = (self._monotonic(), computation.progress)
            if len(self._stopped) > STOPPED:
                self._stopped.popitem(last=False)

    def _progress_of(self, part: Part) -> Progress | None:
        oldest = self._monotonic() - STOPPED_FOR
        while self._stopped and next(iter(self._stopped.values()))[0] < oldest:
            self._stopped.popitem(last=False)
        return self._stopped.pop(part, (0.0, None))[1]

    def _finish(self, computation: Computation, result: str | Failure) -> None:
        computation.close()
        self._forget(computation)
        self._tell(computation, result)

    def _tell(self, computation: Computation, result: str | Failure) -> None:
        fire_in_turns(computation.askers, result, self._clock)

    @staticmethod
    def _stop_timer(computation: Computation) -> None:
        if computation.timer is not None:
            computation.timer.cancel()
            computation.timer = None

    def _forget(self, computation: Computation) -> None:
        self._stop_timer(computation)
        if self._under_way.get(computation.part) is computation:
            del self._under_way[computation.part]
