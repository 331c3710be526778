"""HTTP/1.1 on a UNIX socket: one request and its reply for each connection.

``http.client`` imports ``email`` and ``ssl``, which takes longer than the whole start of the
command line. This reads every framing of a reply that RFC 9112 has for a client without
extensions: a length, chunks, or the end of the connection.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress

from natproxy.client.context import Closing
from natproxy.client.errors import (
    CannotConnect,
    ClosedWithoutReply,
    ConnectionBroken,
    NoDaemon,
    NotUnderstood,
)
from natproxy.protocol import printable

RECEIVED = 1 << 16
"""Bytes to receive at once."""

LONGEST_HEADER = 1 << 16
LONGEST_LINE = 1 << 20
"""Bytes of a line of a body; a record with the longest name has a tenth of them."""

RETRY = 0.02
"""Seconds between attempts to connect while the queue of the socket is full."""


class Reply(Closing):
    """A reply whose header has been received. The body is received as it is read, once.

    :ivar status: the status code.
    :ivar headers: the header fields; their names are in lower case.
    """

    def __init__(self, connection: socket.socket, path: str) -> None:
        """Receive the header.

        :raises ClientError: if it does not arrive, or is malformed.
        """
        self._connection = connection
        self._path = path
        self._buffer = b""
        self.status, self.headers = self._header()
        while 100 <= self.status < 200:
            self.status, self.headers = self._header()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of the body as they arrive.

        :raises ConnectionBroken: if the connection is lost or silent before the end.
        :raises NotUnderstood: if the framing is malformed.
        """
        coding = self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length")
        if coding == "chunked":
            yield from self._chunked()
        elif coding:
            raise self._malformed(f"the transfer coding {printable(coding.encode())!r}")
        elif length is not None:
            if not (length.isascii() and length.isdigit() and len(length) < 19):
                raise self._malformed("a malformed Content-Length")
            yield from self._exactly(int(length))
        elif self.status not in (204, 304):
            yield self._buffer
            self._buffer = b""
            while data := self._receive():
                yield data

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the body as they arrive, without their ends.

        :raises ClientError: see `chunks`; and if a line is too long.
        """
        rest = b""
        for data in self.chunks():
            *lines, last = data.split(b"\n")
            if lines:
                lines[0] = rest + lines[0]
                rest = last
                yield from lines
            else:
                rest += last
            if len(rest) > LONGEST_LINE:
                raise self._malformed("a line that is too long")
        if rest:
            yield rest

    def read(self, most: int) -> bytes:
        """Return the whole body.

        :raises ClientError: see `chunks`; and if it has more bytes than ``most``.
        """
        body = b""
        for data in self.chunks():
            body += data
            if len(body) > most:
                raise self._malformed(f"a body of more than {most} bytes")
        return body

    def _header(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > LONGEST_HEADER:
                raise self._malformed("a header that is too long")
            data = self._receive()
            if not data:
                raise ClosedWithoutReply(f"{self._name}: the daemon closed the connection")
            self._buffer += data
        header, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *fields = header.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        status = rest[:3]
        if not (version.startswith("HTTP/1.") and status.isascii() and status.isdigit()):
            raise self._malformed("no status line of HTTP")
        headers = {}
        for field in fields:
            name, colon, value = field.partition(":")
            if not colon:
                raise self._malformed("a malformed header field")
            headers[name.lower()] = value.strip()
        return int(status), headers

    def _chunked(self) -> Iterator[bytes]:
        while True:
            size = self._line().partition(b";")[0].strip()
            if not size or len(size) > 15 or size.strip(b"0123456789abcdefABCDEF"):
                raise self._malformed("a malformed chunk")
            left = int(size, 16)
            if not left:
                break
            yield from self._exactly(left)
            if self._line():
                raise self._malformed("a malformed chunk")
        while self._line():
            # Trailer fields have no use here.
            pass

    def _exactly(self, left: int) -> Iterator[bytes]:
        while left:
            data = self._buffer or self._more()
            self._buffer = data[left:]
            data = data[:left]
            left -= len(data)
            yield data

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > LONGEST_HEADER:
                raise self._malformed("a malformed chunk")
            self._buffer += self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _more(self) -> bytes:
        data = self._receive()
        if not data:
            raise ConnectionBroken(f"{self._name}: the daemon closed the connection within a reply")
        return data

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(RECEIVED)
        except TimeoutError:
            raise ConnectionBroken(
                f"{self._name}: no reply for {self._connection.gettimeout():g} seconds"
            ) from None
        except OSError as error:
            raise ConnectionBroken(f"{self._name}: {error.strerror or error}") from error

    @property
    def _name(self) -> str:
        return printable(os.fsencode(self._path))

    def _malformed(self, what: str) -> NotUnderstood:
        return NotUnderstood(f"{self._name}: the daemon sent {what}")


def request(
    path: str,
    method: str,
    target: str,
    body: bytes | None = None,
    timeout: float | None = None,
    connect_timeout: float = 10.0,
) -> Reply:
    """Send a request and return its reply, of which the header has been received.

    :param path: of the UNIX socket.
    :param target: path and query, percent-encoded.
    :param body: JSON; ``None`` for none.
    :param timeout: seconds that the daemon may be silent; ``None`` for no limit.
    :raises NoDaemon: if no process listens on the socket.
    :raises CannotConnect: if the connection cannot be made for another reason.
    :raises ClientError: if no reply arrives, or a malformed one.
    """
    header = f"{method} {target} HTTP/1.1\r\nHost: natproxy\r\nConnection: close\r\n"
    if body is not None:
        header += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    connection = connect(path, connect_timeout)
    try:
        connection.settimeout(timeout)
        # A daemon that refuses the request may have replied and closed the connection already.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(f"{header}\r\n".encode("latin-1") + (body or b""))
        return Reply(connection, path)
    except TimeoutError:
        connection.close()
        name = printable(os.fsencode(path))
        raise ConnectionBroken(f"{name}: the daemon does not read the request") from None
    except BaseException:
        connection.close()
        raise


def connect(path: str, timeout: float) -> socket.socket:
    """Return a connection to a UNIX socket.

    :param timeout: seconds to wait while the queue of the socket is full.
    :raises NoDaemon: if no process listens on it.
    :raises CannotConnect: if the connection cannot be made for another reason.
    """
    name = printable(os.fsencode(path))
    deadline = time.monotonic() + timeout
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        while True:
            try:
                connection.connect(os.fsencode(path))
            except BlockingIOError:
                # The queue is full: unlike TCP, the system does not wait.
                if time.monotonic() >= deadline:
                    raise CannotConnect(f"{name}: the daemon does not accept connections") from None
                time.sleep(RETRY)
            else:
                return connection
    except OSError as error:
        connection.close()
        raise _reason(path, name, error) from error
    except BaseException:
        connection.close()
        raise


def _reason(path: str, name: str, error: OSError) -> CannotConnect:
    """Return the exception for a connection that could not be made."""
    if error.errno == errno.ENOENT:
        return NoDaemon(f"{name}: no such socket")
    if error.errno in (errno.ECONNREFUSED, errno.EACCES) and _is_no_socket(path):
        return CannotConnect(f"{name}: not a socket")
    if error.errno == errno.ECONNREFUSED:
        return NoDaemon(f"{name}: no daemon listens on this socket")
    if error.errno in (errno.EACCES, errno.EPERM):
        return CannotConnect(f"{name}: permission denied{_owner_hint(path)}")
    if error.errno is None:
        # Python's own message: the path is too long for a socket, or has a NUL character.
        return CannotConnect(f"{name}: {error}")
    return CannotConnect(f"{name}: {error.strerror}")


def _is_no_socket(path: str) -> bool:
    try:
        return not stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _owner_hint(path: str) -> str:
    """Return whose daemon it is, and what to do, as the end of a message; empty if not known."""
    directory = os.path.dirname(path) or "."
    for each in (path, directory):
        try:
            found = os.stat(each)
        except OSError:
            continue
        kind = "it" if stat.S_ISSOCK(found.st_mode) else "its directory"
        owner = user_name(found.st_uid)
        return f"; {kind} belongs to {owner}: run this command as that user or as root"
    return ""


def user_name(uid: int) -> str:
    """Return the name of a user, or its number, for people."""
    import pwd

    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user with the number {uid}"
