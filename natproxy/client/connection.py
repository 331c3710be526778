"""One connection to a proxy or a file server: commands out, replies in."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType

from natproxy import wire
from natproxy.client.address import Server
from natproxy.client.errors import (
    CannotConnect,
    ConnectionBroken,
    NotUnderstood,
    ServerError,
)
from natproxy.client.exchange import Exchange

CHUNK = 256 * 1024
"""Bytes that are received at once, unless the caller brings a buffer."""


class _Closed(ConnectionBroken):
    """The server has closed the connection, perhaps before the command came."""


class Reply:
    """A reply whose header has come and was no error.

    Iterate over it, or use `receive_into`, for its body. What is not read to its end
    costs the connection.

    :ivar header: understood.
    """

    def __init__(self, connection: Connection, exchange: Exchange, first: bytes) -> None:
        assert exchange.header is not None
        self.header = exchange.header
        self._connection = connection
        self._exchange = exchange
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        """Give the body in pieces.

        :raises ConnectionBroken: if it does not come whole.
        """
        first, self._first = self._first, b""
        if first:
            yield first
        while not self._exchange.complete:
            data = self._connection.receive()
            if not data:
                raise self._cut_off()
            body = self._exchange.feed(data)
            if body:
                yield body

    def receive_into(self, buffer: memoryview) -> int:
        """Receive bytes of a counted body, without a copy of them being made.

        :return: how many; 0 at the end of the body, or for an empty buffer.
        :raises ConnectionBroken: if it does not come whole.
        """
        if self._first:
            size = min(len(buffer), len(self._first))
            buffer[:size], self._first = self._first[:size], self._first[size:]
            return size
        wanted = min(len(buffer), self._exchange.remaining)
        if not wanted:
            return 0
        size = self._connection.receive_into(buffer[:wanted])
        if not size:
            raise self._cut_off()
        self._exchange.advance(size)
        return size

    @property
    def clean(self) -> bool:
        """Whether all of it, and nothing after it, has been received."""
        return self._exchange.clean

    def _cut_off(self) -> ConnectionBroken:
        self._connection.close()
        return ConnectionBroken(
            f"{self._connection.server} closed the connection inside the reply:"
            f" {self._exchange.missing} missing"
        )


class Connection:
    """Commands, one after the other, to one server.

    A peer of version 1 may close after one reply: the connection is then made anew.

    :param server: where to connect to.
    :param timeout: seconds to wait for a connection, and for each piece of a reply.
    :ivar deadline: when all waiting is over, by `time.monotonic`; `None` for never.
    """

    def __init__(self, server: Server, timeout: float = 60.0) -> None:
        self.server = server
        self.timeout = timeout
        self.deadline: float | None = None
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
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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

    def settle(self) -> None:
        """Close the connection if a reply's rest is still to come on it."""
        if self._reply is not None and not self._reply.clean:
            self.close()

    def interrupt(self) -> None:
        """End whatever another thread is waiting for: it sees a broken connection."""
        connected = self._socket
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def request(self, word: bytes, arguments: wire.Arguments | None = None) -> Reply:
        """Send a command and receive its reply's header.

        :raises UsageError: if the command cannot be sent; nothing was.
        :raises ServerError: if the server answers with an error: `NotFound`, `Changed`,
            `Unavailable`, `Unsupported` or another.
        :raises ClientError: if the server can't be reached or understood.
        """
        exchange = Exchange(word, arguments)
        self.settle()
        self._reply = None
        reused = self._socket is not None
        try:
            reply = self._carry_out(exchange)
        except _Closed:
            if not reused or self._expired():
                raise
            # The server had closed after its last reply; every verb may be repeated.
            reply = self._carry_out(Exchange(word, arguments))
        self._reply = reply
        return reply

    def receive(self) -> bytes:
        """Receive a piece of a reply; an empty one when the server has closed.

        :raises ConnectionBroken: if there is none.
        """
        try:
            return self._ready_socket().recv(CHUNK)
        except OSError as error:
            raise self._lost(error) from error

    def receive_into(self, buffer: memoryview) -> int:
        """Receive a piece of a reply into memory; 0 bytes when the server has closed.

        :raises ConnectionBroken: if there is none.
        """
        try:
            return self._ready_socket().recv_into(buffer)
        except OSError as error:
            raise self._lost(error) from error

    def _ready_socket(self) -> socket.socket:
        assert self._socket is not None
        if self.deadline is not None:
            self._socket.settimeout(max(0.001, min(self.timeout, self.deadline - time.monotonic())))
        elif self._socket.gettimeout() != self.timeout:
            self._socket.settimeout(self.timeout)
        return self._socket

    def _expired(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _carry_out(self, exchange: Exchange) -> Reply:
        self.connect()
        try:
            self._ready_socket().sendall(exchange.line)
        except OSError as error:
            raise self._lost(error) from error
        first = b""
        try:
            while exchange.header is None:
                data = self.receive()
                if not data:
                    self.close()
                    raise _Closed(f"{self.server} closed the connection without a reply")
                first = exchange.feed(data)
        except ServerError:
            if not exchange.clean:
                self.close()
            raise
        except NotUnderstood as error:
            raise self.not_understood(error) from error
        return Reply(self, exchange, first)

    def _lost(self, error: OSError) -> ConnectionBroken:
        self.close()
        if isinstance(error, TimeoutError):
            return ConnectionBroken(f"{self.server} was silent for {self.timeout:g} s")
        return _Closed(f"connection to {self.server} lost: {error.strerror or error}")

    def not_understood(self, error: Exception) -> NotUnderstood:
        """Close the connection, and give the error to raise for what came over it."""
        self.close()
        return NotUnderstood(f"{self.server} is not understood: {error}")
