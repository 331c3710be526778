"""A control socket whose replies a function computes, served by threads."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit


class Request(NamedTuple):
    """A request of a client.

    :ivar path: without the query.
    :ivar query: its members, decoded.
    """

    method: str
    path: str
    query: dict[str, str]
    body: bytes


Replies = Callable[[Request], "Iterable[bytes]"]


class ControlServer:
    """Listens on a UNIX socket; each connection is one request.

    :param path: of the socket.
    :param reply: returns the bytes of a reply, header included, in pieces that are sent as they
        are produced. The connection is closed after the last one.
    :ivar requests: those received so far.
    """

    def __init__(self, path: Path, reply: Replies) -> None:
        self.path = str(path)
        self.requests: list[Request] = []
        self._reply = reply
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(50)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop accepting; the socket remains, stale."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            line = stream.readline()
            if not line:
                # The client only looked whether there is a daemon.
                return
            request = read_request(line, stream)
            self.requests.append(request)
            for piece in self._reply(request):
                connection.sendall(piece)
            # An unread byte would reset the connection, and with it the reply.
            connection.shutdown(socket.SHUT_WR)
            stream.read()


def read_request(line: bytes, stream: Any) -> Request:
    """Read a request with a body of a stated length, or none.

    :param line: the first one.
    """
    method, target, _ = line.decode().split()
    length = 0
    while line := stream.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    parts = urlsplit(target)
    return Request(method, parts.path, dict(parse_qsl(parts.query)), stream.read(length))


def whole(body: bytes, status: str = "200 OK") -> list[bytes]:
    """Return a reply with the length of its body."""
    return [f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body]


def document(members: object, status: str = "200 OK") -> list[bytes]:
    """Return a reply with a JSON document."""
    return whole(json.dumps(members).encode(), status)


def chunked(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """Yield a reply in chunks."""
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def lines(members: Iterable[object]) -> Iterable[bytes]:
    """Yield a reply of JSON lines, a chunk for each."""
    return chunked(json.dumps(each).encode() + b"\n" for each in members)
