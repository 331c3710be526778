"""Run several blocking steps at the same time, in threads; one Ctrl-C cancels all of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from operator import length_hint
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from natproxy.client.retry import Cancellation

if TYPE_CHECKING:
    from types import TracebackType

_Result = TypeVar("_Result")


class Retry(Protocol):
    """Runs a step, perhaps more than once, and returns its result: a `Retrier`, for example."""

    def __call__(self, step: Callable[[], _Result], /) -> _Result: ...


class Ahead(Generic[_Result]):
    """A step that runs in a thread, until its result is needed.

    :param step: runs in the calling thread if the system does not allow another one.
    """

    def __init__(self, step: Callable[[], _Result]) -> None:
        self._step = step
        self._results: list[_Result] = []
        self._error: BaseException | None = None
        # Before Python 3.13, a thread whose `join` was interrupted counts as ended.
        self._ended = threading.Event()
        try:
            threading.Thread(target=self._run, name="ahead").start()
        except RuntimeError:
            self._run()

    @property
    def done(self) -> bool:
        """Whether the step has ended."""
        return self._ended.is_set()

    @property
    def succeeded(self) -> bool:
        """Whether the step has returned a result."""
        return bool(self._results)

    def wait(self) -> _Result:
        """Wait for the step and return its result, or raise its exception.

        It can be called again after an interrupt.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def cancel(self, interrupt: Callable[[], object]) -> None:
        """Wait for the step without its result.

        :param interrupt: ends blocking calls that the step is waiting in.
        """
        # It may have passed its last check and be about to block.
        while not self._ended.is_set():
            interrupt()
            self._ended.wait(0.1)

    def _run(self) -> None:
        try:
            self._results.append(self._step())
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()


def run_parallel(
    steps: Iterable[Callable[[], _Result]],
    width: int,
    cancellation: Cancellation,
    interrupt: Callable[[], object],
) -> list[_Result]:
    """Run steps, at most ``width`` at a time, and return their results in order.

    A step is taken from the iterable when a thread is free to run it, so there may be very
    many. If the system does not allow as many threads, fewer are used, or none.

    :param cancellation: cancelled if the calling thread is interrupted; each step checks it.
    :param interrupt: ends blocking calls that steps are waiting in.
    :raises BaseException: the first that a step raises, after all other steps have ended.
    """
    remaining = iter(steps)
    first = list(islice(remaining, 2))
    if width == 1 or len(first) <= 1:
        return [step() for step in chain(first, remaining)]
    numbered = enumerate(chain(first, remaining))
    results: dict[int, _Result] = {}
    lock = threading.Lock()
    failed = threading.Event()

    def work() -> None:
        while not failed.is_set():
            with lock:
                number, step = next(numbered, (-1, None))
            if step is None:
                return
            try:
                result = step()
            except BaseException:
                # No thread begins another step.
                failed.set()
                raise
            results[number] = result

    threads: list[Ahead[None]] = []
    with _ended(threads, cancellation, interrupt):
        try:
            for _ in range(min(width, max(2, length_hint(steps, width)))):
                threads.append(Ahead(work))
            for thread in threads:
                thread.wait()
        except BaseException:
            failed.set()
            raise
    return [results[number] for number in range(len(results))]


class Workers:
    """Threads that carry out steps in the order in which these are added.

    A thread starts when there is a step for it, and ends when there is none. Used as a context
    manager: on exit, all steps that have begun have ended.

    :param width: steps at the same time, with the one of the calling thread.
    :param cancellation: cancelled if the calling thread is interrupted; each step checks it.
    :param interrupt: ends blocking calls that steps are waiting in.
    """

    def __init__(
        self, width: int, cancellation: Cancellation, interrupt: Callable[[], object]
    ) -> None:
        self._width = width - 1
        self._steps: deque[Callable[[], object]] = deque()
        self._lock = threading.Lock()
        self._working = 0
        self._threads: list[Ahead[None]] = []
        self._ended = _ended(self._threads, cancellation, interrupt)

    def __enter__(self) -> Workers:
        self._ended.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._steps.clear()
        self._ended.__exit__(kind, error, traceback)

    def add(self, step: Callable[[], object]) -> None:
        """Add a step: a thread begins it as soon as one is free."""
        with self._lock:
            self._steps.append(step)
            if self._working >= self._width:
                return
            self._working += 1
        # There may be very many steps, and as many threads one after the other.
        self._threads[:] = [each for each in self._threads if not each.succeeded]
        self._threads.append(Ahead(self._work))

    def finish(self) -> None:
        """Carry out the remaining steps, in the calling thread as well.

        :raises BaseException: the first that a step has raised.
        """
        with self._lock:
            self._working += 1
        self._work()
        for thread in self._threads:
            thread.wait()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._steps:
                    self._working -= 1
                    return
                step = self._steps.popleft()
            try:
                step()
            except BaseException:
                with self._lock:
                    # No thread begins another step.
                    self._steps.clear()
                    self._working -= 1
                raise


@contextmanager
def _ended(
    threads: list[Ahead[None]], cancellation: Cancellation, interrupt: Callable[[], object]
) -> Iterator[None]:
    """End threads on exit after an exception; cancel what they do after an interrupt."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            cancellation.cancel()
            interrupt()
        for thread in threads:
            thread.cancel(_nothing if isinstance(error, Exception) else interrupt)
        raise


def _nothing() -> None:
    """Let a step continue."""
