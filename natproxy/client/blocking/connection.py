"""One connection to a proxy or a file server."""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol

from natproxy.address import Address
from natproxy.client.blocking.channel import Channel
from natproxy.client.blocking.reply import Reply
from natproxy.client.blocking.route import IDLE_LIMIT, Route, reset_at_close
from natproxy.client.errors import (
    ClosedWithoutReply,
    ConnectionBroken,
    NotUnderstood,
    ServerError,
    timed_out,
)
from natproxy.client.exchange import Exchange
from natproxy.protocol import Arguments, WireError

CHUNK = 256 * 1024
"""Bytes that are received at once, unless the caller provides a buffer."""


class Introduction(Protocol):
    """What precedes the commands of a connection: see `natproxy.client.blocking.introduction`."""

    def begin(self, connection: Connection) -> tuple[Exchange, ...]:
        """Return what is to be sent before the first command of a new connection.

        The connection may be another one afterwards: a server of version 1 may close it.

        :raises ClientError: if no command may be sent; the connection is closed then.
        """

    def receive(self, connection: Connection, exchange: Exchange) -> None:
        """Receive the reply to an exchange that `begin` has returned.

        :raises ClientError: if no reply to a command may be received.
        """


class Connection(Channel):
    """Sends commands to one server; their replies are received in the same order.

    A peer of version 1 may close after one reply: the next command then reconnects. Commands
    whose replies have not begun are sent again on the new connection, once.

    :param server: the address to connect to.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection; if ``None``, 10, or ``timeout`` if
        that is shorter.
    :param route: to the server, shared by the connections of a session.
    :param clock: returns seconds, from any origin; measures how long the connection is idle.
    :cvar piece_size: bytes that `receive` returns at most.
    :ivar deadline: the time, by ``time.monotonic``, at which every wait ends; ``None`` for none.
    :ivar interrupted: whether ``interrupt`` has been called; the connection is then useless.
    :ivar connected: whether it has ever been connected.
    :ivar introduction: sends the session's token; ``None`` if it has none.
    :ivar reply_begun: whether any byte of the current exchange's reply has been received.
    :ivar understood: verbs whose reply has been received since the last connect: the peer finds
        its end. `natproxy.client.blocking.pipeline` adds them.
    """

    piece_size: ClassVar[int] = CHUNK

    def __init__(
        self,
        server: Address,
        timeout: float = 60.0,
        connect_timeout: float | None = None,
        route: Route | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(server, timeout, connect_timeout, route, clock)
        self.deadline: float | None = None
        self.understood: set[bytes] = set()
        self.introduction: Introduction | None = None
        self.reply_begun = False
        # When a header that has begun must be complete; ``None`` outside of one.
        self._header_due: float | None = None
        # The one whose reply is being received, or was the last one on this socket.
        self._exchange: Exchange | None = None
        # Those sent after it, in order: their replies have not begun.
        self._queued: deque[Exchange] = deque()
        # Bytes of their commands that the kernel has not accepted yet, and why it will not.
        self._unsent = b""
        self._send_error: OSError | None = None

    def close(self) -> None:
        """Close the connection, if there is one: by a reset if a reply is outstanding."""
        idle = self.clean
        self._exchange = None
        self._queued.clear()
        self.understood.clear()
        self._unsent = b""
        self._send_error = None
        if self._socket is not None:
            if idle:
                reset_at_close(self._socket, False)
            self._socket.close()
            self._socket = None

    @property
    def clean(self) -> bool:
        """Whether all replies, and nothing after them, have been received."""
        return not self._queued and (self._exchange is None or self._exchange.clean)

    @property
    def outstanding(self) -> int:
        """Commands whose replies have not begun."""
        return len(self._queued)

    def abort_reply(self) -> None:
        """Abort the connection if the rest of a reply is outstanding; otherwise do nothing."""
        if not self.clean:
            self.close()

    def is_current(self, exchange: Exchange) -> bool:
        """Return whether this exchange is the one whose reply the connection receives."""
        return self._exchange is exchange

    def request(self, word: bytes, arguments: Arguments | None = None) -> Reply:
        """Send a command and receive its reply's header.

        :raises UsageError: if the command cannot be sent; nothing has been.
        :raises ServerError: if the reply is an error: `NotFound`, `Changed`, `Unavailable`,
            `Unsupported` or another.
        :raises ClientError: if the server can't be reached, or breaks the protocol.
        """
        exchange = Exchange(word, arguments)
        self.abort_reply()
        self.send(exchange)
        try:
            return self.next_reply()
        except ServerError:
            self.abort_reply()
            raise

    def send(self, *exchanges: Exchange) -> None:
        """Send commands without waiting for replies; `next_reply` receives each.

        What the kernel does not accept at once is sent while a reply is received: a server that
        reads no command until it has sent a reply stops neither side.

        :raises CannotConnect: if the connection cannot be made.
        """
        if not self._queued:
            self.abort_reply()
            if self._socket is not None and (self._is_stale() or self._is_readable()):
                self.close()
        if self._socket is None:
            self.connect()
        if self._fresh_socket and self.introduction is not None:
            self._fresh_socket = False
            exchanges = (*self.introduction.begin(self), *exchanges)
        self._fresh_socket = False
        self._queued += exchanges
        self._unsent += b"".join([exchange.line for exchange in exchanges])
        self._flush()

    def next_reply(self) -> Reply:
        """Receive the header of the reply to the first command that is outstanding.

        The body of the reply before it must have been received. If the connection, already
        used for another reply, is lost before the first byte, all commands that are
        outstanding are sent again on a new one.

        :raises ServerError: if the reply is an error; those after it can still be received.
        :raises ClientError: if the server can't be reached, or breaks the protocol.
        """
        outstanding = tuple(self._queued)
        if outstanding and outstanding[0].introductory:
            # On a new connection, another one precedes them.
            outstanding = outstanding[1:]
        reused = self._exchange is not None
        self.reply_begun = False
        try:
            return self._receive_reply()
        except ConnectionBroken:
            if not reused or self.reply_begun or self._expired():
                raise
            # The server had closed after its last reply, or a NAT in between has dropped the
            # connection; every verb may be repeated.
            self.send(*outstanding)
            return self._receive_reply()

    def receive(self) -> bytes:
        """Receive a piece of a reply; an empty one if the server has closed.

        :raises ConnectionBroken: if the connection is lost or silent.
        """
        try:
            data = self._ready_socket().recv(self.piece_size)
        except OSError as error:
            raise self._lost(error) from error
        if self.interrupted:
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
        if self.interrupted:
            self._check()
        self._used = self._clock()
        return size

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
        if self._unsent:
            self._send_rest(self._socket)
        return self._socket

    def _expired(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _receive_reply(self) -> Reply:
        first = self._queued[0]
        if first.introductory and self.introduction is not None:
            self.introduction.receive(self, first)
        return self.receive_header()

    def receive_header(self) -> Reply:
        """Receive the header of the reply to the first exchange that is outstanding.

        :raises ServerError: if the reply is an error.
        :raises ConnectionBroken: if the connection is lost or silent.
        """
        previous = self._exchange
        data = b"" if previous is None else previous.take_surplus()
        exchange = self._exchange = self._queued.popleft()
        first = b""
        began = time.monotonic()
        try:
            while exchange.header is None:
                data = data or self.receive()
                if not data:
                    raise self._closed()
                self.reply_begun = True
                with self.parsing():
                    first = exchange.feed(data)
                data = b""
                # One time-out limits the whole header; each piece of a body starts a new one.
                self._header_due = began + self.timeout
        finally:
            self._header_due = None
        return Reply(self, exchange, first)

    def _flush(self) -> None:
        """Pass commands to the kernel, as far as it accepts them without waiting."""
        assert self._socket is not None
        try:
            sent = self._write(self._socket, self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            # Replies may have been received before the connection was lost.
            self._send_error = error
            sent = len(self._unsent)
        self._unsent = self._unsent[sent:]

    def _write(self, connected: socket.socket, data: bytes) -> int:
        """Pass bytes to the kernel without waiting, and return how many it has accepted.

        :raises OSError: ``BlockingIOError`` if it accepts none now.
        """
        # A socket with a time-out is in non-blocking mode.
        return os.write(connected.fileno(), data)

    def _send_rest(self, connected: socket.socket) -> None:
        """Send the rest of the commands until a reply is received.

        :raises TimeoutError: if nothing can be sent or received in time.
        """
        timeout = connected.gettimeout()
        assert timeout is not None
        poll = select.poll()
        poll.register(connected, select.POLLIN | select.POLLOUT)
        while self._unsent:
            ready = poll.poll(timeout * 1000)
            if not ready:
                raise TimeoutError
            if ready[0][1] & ~select.POLLOUT:
                return
            self._flush()

    def _closed(self) -> ConnectionBroken:
        """Return the error for a connection that the server has closed before a whole header."""
        if self._send_error is not None and not self.reply_begun:
            return self._lost(self._send_error)
        self.close()
        return ClosedWithoutReply(f"{self.server} closed the connection without a reply")

    def _lost(self, error: OSError) -> ConnectionBroken:
        expired = self._expired() or self._header_due is not None
        headless = self._exchange is None or self._exchange.header is None
        self.close()
        self._check()
        # An errno means that the kernel's keepalive probes failed.
        if isinstance(error, TimeoutError) and error.errno is None:
            return timed_out(self.server, None if expired else self.timeout)
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
