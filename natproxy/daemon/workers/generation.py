"""What the workers of a generation have in common, and how they are started or taken over."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.python.failure import Failure

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.places import PlaceError, default_path, explicit_control
from natproxy.daemon.service import StartupError
from natproxy.daemon.workers.listening import OpenEndpoint
from natproxy.daemon.workers.member import LaunchedAs, StartFailed, Worker
from natproxy.daemon.workers.pool import START, Pool
from natproxy.daemon.workers.process import Launched, WorkerProcess
from natproxy.daemon.workers.state import State
from natproxy.records.places import LOCK_SUFFIX, NONE, SOCKET_SUFFIX

GENERATIONS = 3
"""Generations of workers that may run: of an older one, the connections are drained."""


class Generation:
    """What the workers of a generation have in common.

    :param number: counted up by each reload that replaces the workers.
    :param sockets: that they inherit.
    :param config: their settings; ``None`` for those that are in effect.
    :ivar number: as the parameter.
    :ivar sockets: likewise.
    :ivar config: likewise.
    """

    def __init__(
        self, number: int, sockets: Sequence[OpenEndpoint], config: DaemonConfig | None = None
    ) -> None:
        self.number = number
        self.sockets = sockets
        self.config = config

    def use_effective(self) -> None:
        """Start further workers with the settings that are in effect."""
        self.config = None


def retire_older(pools: Sequence[Pool], config: DaemonConfig) -> None:
    """Make the workers of older generations accept no more, now that newer ones serve.

    :param pools: the oldest first.
    :param config: the new settings.
    """
    for pool in pools:
        # Others were retired by an earlier reload.
        if pool.replacing:
            pool.retire(config.reload_drain or None)
    for pool in pools[: -(GENERATIONS - 1)]:
        pool.drain(config.drain)


def control_of_workers(config: DaemonConfig, name: str) -> str | None:
    """Return the path from which those of the workers follow; ``None`` if they have none.

    The master reads from them for its web endpoints, too.

    :param name: of the daemon.
    """
    if config.control == NONE and not config.web:
        return None
    path = explicit_control(config)
    if path is None:
        try:
            path = default_path(os.environ, os.geteuid(), name)
        except PlaceError:
            # The companion has logged the reason.
            return None
    return path


def free_control(control: str | None, number: int, taken: Container[str | None]) -> str | None:
    """Return a path for a worker's control socket that no other worker has.

    :param control: of `control_of_workers`.
    :param number: of the worker.
    :param taken: the paths of the others.
    """
    if control is None:
        return None
    stem = control.removesuffix(SOCKET_SUFFIX)
    path, again = f"{stem}.w{number}{SOCKET_SUFFIX}", 0
    while path in taken:
        again += 1
        path = f"{stem}.w{number}.{again}{SOCKET_SUFFIX}"
    return path


def remove_control(worker: Worker) -> None:
    """Remove the control socket that a worker has left because it was killed, and its lock."""
    if worker.control is not None:
        for path in (worker.control, worker.control.removesuffix(SOCKET_SUFFIX) + LOCK_SUFFIX):
            with suppress(OSError):
                os.unlink(path)


def resumed_sockets(state: Mapping[str, Any]) -> list[OpenEndpoint]:
    """Return the open sockets of a state."""
    return [
        OpenEndpoint(description, [socket.socket(fileno=each) for each in descriptors], path)
        for description, _, descriptors, path in state["sockets"]
    ]


def resumed_worker(members: Mapping[str, Any], pool: Pool, now: Callable[[], float]) -> Worker:
    """Return a worker of a state; see `Worker.json`."""
    channel, log = (socket.socket(fileno=members[name]) for name in ("channel", "log"))
    launched = Launched(WorkerProcess(members["pid"]), channel, log)
    started = LaunchedAs(members["boot"], members["control"], launched)
    worker = Worker(members["number"], pool.generation, started, pool.changed, now)
    worker.state = State(members["state"])
    return worker


class Wait:
    """Serves the channels of workers that start while the reactor does not run.

    :param pool: the workers.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._closed: set[Worker] = set()

    def until_started(self, now: Callable[[], float]) -> None:
        """Start them, and wait until all of them serve.

        :param now: returns monotonic seconds.
        :raises StartupError: if one cannot start, or takes too long.
        """
        failures: list[Failure] = []
        started: list[None] = []
        self._pool.start().addCallbacks(started.append, failures.append)
        deadline = now() + START
        while not started and not failures:
            if now() > deadline:
                raise StartupError(f"the workers have not started within {START:g} s")
            self.once()
        if failures:
            failures[0].trap(StartFailed)
            raise StartupError(failures[0].getErrorMessage())

    def once(self, seconds: float = 0.05) -> None:
        """Receive what workers have sent, and note which have ended.

        :param seconds: to wait for it.
        """
        open_ = {
            one.launched.channel.fileno(): one for one in self._pool if one not in self._closed
        }
        poll = select.poll()
        for descriptor in open_:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(seconds * 1000):
            worker = open_[descriptor]
            data = worker.launched.channel.recv(1 << 16)
            if data:
                worker.channel.dataReceived(data)
            else:
                self._closed.add(worker)
        self._pool.reap()
