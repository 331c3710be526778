"""The channel between a master and a worker: a socket pair with one JSON object on each line.

The kernel closes the channel with the process at the other end: a worker whose master has been
killed drains and ends, and a master learns so that a worker has ended.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

LONGEST = 64 << 20
"""Bytes of a message at most: a config may have many rules."""

Message = Mapping[str, Any]


class Lines:
    """Collects bytes until they are lines.

    :param longest: bytes of a line at most.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete, without their end.

        :raises ValueError: if a line is too long.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from lines
        if len(self._rest) > self._longest:
            raise ValueError(f"a line of more than {self._longest} bytes")


class Channel(Protocol):
    """One end of a channel.

    Messages are kept until it is connected: the other end is a process that starts.

    :param received: called with each message.
    :param lost: called once, when the other end is closed.
    """

    _log = Logger()

    def __init__(self, received: Callable[[Message], object], lost: Callable[[], object]) -> None:
        self._received = received
        self._lost: Callable[[], object] | None = lost
        self._lines = Lines()
        self._unsent: list[bytes] = []

    def send(self, message: Message) -> None:
        """Send a message; nothing happens if the other end is closed."""
        data = json.dumps(message).encode() + b"\n"
        if self.transport is None:
            self._unsent.append(data)
        elif self._lost is not None:
            self.transport.write(data)

    def connectionMade(self) -> None:
        """Send what was sent before."""
        unsent, self._unsent = self._unsent, []
        assert self.transport is not None
        for data in unsent:
            self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        """Receive messages; an error in one of them is logged."""
        for line in self._lines.feed(data):
            try:
                self._received(json.loads(line))
            except Exception:
                self._log.failure("cannot handle a message of another process")

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Report that the other end is closed."""
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()


def connect(reactor: Any, end: socket.socket, protocol: Protocol) -> None:
    """Make a reactor serve one end of a socket pair; the socket is closed with its transport."""
    factory = Factory.forProtocol(lambda: protocol)
    factory.noisy = False
    end.setblocking(False)
    reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, factory)
    end.close()
