"""One connection to a proxy or a file server: commands out, replies in."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from natproxy import wire
from natproxy.client.errors import (
    CannotConnect,
    ConnectionBroken,
    NotFound,
    NotUnderstood,
    ServerError,
    UsageError,
)

DEFAULT_PORT = 9000
CHUNK = 256 * 1024
"""Bytes that are received at once."""


class Server(NamedTuple):
    """Where the server is."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Server:
        """Read ``HOST:PORT``, ``HOST`` or ``[IPV6]:PORT``.

        :raises UsageError: if it is none of them.
        """
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            host, port = text, str(DEFAULT_PORT)
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise UsageError(f"server '{text}': an IPv6 address is written [ADDRESS]:PORT")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise UsageError(f"server '{text}': HOST:PORT is needed")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Closed(ConnectionBroken):
    """The server has closed the connection, perhaps before the command came."""


class Reply:
    """A reply whose header has come and was no error.

    Iterate over it for the pieces of its body. What is not read to its end costs the
    connection.

    :ivar size: bytes promised; 0 for a listing.
    """

    def __init__(self, connection: Connection, parser: wire.ReplyParser, first: bytes) -> None:
        assert parser.header is not None
        self.size = parser.header.size
        self._connection = connection
        self._parser = parser
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        """Give the body in pieces.

        :raises ConnectionBroken: if it does not come whole.
        """
        first, self._first = self._first, b""
        if first:
            yield first
        while not self._parser.complete:
            data = self._connection.receive()
            if not data:
                self._connection.close()
                raise ConnectionBroken(
                    f"{self._connection.server} closed the connection inside the reply:"
                    f" {self._parser.missing} missing"
                )
            body = self._parser.feed(data)
            if body:
                yield body

    @property
    def clean(self) -> bool:
        """Whether all of it, and nothing after it, has been received."""
        return self._parser.complete and not self._parser.surplus


class Connection:
    """Commands, one after the other, to one server.

    A peer of version 1 may close after one reply: the connection is then made anew.

    :param server: where to connect to.
    :param timeout: seconds to wait for a connection, and for each piece of a reply.
    """

    def __init__(self, server: Server, timeout: float = 60.0) -> None:
        self.server = server
        self.timeout = timeout
        self._socket: socket.socket | None = None
        self._reply: Reply | None = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, if there is no connection.

        :raises CannotConnect: if it can't be made.
        """
        if self._socket is None:
            try:
                self._socket = socket.create_connection(self.server, self.timeout)
            except OSError as error:
                reason = (
                    "no answer in time"
                    if isinstance(error, TimeoutError)
                    else error.strerror or error
                )
                raise CannotConnect(f"cannot connect to {self.server}: {reason}") from error
            except UnicodeError as error:
                raise CannotConnect(f"cannot connect to {self.server}: bad host name") from error

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def list(self) -> Iterator[bytes]:
        """Give the names of the files, as they come in.

        :raises ClientError: as `request` does.
        """
        names = wire.ListingNames()
        for piece in self.request(b"LIST"):
            try:
                yield from names.feed(piece)
            except wire.WireError as error:
                raise self._not_understood(error) from error

    def request(self, word: bytes, name: bytes = b"") -> Reply:
        """Send a command and receive its reply's header.

        :raises UsageError: if the name cannot be sent; nothing was.
        :raises NotFound: if there is no such file.
        :raises ServerError: if the server answers with another error.
        :raises ClientError: if the server can't be reached or understood.
        """
        try:
            line = wire.format_command(word, name)
        except wire.WireError as error:
            raise UsageError(str(error)) from error
        if self._reply is not None and not self._reply.clean:
            self.close()
        reused = self._socket is not None
        try:
            reply = self._exchange(line, wire.VERBS[word].framing)
        except ConnectionBroken:
            if not reused:
                raise
            # The server had closed after its last reply; both verbs may be repeated.
            reply = self._exchange(line, wire.VERBS[word].framing)
        self._reply = reply
        return reply

    def receive(self) -> bytes:
        """Receive a piece of a reply; an empty one when the server has closed.

        :raises ConnectionBroken: if there is none.
        """
        assert self._socket is not None
        try:
            return self._socket.recv(CHUNK)
        except TimeoutError as error:
            self.close()
            raise ConnectionBroken(f"{self.server} was silent for {self.timeout:g} s") from error
        except OSError as error:
            raise self._lost(error) from error

    def _exchange(self, line: bytes, framing: wire.Framing) -> Reply:
        self.connect()
        assert self._socket is not None
        try:
            self._socket.sendall(line)
        except OSError as error:
            raise self._lost(error) from error
        parser = wire.ReplyParser(framing)
        first = b""
        while parser.header is None:
            data = self.receive()
            if not data:
                self.close()
                raise ConnectionBroken(f"{self.server} closed the connection without a reply")
            try:
                first = parser.feed(data)
            except wire.WireError as error:
                raise self._not_understood(error) from error
        if parser.header.error is not None:
            if parser.surplus:
                self.close()
            message = wire.printable(parser.header.error)
            kind = NotFound if message == wire.FILE_NOT_FOUND else ServerError
            raise kind(message)
        return Reply(self, parser, first)

    def _lost(self, error: OSError) -> _Closed:
        self.close()
        return _Closed(f"connection to {self.server} lost: {error.strerror or error}")

    def _not_understood(self, error: wire.WireError) -> NotUnderstood:
        self.close()
        return NotUnderstood(f"{self.server} is not understood: {error}")
