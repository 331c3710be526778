"""One connection to a proxy or a file server."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from natproxy.address import Address
from natproxy.client.blocking.route import (
    IDLE_LIMIT,
    Attempts,
    Route,
    connect_seconds,
    limit_receive_buffer,
    reset_at_close,
)
from natproxy.client.context import Closing
from natproxy.client.errors import (
    CannotConnect,
    ClosedWithoutReply,
    ConnectionBroken,
    Interrupted,
    NotUnderstood,
    ServerError,
)
from natproxy.client.exchange import Exchange
from natproxy.client.rate import RateMonitor
from natproxy.kernel.keepalive import probe_idle
from natproxy.protocol import Arguments, WireError

CHUNK = 256 * 1024
"""Bytes that are received at once, unless the caller provides a buffer."""


class Reply:
    """A reply whose header has been received and is no error.

    Iterate over it, or use `receive_into`, to read its body. If the body is not read to its
    end, the connection is aborted.

    :ivar header: parsed.
    """

    def __init__(self, connection: Connection, exchange: Exchange, first: bytes) -> None:
        assert exchange.header is not None
        self.header = exchange.header
        self._connection = connection
        self._exchange = exchange
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body in pieces.

        :raises ConnectionBroken: if it does not arrive completely, or much too slowly.
        """
        first, self._first = self._first, b""
        if first:
            yield first
        if self._exchange.complete:
            # As are most short replies: there is no rate to check.
            return
        monitor = self.rate_monitor()
        while not self._exchange.complete:
            began = time.monotonic()
            data = self._own_connection().receive()
            if not data:
                raise self._cut_off()
            try:
                monitor.received(len(data), time.monotonic() - began)
            except ConnectionBroken:
                self._connection.close()
                raise
            body = self._exchange.feed(data)
            if body:
                yield body

    def read(self) -> bytes:
        """Return the whole body. Memory is allocated as bytes are received.

        :raises ConnectionBroken: if it does not arrive completely.
        """
        received = bytearray()
        for piece in self:
            received += piece
        return bytes(received)

    def receive_into(self, buffer: memoryview) -> int:
        """Receive bytes of a counted body directly into memory.

        :return: how many; 0 at the end of the body, or for an empty buffer.
        :raises ConnectionBroken: if the body does not arrive completely.
        """
        if self._first:
            size = min(len(buffer), len(self._first))
            buffer[:size], self._first = self._first[:size], self._first[size:]
            return size
        wanted = min(len(buffer), self._exchange.remaining)
        if not wanted:
            return 0
        size = self._own_connection().receive_into(buffer[:wanted])
        if not size:
            raise self._cut_off()
        self._exchange.advance(size)
        return size

    def rate_monitor(self) -> RateMonitor:
        """Return the check for a body that arrives much too slowly."""
        return RateMonitor(self._connection.server, self._connection.timeout)

    @property
    def clean(self) -> bool:
        """Whether the whole reply, and nothing after it, has been received."""
        return self._exchange.clean

    def _own_connection(self) -> Connection:
        # The bytes of another reply must not be returned as this one's.
        if not self._connection.is_current(self._exchange):
            raise ConnectionBroken(
                f"the rest of the reply was discarded: {self._exchange.missing} missing"
            )
        return self._connection

    def _cut_off(self) -> ConnectionBroken:
        self._connection.close()
        return ConnectionBroken(
            f"{self._connection.server} closed the connection inside the reply:"
            f" {self._exchange.missing} missing"
        )


class Connection(Closing):
    """Sends commands to one server, one at a time.

    A peer of version 1 may close after one reply: the next command then reconnects.

    :param server: the address to connect to.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection; if ``None``, 10, or ``timeout`` if
        that is shorter.
    :param route: to the server, shared by the connections of a session.
    :param clock: returns seconds, from any origin; measures how long the connection is idle.
    :ivar deadline: the time, by ``time.monotonic``, at which every wait ends; ``None`` for none.
    :ivar interrupted: whether `interrupt` has been called; the connection is then useless.
    :ivar connected: whether it has ever been connected.
    """

    def __init__(
        self,
        server: Address,
        timeout: float = 60.0,
        connect_timeout: float | None = None,
        route: Route | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = server
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._route = route or Route(*server)
        self._clock = clock
        # The current connects, for `interrupt`.
        self._attempts: Attempts | None = None
        # The clock when the connection was made, or when bytes were last received on it.
        self._used = 0.0
        self.deadline: float | None = None
        self.interrupted = False
        self.connected = False
        # Whether any byte of the current exchange's reply has been received.
        self._reply_begun = False
        # When a header that has begun must be complete; ``None`` outside of one.
        self._header_due: float | None = None
        self._socket: socket.socket | None = None
        # The last one on this socket, with or without its reply.
        self._exchange: Exchange | None = None

    def connect(self) -> None:
        """Connect, unless it is connected.

        :raises CannotConnect: if that fails.
        """
        if self._socket is not None:
            return
        try:
            self._connect()
        except (OSError, ValueError) as error:
            reason: object = "bad host name"
            if isinstance(error, TimeoutError):
                reason = "no reply in time"
            elif isinstance(error, OSError):
                reason = error.strerror or error
            raise CannotConnect(
                f"cannot connect to {self.server}: {reason}", str(self.server)
            ) from error
        self.connected = True

    def close(self) -> None:
        """Close the connection, if there is one: by a reset if a reply is outstanding."""
        idle = self._exchange is None or self._exchange.clean
        self._exchange = None
        if self._socket is not None:
            if idle:
                reset_at_close(self._socket, False)
            self._socket.close()
            self._socket = None

    def abort_reply(self) -> None:
        """Abort the connection if the rest of a reply is outstanding; otherwise do nothing."""
        if self._exchange is not None and not self._exchange.clean:
            self.close()

    def is_current(self, exchange: Exchange) -> bool:
        """Return whether this exchange is the one whose reply the connection receives."""
        return self._exchange is exchange

    def interrupt(self) -> None:
        """Cancel what another thread is waiting for, now or later: it raises `Interrupted`."""
        self.interrupted = True
        attempts = self._attempts
        if attempts is not None:
            attempts.interrupt()
        connected = self._socket
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def request(self, word: bytes, arguments: Arguments | None = None) -> Reply:
        """Send a command and receive its reply's header.

        :raises UsageError: if the command cannot be sent; nothing has been.
        :raises ServerError: if the reply is an error: `NotFound`, `Changed`, `Unavailable`,
            `Unsupported` or another.
        :raises ClientError: if the server can't be reached, or breaks the protocol.
        """
        exchange = Exchange(word, arguments)
        self.abort_reply()
        if self._socket is not None and (self._is_stale() or self._is_readable()):
            self.close()
        reused = self._exchange is not None
        self._reply_begun = False
        try:
            return self._carry_out(exchange)
        except ConnectionBroken:
            if not reused or self._reply_begun or self._expired():
                raise
            # The server had closed after its last reply, or a NAT in between has dropped the
            # connection; every verb may be repeated.
            return self._carry_out(Exchange(word, arguments))

    def receive(self) -> bytes:
        """Receive a piece of a reply; an empty one if the server has closed.

        :raises ConnectionBroken: if the connection is lost or silent.
        """
        try:
            data = self._ready_socket().recv(CHUNK)
        except OSError as error:
            raise self._lost(error) from error
        self._check()
        self._used = self._clock()
        return data

    def receive_into(self, buffer: memoryview) -> int:
        """Receive a piece of a reply into memory; 0 bytes if the server has closed.

        :raises ConnectionBroken: if the connection is lost or silent.
        """
        try:
            size = self._ready_socket().recv_into(buffer)
        except OSError as error:
            raise self._lost(error) from error
        self._check()
        self._used = self._clock()
        return size

    def _connect(self) -> None:
        """Connect to one of the host's addresses.

        :raises OSError: if none accepts.
        """
        attempts = self._attempts = Attempts(self._check)
        try:
            seconds = connect_seconds(self.timeout, self.connect_timeout)
            connected = self._route.connect(seconds, attempts)
        except OSError:
            self._check()
            raise
        finally:
            self._attempts = None
        self._socket = connected
        self._used = self._clock()
        self._check()
        connected.settimeout(self.timeout)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        probe_idle(connected)
        reset_at_close(connected, True)
        limit_receive_buffer(connected)

    def _is_stale(self) -> bool:
        """Return whether it has been idle for more than `IDLE_LIMIT`.

        A NAT in between may have dropped it, which shows in nothing but silence.
        """
        return self._clock() - self._used > IDLE_LIMIT

    def _is_readable(self) -> bool:
        """Return whether the server has closed, or sent bytes that belong to no command."""
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(0):
            return False
        try:
            surplus = self._socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return True
        # Before the first command, bytes are the server's error, "too many clients" for example.
        return not surplus or self._exchange is not None

    def _ready_socket(self) -> socket.socket:
        assert self._socket is not None
        deadlines = [due for due in (self.deadline, self._header_due) if due is not None]
        if deadlines:
            rest = min(deadlines) - time.monotonic()
            if rest <= 0:
                raise TimeoutError
            self._socket.settimeout(min(self.timeout, rest))
        elif self._socket.gettimeout() != self.timeout:
            self._socket.settimeout(self.timeout)
        return self._socket

    def _expired(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _carry_out(self, exchange: Exchange) -> Reply:
        self.connect()
        # No other command may be sent until the whole reply has been received.
        self._exchange = exchange
        try:
            self._ready_socket().sendall(exchange.line)
        except OSError as error:
            raise self._lost(error) from error
        first = b""
        began = time.monotonic()
        try:
            while exchange.header is None:
                data = self.receive()
                if not data:
                    self.close()
                    raise ClosedWithoutReply(f"{self.server} closed the connection without a reply")
                self._reply_begun = True
                with self.parsing():
                    first = exchange.feed(data)
                # One time-out limits the whole header; each piece of a body starts a new one.
                self._header_due = began + self.timeout
        except ServerError:
            self.abort_reply()
            raise
        finally:
            self._header_due = None
        return Reply(self, exchange, first)

    def _check(self) -> None:
        if self.interrupted:
            self.close()
            raise Interrupted("interrupted")

    def _lost(self, error: OSError) -> ConnectionBroken:
        expired = self._expired() or self._header_due is not None
        headless = self._exchange is None or self._exchange.header is None
        self.close()
        self._check()
        # An errno means that the kernel's keepalive probes failed.
        if isinstance(error, TimeoutError) and error.errno is None:
            return ConnectionBroken(
                f"{self.server} did not reply in time"
                if expired
                else f"{self.server} was silent for {self.timeout:g} s"
            )
        kind = ClosedWithoutReply if headless else ConnectionBroken
        return kind(f"connection to {self.server} lost: {error.strerror or error}")

    @contextmanager
    def parsing(self) -> Iterator[None]:
        """Parse received bytes; the connection is closed if they break the protocol.

        :raises NotUnderstood: naming the server, in place of a `WireError`.
        """
        try:
            yield
        except (WireError, NotUnderstood) as error:
            self.close()
            raise NotUnderstood(f"{self.server} is not understood: {error}") from error
