"""Several blocking steps at the same time, in threads, ended by one Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from natproxy.client.retrying import Stop

_Result = TypeVar("_Result")


def run_together(
    steps: Sequence[Callable[[], _Result]],
    width: int,
    stop: Stop,
    interrupt: Callable[[], object],
) -> list[_Result]:
    """Take steps, at most ``width`` at a time, and give their results in order.

    :param stop: is set when the calling thread is interrupted; each step looks at it.
    :param interrupt: ends what the steps are waiting for.
    :raises BaseException: the first that a step raises, when all others have ended too.
    """
    if width == 1 or len(steps) <= 1:
        return [step() for step in steps]
    # Most commands fetch one file over one connection: they need no threads.
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    with ThreadPoolExecutor(min(width, len(steps))) as threads:
        futures = [threads.submit(step) for step in steps]
        try:
            # Once a step has failed, those that have not begun never will.
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            return [future.result() for future in futures if future in done]
        except BaseException as error:
            for future in futures:
                future.cancel()
            if not isinstance(error, Exception):
                stop.set()
                interrupt()
                # A step may have been between two looks at `stop`, about to wait.
                while wait(futures, 0.1).not_done:
                    interrupt()
            raise
