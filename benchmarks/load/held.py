"""Clients that hold a connection: idle ones, and slow readers."""

from __future__ import annotations

import socket
import time
from functools import partial

from benchmarks.load.clients import connect
from benchmarks.load.crew import Crew, Work
from benchmarks.load.dialects import Line

PROCESSES = 4
"""That the clients are spread over."""
STEP = 0.2
"""Seconds between one read of a slow reader and its next."""
READ = 16 * 1024
"""Bytes of such a read."""


def idle_clients(port: int, count: int, patience: float) -> Crew:
    """Give a crew of clients that connect, and say nothing until the crew is ended."""
    shares = [len(range(first, count, PROCESSES)) for first in range(PROCESSES)]
    # An address of its own for each process: one address has 28,232 ports.
    return Crew(
        [
            partial(_hold, port, f"127.0.0.{2 + number}", share)
            for number, share in enumerate(shares)
        ],
        patience,
    )


def _hold(port: int, source: str, count: int) -> Work:
    connections = [connect(port, source) for _ in range(count)]
    return partial(len, connections)


def slow_readers(port: int, name: str, count: int, seconds: float, patience: float) -> Crew:
    """Give a crew of clients that download a file and read very little of it.

    :param seconds: that they read.
    :return: each member gives the number of bytes that its clients have read.
    """
    shares = [len(range(first, count, PROCESSES)) for first in range(PROCESSES)]
    return Crew([partial(_open, port, name, share, seconds) for share in shares if share], patience)


def _open(port: int, name: str, count: int, seconds: float) -> Work:
    connections = [connect(port) for _ in range(count)]
    return partial(_read_slowly, connections, Line().request(name), seconds)


def _read_slowly(connections: list[socket.socket], request: bytes, seconds: float) -> int:
    for connection in connections:
        connection.send(request)
    received = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(STEP)
        for connection in connections:
            received += len(connection.recv(READ))
    return received
