"""Several blocking steps at the same time, in threads, ended by one Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain, islice
from operator import length_hint
from typing import TypeVar

from natproxy.client.retry import Cancellation

_Result = TypeVar("_Result")


def run_parallel(
    steps: Iterable[Callable[[], _Result]],
    width: int,
    stop: Cancellation,
    interrupt: Callable[[], object],
) -> list[_Result]:
    """Take steps, at most ``width`` at a time, and return their results in order.

    Each step is taken from the iterable only when a thread is free for it, so there may be
    very many. If the system does not allow as many threads, fewer are used, or none.

    :param stop: is set when the calling thread is interrupted; each step looks at it.
    :param interrupt: ends what the steps are waiting for.
    :raises BaseException: the first that a step raises, when all others have ended too.
    """
    remaining = iter(steps)
    first = list(islice(remaining, 2))
    if width == 1 or len(first) <= 1:
        return [step() for step in chain(first, remaining)]
    # Most commands fetch one file over one connection: they need no threads.
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
                # Steps that have not begun never will.
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
                stop.cancel()
                interrupt()
                # A step may have been between two looks at `stop`, about to wait.
                while wait(workers, 0.1).not_done:
                    interrupt()
            raise
    return [results[number] for number in range(len(results))]
