"""Many clients in a few processes, each downloading one file again and again."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.errors import BenchmarkError
from benchmarks.load.clients import Client, Target, new_client
from benchmarks.load.crew import Crew, Preparation, Work

PROCESSES = 4
"""That the clients are spread over, at the most."""
STALLED = 15.0
"""Seconds without a byte for anybody, after which something is wrong."""


@dataclass(frozen=True)
class Tally:
    """What clients did.

    :ivar received: bytes of bodies.
    :ivar replies: complete ones.
    :ivar started: when the first of them began, by the monotonic clock.
    :ivar ended: when the last of them was done.
    """

    received: int
    replies: int
    started: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started


def add_up(tallies: Sequence[Tally]) -> Tally:
    """Put the tallies of several processes together."""
    return Tally(
        sum(tally.received for tally in tallies),
        sum(tally.replies for tally in tallies),
        min(tally.started for tally in tallies),
        max(tally.ended for tally in tallies),
    )


def downloads(
    target: Target, name: str, size: int, clients: int, times: int, patience: float
) -> Crew:
    """Give a crew of clients.

    :param size: of the file, in bytes.
    :param times: that each client downloads it.
    :param patience: seconds that it all may take.
    :return: each member of the crew gives a `Tally`.
    """
    processes = min(PROCESSES, clients)
    shares = [len(range(first, clients, processes)) for first in range(processes)]
    preparations: list[Preparation] = [
        partial(_prepare, target, name, size, share, times) for share in shares
    ]
    return Crew(preparations, patience)


class Bursts:
    """Clients of this process that keep their connections and send commands in bursts.

    :param size: of the file, in bytes.
    """

    def __init__(self, target: Target, name: str, size: int, clients: int) -> None:
        self._clients = [new_client(target, name, size) for _ in range(clients)]
        for client in self._clients:
            client.prepare()

    def send(self, times: int) -> Tally:
        """Let each client download the file a number of times."""
        return _run(self._clients, times)


def _prepare(target: Target, name: str, size: int, count: int, times: int) -> Work:
    clients = [new_client(target, name, size) for _ in range(count)]
    for client in clients:
        client.prepare()
    return partial(_run, clients, times)


def _run(clients: Sequence[Client], times: int) -> Tally:
    started = time.monotonic()
    epoll = select.epoll()
    watched: dict[int, Client] = {}
    left = dict.fromkeys(clients, times)

    def start(client: Client) -> None:
        descriptor = client.start().fileno()
        watched[descriptor] = client
        epoll.register(descriptor, select.EPOLLIN)

    for client in clients:
        start(client)
    replies = 0
    while left:
        ready = epoll.poll(STALLED)
        if not ready:
            raise BenchmarkError(f"no byte came for {STALLED:g} s")
        for descriptor, _ in ready:
            client = watched[descriptor]
            if not client.readable():
                continue
            replies += 1
            left[client] -= 1
            kept = client.connection
            client.finish()
            if client.connection is not kept:
                del watched[descriptor]
                if left[client]:
                    start(client)
            elif left[client]:
                client.start()
            if not left[client]:
                del left[client]
    received = sum(client.received for client in clients)
    return Tally(received, replies, started, time.monotonic())
