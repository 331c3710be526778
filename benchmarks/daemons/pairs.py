"""Proxies of a few lines, a thread for each direction of each connection.

Run as ``pairs splice|copy PORT ORIGIN_PORT``. ``splice`` is the bare loop that is the floor
of the work ``relay``: socket to pipe to socket, nothing else. ``copy`` reads 4 KiB at a
time, as proxies written in an afternoon do.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

PIPE = 1024 * 1024
"""Bytes that a pipe is asked to hold."""
READ = 4096
"""Bytes that are copied at once."""
_F_SETPIPE_SZ = 1031


def copy(source: socket.socket, target: socket.socket) -> None:
    """Move bytes until there are no more."""
    while data := source.recv(READ):
        target.sendall(data)


def splice(source: socket.socket, target: socket.socket) -> None:
    """Move bytes until there are no more, without seeing them."""
    pipe_out, pipe_in = os.pipe()
    try:
        try:
            size = fcntl.fcntl(pipe_in, _F_SETPIPE_SZ, PIPE)
        except OSError:
            size = 64 * 1024
        source_fd, target_fd = source.fileno(), target.fileno()
        while moved := os.splice(source_fd, pipe_in, size):
            while moved:
                moved -= os.splice(pipe_out, target_fd, moved)
    finally:
        os.close(pipe_out)
        os.close(pipe_in)


def one_way(
    move: Callable[[socket.socket, socket.socket], None],
    source: socket.socket,
    target: socket.socket,
) -> None:
    """Move bytes one way; when that ends, end both connections."""
    with suppress(OSError):
        move(source, target)
    for connection in (source, target):
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def serve(
    client: socket.socket,
    origin: tuple[str, int],
    move: Callable[[socket.socket, socket.socket], None],
) -> None:
    """Serve one client, on an upstream connection of its own."""
    with client:
        try:
            upstream = socket.create_connection(origin, 5)
        except OSError:
            return
        with upstream:
            for connection in (client, upstream):
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            commands = threading.Thread(target=one_way, args=(copy, client, upstream), daemon=True)
            commands.start()
            one_way(move, upstream, client)
            commands.join()


def main(way: str, port: int, origin_port: int) -> None:
    """Serve for ever."""
    move = {"splice": splice, "copy": copy}[way]
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    while True:
        client, _ = listener.accept()
        threading.Thread(
            target=serve, args=(client, ("127.0.0.1", origin_port), move), daemon=True
        ).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
