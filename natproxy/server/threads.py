"""Work in threads: pools of threads, and bounded executors with a fair queue before them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

WORK_TIMEOUT = 45.0
"""Seconds after which work fails, begun or not.

Less than a proxy waits for a file server's reply.
"""

NO_RESPONSE = "the storage does not respond"

T = TypeVar("T")


class WorkRefused(Exception):
    """Work that was not done, or whose result is not waited for. Its text is the reason."""


class Overloaded(WorkRefused):
    """Too much work of this kind is queued."""


class Unresponsive(WorkRefused):
    """The threads hang, or the work takes too long."""

    def __init__(self, reason: str = NO_RESPONSE) -> None:
        super().__init__(reason)


class WorkCancelled(Exception):
    """Raised in a thread whose work was cancelled; see `CancellationToken`."""


class InThread(Protocol):
    """Calls a function in a thread; the result arrives in the reactor's thread."""

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]:
        """Return a Deferred that fires with the function's result."""
        ...


class Threads:
    """A pool of threads for one kind of work.

    Threads start as they are needed and end with the reactor. A thread that hangs in a system
    call delays neither the reactor nor the end of the process.

    :param reactor: where results are delivered (``IReactorThreads``, ``IReactorCore``).
    :param most: number of threads at most.
    :param name: name of the pool.
    """

    def __init__(self, reactor: Any, most: int, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, most, name)
        self._pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]:
        """Call a function in a thread; see `InThread`."""
        if not (self._pool.started or self._pool.joined):
            # Not earlier: a daemon may fork after it is built and before it is started.
            self._pool.start()
            self._reactor.addSystemEventTrigger("during", "shutdown", self.stop)
        return deferToThreadPool(self._reactor, self._pool, function)

    def stop(self) -> None:
        """End the threads without waiting for them."""
        if self._pool.started:
            # The pool joins its threads.
            Thread(target=self._pool.stop, daemon=True).start()


class CancellationToken:
    """A flag that the reactor's thread sets and a working thread checks.

    :ivar cancelled: whether `cancel` has been called.
    """

    def __init__(self) -> None:
        self.cancelled = False
        self._checks = 0

    def cancel(self) -> None:
        """Make the next `check` raise."""
        self.cancelled = True

    def check(self) -> None:
        """Return if the work is still needed.

        :raises WorkCancelled: if it was cancelled.
        """
        self._checks += 1
        if self.cancelled:
            raise WorkCancelled

    def progress(self) -> int:
        """Return the number of checks so far, which grows while the work continues."""
        return self._checks


@dataclass(frozen=True)
class Work(Generic[T]):
    """A piece of work.

    :ivar function: called in a thread; its result is the result of the work.
    :ivar client: the client that the work is for. Clients are served in rotation.
    :ivar source: what the work reads. It has a limited number of threads: `Limits.per_source`.
    :ivar cancel: called when the result of work that has begun is no longer needed.
    :ivar released: called once when no thread uses the work any longer: it has returned, or it
        will never begin.
    :ivar progress: returns a value that changes while the work continues. Work that changes it
        within each time-out does not time out.
    """

    function: Callable[[], T]
    client: Hashable = None
    source: Hashable = None
    cancel: Callable[[], object] | None = None
    released: Callable[[], object] | None = None
    progress: Callable[[], object] | None = None


@dataclass(frozen=True)
class Limits:
    """What a `BoundedExecutor` accepts.

    :ivar running: pieces of work that run at the same time.
    :ivar queued: pieces of work that wait.
    :ivar per_source: pieces of work on one source that run at the same time; ``None`` for all.
    :ivar timeout: seconds after which work fails, begun or not.
    """

    running: int
    queued: int
    per_source: int | None = None
    timeout: float = WORK_TIMEOUT


class _Task(Generic[T]):
    """Accepted work and its state.

    :ivar begun: the clock's time at which a thread took the work, or at which progress was seen
        last; ``None`` while it is queued.
    :ivar seen: the value of `Work.progress` at that time.
    :ivar done: fires with the result.
    """

    timer: IDelayedCall | None = None
    begun: float | None = None

    def __init__(self, work: Work[T], cancelled: Callable[[_Task[T]], None]) -> None:
        self.work = work
        self.seen = None if work.progress is None else work.progress()
        self.done: Deferred[T] = Deferred(lambda _: cancelled(self))


class BoundedExecutor:
    """Runs a limited amount of work of one kind, queues some more, and refuses the rest.

    Clients are served in rotation: much queued work of one client delays another client by one
    piece of it. When the queue is full, a client with less queued work than another one displaces
    the other's last piece, which is refused.

    A thread that hangs keeps its place. When all places are kept by such threads, further work is
    refused at once.

    :param in_thread: runs functions in threads.
    :param kind: the name of the work in the plural, for messages.
    :param clock: schedules time-outs; ``None`` for no time-out.
    :ivar limits: what it accepts.
    :ivar queued: pieces of work that wait for a thread.
    :ivar begun: pieces of work that a thread has taken so far.
    :ivar overloads: pieces of work refused so far because the queue was full.
    :ivar timeouts: pieces of work so far that failed because threads hang or it took too long.
    """

    def __init__(
        self, in_thread: InThread, kind: str, limits: Limits, clock: IReactorTime | None = None
    ) -> None:
        self._in_thread = in_thread
        self._kind = kind
        self.limits = limits
        self._per_source = limits.running if limits.per_source is None else limits.per_source
        self._clock = clock
        self._free = limits.running
        # The client at the front is served next.
        self._queue: OrderedDict[Hashable, dict[_Task[Any], None]] = OrderedDict()
        self.queued = 0
        self.begun = 0
        self.overloads = 0
        self.timeouts = 0
        self._running: set[_Task[Any]] = set()
        self._sources: Counter[Hashable] = Counter()

    @property
    def running(self) -> int:
        """The number of pieces of work in threads, those that hang included."""
        return len(self._running)

    @property
    def hanging(self) -> int:
        """The number of threads that have worked for longer than the time-out on one piece."""
        return sum(map(self._hangs, self._running))

    def submit(self, work: Work[T], continued: bool = False) -> Deferred[T]:
        """Run work in a thread, or queue it.

        :param continued: whether it continues accepted work; if so, it is not refused.
        :return: fires with the result, or fails with `Unresponsive`, or with `Overloaded` if
            another client displaces it. If the Deferred is cancelled, queued work is not begun,
            and the result of work that has begun is dropped.
        :raises Overloaded: if the queue is full.
        :raises Unresponsive: if all threads hang.
        """
        displaced = None if continued else self._accept(work)
        task = _Task(work, self._cancelled)
        self._queue.setdefault(work.client, {})[task] = None
        self.queued += 1
        if displaced is not None:
            # Not before this work has its place: the displaced client may submit more at once.
            self._fail(displaced, self._full())
        self._run_next()
        if not task.done.called:
            self._start_timer(task)
        return task.done

    def _accept(self, work: Work[Any]) -> _Task[Any] | None:
        """Return the queued task that new work displaces; ``None`` if there is a place for both.

        :raises WorkRefused: if the work is not accepted.
        """
        if self._free and self._sources[work.source] < self._per_source:
            return None
        hanging = Counter(task.work.source for task in self._running if self._hangs(task))
        if hanging.total() >= self.limits.running or hanging[work.source] >= self._per_source:
            self.timeouts += 1
            raise Unresponsive
        if self.queued < self.limits.queued:
            return None
        longest = max(self._queue.values(), key=len, default={})
        if len(longest) <= len(self._queue.get(work.client, ())) + 1:
            raise self._full()
        return next(reversed(longest))

    def _full(self) -> Overloaded:
        self.overloads += 1
        return Overloaded(f"too many {self._kind} at once")

    def _pick(self) -> _Task[Any] | None:
        for client, tasks in self._queue.items():
            for task in tasks:
                if self._sources[task.work.source] < self._per_source:
                    self._queue.move_to_end(client)
                    return task
        return None

    def _run_next(self) -> None:
        while self._free and (task := self._pick()) is not None:
            self._dequeue(task)
            task.begun = self._now()
            self.begun += 1
            self._free -= 1
            self._running.add(task)
            self._sources[task.work.source] += 1
            self._in_thread(task.work.function).addBoth(self._returned, task)

    def _returned(self, result: Any, task: _Task[Any]) -> None:
        self._free += 1
        self._running.remove(task)
        self._sources[task.work.source] -= 1
        if not self._sources[task.work.source]:
            del self._sources[task.work.source]
        self._stop_timer(task)
        if task.work.released is not None:
            task.work.released()
        self._run_next()
        if not task.done.called:
            task.done.callback(result)

    def _cancelled(self, task: _Task[Any]) -> None:
        if task.begun is None:
            self._drop(task)
            return
        self._stop_timer(task)
        if task.work.cancel is not None:
            task.work.cancel()

    def _timed_out(self, task: _Task[Any]) -> None:
        task.timer = None
        if task.begun is None:
            self.timeouts += 1
            self._fail(task, Unresponsive())
            return
        progress = None if task.work.progress is None else task.work.progress()
        if progress != task.seen:
            task.seen, task.begun = progress, self._now()
            self._start_timer(task)
            return
        if task.work.cancel is not None:
            task.work.cancel()
        self.timeouts += 1
        task.done.errback(Unresponsive())

    def _fail(self, task: _Task[Any], error: WorkRefused) -> None:
        self._drop(task)
        task.done.errback(error)

    def _drop(self, task: _Task[Any]) -> None:
        self._dequeue(task)
        self._stop_timer(task)
        if task.work.released is not None:
            task.work.released()

    def _dequeue(self, task: _Task[Any]) -> None:
        tasks = self._queue[task.work.client]
        del tasks[task]
        if not tasks:
            del self._queue[task.work.client]
        self.queued -= 1

    def _now(self) -> float:
        return 0.0 if self._clock is None else self._clock.seconds()

    def _hangs(self, task: _Task[Any]) -> bool:
        return task.begun is not None and self._now() - task.begun >= self.limits.timeout

    def _start_timer(self, task: _Task[Any]) -> None:
        if self._clock is not None:
            task.timer = self._clock.callLater(self.limits.timeout, self._timed_out, task)

    @staticmethod
    def _stop_timer(task: _Task[Any]) -> None:
        if task.timer is not None:
            task.timer.cancel()
            task.timer = None
