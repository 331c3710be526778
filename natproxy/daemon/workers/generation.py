"""What the workers of a generation have in common, and how they are started or taken over."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.workers.member import LaunchedAs, Worker
from natproxy.daemon.workers.pool import Pool
from natproxy.daemon.workers.process import Launched, WorkerProcess
from natproxy.daemon.workers.sockets import OpenEndpoint
from natproxy.daemon.workers.state import State
from natproxy.records.places import LOCK_SUFFIX, SOCKET_SUFFIX


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
