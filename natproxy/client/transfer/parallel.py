"""Run several blocking steps at the same time, in threads; one Ctrl-C cancels all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain, islice
from operator import length_hint
from typing import Generic, Protocol, TypeVar

from natproxy.client.retry import Cancellation

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
    # Imported here because most commands download one file over one connection.
    from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

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

    count = min(width, max(2, length_hint(steps, width)))
    with ThreadPoolExecutor(count) as threads:
        workers: list[Future[None]] = []
        try:
            with suppress(RuntimeError):
                for _ in range(count):
                    workers.append(threads.submit(work))
            if not workers:
                work()
            done, _ = wait(workers, return_when=FIRST_EXCEPTION)
            for worker in workers:
                if worker in done:
                    worker.result()
        except BaseException as error:
            failed.set()
            if not isinstance(error, Exception):
                cancellation.cancel()
                interrupt()
                # A step may have passed its last check and be about to block.
                while wait(workers, 0.1).not_done:
                    interrupt()
            raise
    return [results[number] for number in range(len(results))]
