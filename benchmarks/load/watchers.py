"""Watchers of the control socket: one that reads every event, and many that read nothing."""

from __future__ import annotations

import socket
import time
from functools import partial
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.load.crew import Crew, Work

REQUEST = b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: natproxy\r\n\r\n"
READ = 256 * 1024
"""Bytes of one read."""


def watchers(control: Path, count: int, reads: bool, patience: float) -> Crew:
    """Return a crew of one process with watchers of all events, until the crew is ended.

    :param control: path of the control socket.
    :param reads: whether they read; otherwise they read the head of the response only.
    """
    return Crew([partial(_prepare, control, count, reads)], patience)


def _prepare(control: Path, count: int, reads: bool) -> Work:
    connections = []
    for _ in range(count):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(control))
        connection.sendall(REQUEST)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = connection.recv(1)
            if not byte:
                raise BenchmarkError("the control socket has ended the response")
            head += byte
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"the control socket said {head.splitlines()[0]!r}")
        connections.append(connection)
    return partial(_read, connections) if reads else partial(time.sleep, 1e6)


def _read(connections: list[socket.socket]) -> None:
    while True:
        for connection in connections:
            if not connection.recv(READ):
                raise BenchmarkError("the daemon has ended a watcher")
