"""A server that counts the round trips of a client, for tests of commands on long links."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from natproxy.address import Address


class CountingServer:
    """Replies at once to all commands that arrive together.

    :param reply: returns the reply to a line.
    :ivar round_trips: connects, and arrivals of commands. What a client writes at once on
        loopback arrives at once.
    :ivar lines: all received lines, in order.
    """

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self.round_trips = 0
        self.lines: list[bytes] = []
        self._reply = reply
        self._accepted: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._start(self._accept)

    def close(self) -> None:
        """Close all connections and wait for the threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        self._listener.close()
        for connection in self._accepted:
            connection.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.round_trips += 1
            self._accepted.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            while received := connection.recv(1 << 16):
                self.round_trips += 1
                lines = received.splitlines()
                self.lines += lines
                connection.sendall(b"".join(map(self._reply, lines)))
        except OSError:
            return
