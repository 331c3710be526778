"""Clients that send short commands through a proxy at a steady rate, and time each of them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, NamedTuple

THREADS = 4
"""Clients; each has one connection."""

PATIENCE = 30.0
"""Seconds that a command may take; only a failing test needs them."""


class Command(NamedTuple):
    """A command that was sent.

    :ivar began: seconds of the monotonic clock.
    :ivar seconds: until its reply was complete.
    :ivar failure: why it failed; empty if it did not.
    """

    began: float
    seconds: float
    failure: str


class PacedLoad:
    """Clients in threads, which run for the length of a block.

    :param port: of the proxy, on the loopback interface.
    :param name: of a file, which they download.
    :param rate: commands per second of all clients.
    """

    def __init__(self, port: int, name: str, rate: float) -> None:
        self._port = port
        self._command = f"DOWNLOAD {name}\n".encode()
        self._pace = THREADS / rate
        self._stop = threading.Event()
        self._done: list[list[Command]] = [[] for _ in range(THREADS)]
        self._threads = [
            threading.Thread(target=self._client, args=(done,), daemon=True) for done in self._done
        ]

    def __enter__(self) -> PacedLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the clients; each finishes its command."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def commands(self, since: float = 0.0, until: float = float("inf")) -> list[Command]:
        """Return the commands that have ended and began in an interval of the monotonic clock."""
        return [
            command
            for done in self._done
            for command in list(done)
            if since <= command.began < until
        ]

    def _client(self, done: list[Command]) -> None:
        connection: socket.socket | None = None
        replies: IO[bytes] | None = None
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += self._pace
            began = time.monotonic()
            failure = ""
            try:
                if connection is None or replies is None:
                    connection = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
                    replies = connection.makefile("rb")
                connection.sendall(self._command)
                failure = _read_reply(replies)
            except (OSError, ValueError) as error:
                failure = str(error)
            done.append(Command(began, time.monotonic() - began, failure))
            if failure and connection is not None:
                connection.close()
                connection = replies = None
        if connection is not None:
            connection.close()


def _read_reply(replies: IO[bytes]) -> str:
    """Read a reply; return the error in it, or an empty text."""
    header = replies.readline()
    words = header.split()
    if words[:1] != [b"OK"]:
        return header.decode(errors="replace").strip() or "the connection was closed"
    size = int(words[1])
    return "" if len(replies.read(size)) == size else "the connection was closed within the reply"


def percentile(commands: Sequence[Command], share: float) -> float:
    """Return the seconds within which a share of commands was complete; 0 without commands."""
    seconds = sorted(command.seconds for command in commands)
    return seconds[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else 0.0
