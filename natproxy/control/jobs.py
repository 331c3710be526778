"""Work that is done in small portions, so that no turn of the reactor is long."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

ENTRIES = 100
"""Entries that all jobs together walk in one turn of the reactor: some 1.5 ms of work."""

TURN = 0.004
"""Seconds after which no further job is called in a turn, if the entries take longer than usual."""

SHARE = 50
"""Entries that one job walks before the next one."""

T = TypeVar("T")


class Job(Protocol):
    """Work that continues in later turns."""

    def __call__(self, limit: int) -> int:
        """Walk some entries; return their number.

        :param limit: entries at most.
        """
        ...


class JobQueue:
    """Jobs, and the work that they do in one turn of the reactor together.

    :param reactor: schedules the turns.
    :ivar streams: the responses that are being written.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self.streams = 0
        self._reactor = reactor
        self._jobs: deque[Job] = deque()
        self._call: IDelayedCall | None = None

    def schedule(self, job: Job) -> None:
        """Call a job once, in a later turn or later in this one; it may schedule itself again."""
        self._jobs.append(job)
        if self._call is None:
            self._call = self._reactor.callLater(0, self._run)

    def walk(self, steps: Generator[None, None, T]) -> Deferred[T]:
        """Run a generator that yields after each entry that it has walked.

        :return: fires with what the generator returns, or fails with what it raises; to cancel it
            closes the generator.
        """
        return _Walk(self, steps).result

    def _run(self) -> None:
        budget = ENTRIES
        end = self._reactor.seconds() + TURN
        while self._jobs and budget > 0 and self._reactor.seconds() <= end:
            # A job that walks nothing costs something all the same.
            budget -= max(1, self._jobs.popleft()(min(SHARE, budget)))
        self._call = self._reactor.callLater(0, self._run) if self._jobs else None


class _Walk:
    """A generator that is run as a job."""

    def __init__(self, jobs: JobQueue, steps: Generator[None, None, Any]) -> None:
        self._jobs = jobs
        self._steps = steps
        self._cancelled = False
        self.result: Deferred[Any] = Deferred(self._cancel)
        jobs.schedule(self._step)

    def _step(self, limit: int) -> int:
        if self._cancelled:
            return 0
        walked = 0
        try:
            while walked < limit:
                next(self._steps)
                walked += 1
        except StopIteration as ended:
            self.result.callback(ended.value)
        except Exception:
            self.result.errback(Failure())
        else:
            self._jobs.schedule(self._step)
        return walked

    def _cancel(self, _: Deferred[Any]) -> None:
        self._cancelled = True
        self._steps.close()
