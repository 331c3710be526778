"""A server, a proxy and a client of version 1 as somebody else would write them.

They are threads and blocking sockets, share no code with natproxy, and read and write
exactly what the contract says and no more: one reply, then the connection is closed.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType


class Threaded:
    """Accepts connections on a free port of the loopback, a thread for each."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Threaded:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
        self.listener.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            line = lines.readline().rstrip(b"\r\n")
            # At a header with words in it, a thread breaks, and the connection with it.
            # Nor does it matter to it that its client has gone.
            with suppress(ValueError, ConnectionError):
                if line:
                    connection.sendall(self.reply(line))

    def reply(self, line: bytes) -> bytes:
        """Give the whole reply to a command."""
        raise NotImplementedError


class Server(Threaded):
    """Serves the files of a directory; an empty directory gets the old empty line."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.directory = directory

    def reply(self, line: bytes) -> bytes:
        words = line.split(None, 1)
        if words[0].upper() == b"LIST":
            names = sorted(os.listdir(os.fsencode(self.directory)))
            return b"OK\n" + b"\n".join(names) + b"\nEND\n"
        if words[0].upper() == b"DOWNLOAD" and len(words) == 2:
            try:
                with open(os.path.join(os.fsencode(self.directory), words[1]), "rb") as file:
                    data = file.read()
            except OSError:
                return b"ERR file not found\n"
            return b"OK %d\n" % len(data) + data
        return b"ERR unknown command\n"


class Proxy(Threaded):
    """Passes each command on, and each reply back until the server closes."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.upstream = port

    def reply(self, line: bytes) -> bytes:
        return ask(self.upstream, line)


def ask(port: int, line: bytes) -> bytes:
    """Send one command as a client does, and give its reply."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(line + b"\n")
        with connection.makefile("rb") as reply:
            header = reply.readline()
            if header == b"OK\n":
                return header + b"".join(iter(reply.readline, b"END\n")) + b"END\n"
            if header.startswith(b"OK "):
                return header + reply.read(int(header[3:]))
            return header
