"""A server in front of another one, which falls silent: it accepts, and sends nothing."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

PIECE = 65536


class SilentRelay:
    """A relay on the loopback interface, for the length of a block.

    :param port: of the server behind it.
    :param last: when a client has sent these bytes, nothing is moved any more, and connections
        stay open.
    :ivar port: of the relay.
    :ivar silent: is set when it is so.
    """

    def __init__(self, port: int, last: bytes) -> None:
        self._behind = port
        self._last = last
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.silent = threading.Event()

    def __enter__(self) -> SilentRelay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.silent.set()
        for connection in (self._listener, *self._connections):
            # It wakes the threads.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._connections.append(client)
                if self.silent.is_set():
                    continue
                server = socket.create_connection(("127.0.0.1", self._behind))
                self._connections.append(server)
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._move, args=ends, daemon=True).start()

    def _move(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(PIECE):
                if self._last in data:
                    self.silent.set()
                if self.silent.is_set():
                    return
                sink.sendall(data)
