"""One client that times how soon it is answered."""

from __future__ import annotations

import select
import time
from functools import partial

from benchmarks.errors import BenchmarkError
from benchmarks.load.clients import PATIENCE, Target, new_client
from benchmarks.load.crew import Crew, Work

PAUSE = 0.001
"""Seconds between one reply and the next command."""


def probes(target: Target, name: str, size: int, count: int, patience: float) -> Crew:
    """Give a crew of one, which downloads a small file again and again.

    :param size: of the file, in bytes.
    :param count: of the downloads.
    :param patience: seconds that they may all take.
    :return: the crew's member gives the seconds to the first byte, one for each download.
    """
    return Crew([partial(_prepare, target, name, size, count)], patience)


def _prepare(target: Target, name: str, size: int, count: int) -> Work:
    client = new_client(target, name, size)
    client.prepare()

    def run() -> list[float]:
        times = []
        for _ in range(count):
            poll = select.poll()
            started = time.perf_counter()
            poll.register(client.start(), select.POLLIN)
            answered = poll.poll(PATIENCE * 1000)
            times.append(time.perf_counter() - started)
            while answered and not client.readable():
                answered = poll.poll(PATIENCE * 1000)
            if not answered:
                raise BenchmarkError(f"no byte came for {PATIENCE:g} s")
            client.finish()
            time.sleep(PAUSE)
        return times

    return run
