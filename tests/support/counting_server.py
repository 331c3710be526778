"""A server that counts the round trips of a client, for tests of commands on long links."""

from __future__ import annotations

import socket
from collections.abc import Callable

from natproxy.address import Address
from tests.support.answering_server import AnsweringServer


class CountingServer(AnsweringServer):
    """Replies at once to all commands that arrive together.

    :param reply: returns the reply to a line.
    :ivar arrivals: of commands. What a client writes at once on loopback arrives at once.
    """

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self.arrivals = 0
        super().__init__(reply)
        self.address = Address("127.0.0.1", self.port)

    @property
    def round_trips(self) -> int:
        """Connects, and arrivals of commands."""
        return self.connections + self.arrivals

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while received := connection.recv(1 << 16):
                    self.arrivals += 1
                    lines = received.splitlines()
                    self.lines += lines
                    connection.sendall(b"".join(map(self._reply, lines)))
            except OSError:
                return
