"""Clients that send commands as fast as they can, and discard the replies."""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress
from functools import partial

from benchmarks.load.clients import connect
from benchmarks.load.crew import Crew, Work

LINES = (b"x\n", b"\n", b"STAT x\n", b"FEAT\n", b"GET f\n", b"HASH f\n")
"""What they send, one of these each: commands with immediate replies, and blank lines."""

_SENT_AT_ONCE = 256 * 1024
_DISCARDED = bytearray(1024 * 1024)


def flooders(port: int, count: int, seconds: float, patience: float) -> Crew:
    """Return a crew of one process with so many connections.

    :param seconds: that they go on, unless the crew is ended before.
    :param patience: seconds that it all may take.
    :return: the crew's member returns the bytes sent.
    """
    return Crew([partial(_prepare, port, count, seconds)], patience)


def _prepare(port: int, count: int, seconds: float) -> Work:
    return partial(_run, [connect(port) for _ in range(count)], seconds)


def _run(connections: list[socket.socket], seconds: float) -> int:
    poll = select.epoll()
    flood: dict[int, tuple[socket.socket, bytes]] = {}
    for number, connection in enumerate(connections):
        line = LINES[number % len(LINES)]
        connection.setblocking(False)
        flood[connection.fileno()] = connection, line * (_SENT_AT_ONCE // len(line))
        poll.register(connection.fileno(), select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    sent = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for descriptor, events in poll.poll(1.0):
            connection, lines = flood[descriptor]
            if events & select.EPOLLIN:
                with suppress(BlockingIOError):
                    while connection.recv_into(_DISCARDED):
                        pass
            # A partly sent line makes one other line of two, which is as much work.
            with suppress(BlockingIOError):
                while True:
                    sent += connection.send(lines)
    return sent
