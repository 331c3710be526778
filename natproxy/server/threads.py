"""Work off the reactor's thread: pools of threads, and fair, bounded lines before them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from natproxy.protocol import Refusal

PATIENCE = 45.0
"""Seconds after which a client is not kept waiting for work, begun or not.

Less than a proxy waits for a file server's reply.
"""

NO_RESPONSE = "the storage does not respond"

T = TypeVar("T")


class InThread(Protocol):
    """Calls a function in a thread and fires with its result in the reactor's."""

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]:
        """Call it."""
        ...


class Threads:
    """A pool of threads for one kind of work.

    Its threads are made as they are needed and end with the reactor. A thread that hangs
    in a system call delays neither the reactor nor the end of the process.

    :param reactor: where results are delivered (`IReactorThreads`, `IReactorCore`).
    :param most: threads.
    :param name: of the pool.
    """

    def __init__(self, reactor: Any, most: int, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, most, name)
        self._pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]:
        """Call a function in a thread; see `InThread`."""
        if not (self._pool.started or self._pool.joined):
            # Not earlier: a daemon may fork between being made and being started.
            self._pool.start()
            self._reactor.addSystemEventTrigger("during", "shutdown", self.stop)
        return deferToThreadPool(self._reactor, self._pool, function)

    def stop(self) -> None:
        """Let the threads end, without waiting for them."""
        if self._pool.started:
            # The pool joins its threads.
            Thread(target=self._pool.stop, daemon=True).start()


class Abandoned(Exception):
    """Nobody waits for the work any more."""


class Abandonment:
    """A flag that the reactor's thread sets, and a working thread looks at."""

    def __init__(self) -> None:
        self.abandoned = False
        self._checks = 0

    def abandon(self) -> None:
        """Let the thread end its work soon."""
        self.abandoned = True

    def check(self) -> None:
        """Return if the work is wanted.

        :raises Abandoned: if it is not.
        """
        self._checks += 1
        if self.abandoned:
            raise Abandoned

    def progress(self) -> int:
        """Return a number that grows as the work goes on."""
        return self._checks


class _Task(Generic[T]):
    """A piece of work.

    :ivar begun: when a thread took it, or was last seen to go on; `None` in line.
    :ivar seen: its progress then.
    """

    timer: IDelayedCall | None = None
    begun: float | None = None

    def __init__(
        self,
        work: Callable[[], T],
        client: Hashable,
        source: Hashable,
        abandon: Callable[[], object] | None,
        ended: Callable[[], object] | None,
        progress: Callable[[], object] | None,
        leave: Callable[[_Task[T]], None],
    ) -> None:
        self.work = work
        self.client = client
        self.source = source
        self.abandon = abandon
        self.ended = ended
        self.progress = progress
        self.seen = None if progress is None else progress()
        self.done: Deferred[T] = Deferred(lambda _: leave(self))


class Turns:
    """Work of one kind: some of it at a time, some more in line, the rest refused.

    Clients take turns: one with much work in line delays another by one piece of it. When
    the line is full, a client with less work in line than another takes a place of the
    other's, whose last piece of work is refused.

    :param in_thread: where it is done.
    :param at_once: pieces of work that may be under way.
    :param in_line: how many more may wait.
    :param what: they are, in the words of a refusal.
    :param clock: for `patience`; `None` for no time-out.
    :param patience: seconds after which a piece of work fails, begun or not. A thread that
        hangs keeps its place, and when all places are kept so, further work is refused.
    :param share: pieces of work on one source that may be under way; `None` for all.
    """

    def __init__(
        self,
        in_thread: InThread,
        at_once: int,
        in_line: int,
        what: str,
        clock: IReactorTime | None = None,
        patience: float = PATIENCE,
        share: int | None = None,
    ) -> None:
        self._in_thread = in_thread
        self._at_once = at_once
        self._free = at_once
        self._most_in_line = in_line
        self._what = what
        self._clock = clock
        self._patience = patience
        self._share = at_once if share is None else share
        # The client at the front is served next.
        self._line: OrderedDict[Hashable, dict[_Task[Any], None]] = OrderedDict()
        self._in_line = 0
        self._under_way: set[_Task[Any]] = set()
        self._sources: Counter[Hashable] = Counter()

    def take(
        self,
        work: Callable[[], T],
        client: Hashable = None,
        source: Hashable = None,
        abandon: Callable[[], object] | None = None,
        ended: Callable[[], object] | None = None,
        progress: Callable[[], object] | None = None,
        again: bool = False,
    ) -> Deferred[T]:
        """Have work done in its turn.

        :param client: who wants it, for a fair line.
        :param source: what it reads, for a fair share of the threads.
        :param abandon: called when nobody waits for the result of work that has been
            begun: it is to end soon.
        :param ended: called when the work has returned, or will never be begun.
        :param progress: returns something that changes as the work goes on; work that is
            long and does go on is waited for.
        :param again: whether it continues work that was admitted before: not refused.
        :return: fires with its result, or with `Refusal`: with code 503, if it takes too
            long, with 429, if its place in the line is taken. Cancelled in line, the work
            is not begun; after that, nobody is told of its result.
        :raises Refusal: with code 429, if the line is full; with 503, if all threads hang.
        """
        if not again:
            self._admit(client, source)
        task = _Task(work, client, source, abandon, ended, progress, self._leave)
        self._line.setdefault(client, {})[task] = None
        self._in_line += 1
        self._next()
        if not task.done.called:
            self._start_timer(task)
        return task.done

    def _admit(self, client: Hashable, source: Hashable) -> None:
        if self._free and self._sources[source] < self._share:
            return
        hanging = Counter(task.source for task in self._under_way if self._hangs(task))
        if hanging.total() >= self._at_once or hanging[source] >= self._share:
            raise Refusal(503, NO_RESPONSE)
        if self._in_line < self._most_in_line:
            return
        full = Refusal(429, f"too many {self._what} at once")
        longest = max(self._line.values(), key=len, default={})
        if len(longest) <= len(self._line.get(client, ())) + 1:
            raise full
        self._fail(next(reversed(longest)), full)

    def _pick(self) -> _Task[Any] | None:
        for client, tasks in self._line.items():
            for task in tasks:
                if self._sources[task.source] < self._share:
                    self._line.move_to_end(client)
                    return task
        return None

    def _next(self) -> None:
        while self._free and (task := self._pick()) is not None:
            self._forget(task)
            task.begun = self._now()
            self._free -= 1
            self._under_way.add(task)
            self._sources[task.source] += 1
            self._in_thread(task.work).addBoth(self._ended, task)

    def _ended(self, result: Any, task: _Task[Any]) -> None:
        self._free += 1
        self._under_way.remove(task)
        self._sources[task.source] -= 1
        if not self._sources[task.source]:
            del self._sources[task.source]
        self._stop_timer(task)
        if task.ended is not None:
            task.ended()
        self._next()
        if not task.done.called:
            task.done.callback(result)

    def _leave(self, task: _Task[Any]) -> None:
        if task.begun is None:
            self._drop(task)
            return
        self._stop_timer(task)
        if task.abandon is not None:
            task.abandon()

    def _late(self, task: _Task[Any]) -> None:
        task.timer = None
        refusal = Refusal(503, NO_RESPONSE)
        if task.begun is None:
            self._fail(task, refusal)
            return
        progress = None if task.progress is None else task.progress()
        if progress != task.seen:
            task.seen, task.begun = progress, self._now()
            self._start_timer(task)
            return
        if task.abandon is not None:
            task.abandon()
        task.done.errback(refusal)

    def _fail(self, task: _Task[Any], refusal: Refusal) -> None:
        self._drop(task)
        task.done.errback(refusal)

    def _drop(self, task: _Task[Any]) -> None:
        self._forget(task)
        self._stop_timer(task)
        if task.ended is not None:
            task.ended()

    def _forget(self, task: _Task[Any]) -> None:
        tasks = self._line[task.client]
        del tasks[task]
        if not tasks:
            del self._line[task.client]
        self._in_line -= 1

    def _now(self) -> float:
        return 0.0 if self._clock is None else self._clock.seconds()

    def _hangs(self, task: _Task[Any]) -> bool:
        return task.begun is not None and self._now() - task.begun >= self._patience

    def _start_timer(self, task: _Task[Any]) -> None:
        if self._clock is not None:
            task.timer = self._clock.callLater(self._patience, self._late, task)

    @staticmethod
    def _stop_timer(task: _Task[Any]) -> None:
        if task.timer is not None:
            task.timer.cancel()
            task.timer = None
