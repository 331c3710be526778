"""The file server that everybody relays from, and the floor of the work ``serve``.

It speaks ``DOWNLOAD`` and little else, as fast as Python lets it: a small file is in
memory and its reply is one ``send``, a large one goes out with a blocking ``os.sendfile``
in a thread of its own. Run as ``origin PORT DIRECTORY``.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading

SMALL = 64 * 1024
"""Bytes up to which a file is kept in memory."""


class Origin:
    """Serves the files that were in a directory when it started.

    :param port: to listen on, of 127.0.0.1.
    :param directory: with the files.
    """

    def __init__(self, port: int, directory: str) -> None:
        self._small: dict[bytes, bytes] = {}
        self._large: dict[bytes, tuple[int, int]] = {}
        for entry in os.scandir(directory):
            if not entry.is_file():
                continue
            size = entry.stat().st_size
            name = os.fsencode(entry.name)
            descriptor = os.open(entry.path, os.O_RDONLY)
            if size > SMALL:
                self._large[name] = (descriptor, size)
            else:
                self._small[name] = b"OK %d\n" % size + os.pread(descriptor, SMALL, 0)
                os.close(descriptor)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._connections: dict[int, socket.socket] = {}
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Serve for ever."""
        listener = self._listener.fileno()
        connections = self._connections
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == listener:
                    self._accept()
                elif descriptor in connections:
                    self._answer(connections[descriptor])

    def _accept(self) -> None:
        for _ in range(16):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._watch(connection)

    def _watch(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connections[connection.fileno()] = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _answer(self, connection: socket.socket) -> None:
        try:
            command = connection.recv(65536)
            reply = self._small.get(command[9:-1])
            if reply is not None:
                connection.sendall(reply)
                return
        except OSError:
            command = b""
        if command:
            self._epoll.unregister(connection.fileno())
        del self._connections[connection.fileno()]
        if command[9:-1] in self._large:
            body = self._large[command[9:-1]]
            threading.Thread(target=self._send, args=(connection, *body), daemon=True).start()
            return
        if command:
            connection.setblocking(True)
            connection.send(b"ERR file not found\n")
        connection.close()

    def _send(self, connection: socket.socket, file: int, size: int) -> None:
        try:
            connection.setblocking(True)
            connection.sendall(b"OK %d\n" % size)
            output, offset = connection.fileno(), 0
            while offset < size:
                offset += os.sendfile(output, file, offset, size - offset)
        except OSError:
            connection.close()
        else:
            self._watch(connection)


if __name__ == "__main__":
    Origin(int(sys.argv[1]), sys.argv[2]).run()
