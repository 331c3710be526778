"""One connection to a proxy or a file server: commands out, replies in."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from natproxy.address import Address
from natproxy.client.blocking.route import CONNECT_TIMEOUT, TRUSTED, Attempts, Route, reset_at_close
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
"""Bytes that are received at once, unless the caller brings a buffer."""

NEARBY = 500
"""Microseconds to a server and back, up to which a small receive buffer is as fast."""

RECEIVE_BUFFER = 1 << 20
"""Bytes that may wait to be received from a server nearby."""

_RTT_AT = 68


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

        :raises ConnectionBroken: if it does not come whole, or much too slowly.
        """
        first, self._first = self._first, b""
        if first:
            yield first
        pace = self.pace()
        while not self._exchange.complete:
            began = time.monotonic()
            data = self._carrier().receive()
            if not data:
                raise self._cut_off()
            try:
                pace.received(len(data), time.monotonic() - began)
            except ConnectionBroken:
                self._connection.close()
                raise
            body = self._exchange.feed(data)
            if body:
                yield body

    def read(self) -> bytes:
        """Return the whole body; memory follows what is received, in pieces of any size.

        :raises ConnectionBroken: if it does not come whole.
        """
        received = bytearray()
        for piece in self:
            received += piece
        return bytes(received)

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
        size = self._carrier().receive_into(buffer[:wanted])
        if not size:
            raise self._cut_off()
        self._exchange.advance(size)
        return size

    def pace(self) -> RateMonitor:
        """Return what notices a body that comes much too slowly."""
        return RateMonitor(self._connection.server, self._connection.timeout)

    @property
    def clean(self) -> bool:
        """Whether all of it, and nothing after it, has been received."""
        return self._exchange.clean

    def _carrier(self) -> Connection:
        # Another reply's bytes must never be taken for this one's.
        if not self._connection.carries(self._exchange):
            raise ConnectionBroken(
                f"the rest of the reply has been given up: {self._exchange.missing} missing"
            )
        return self._connection

    def _cut_off(self) -> ConnectionBroken:
        self._connection.close()
        return ConnectionBroken(
            f"{self._connection.server} closed the connection inside the reply:"
            f" {self._exchange.missing} missing"
        )


class Connection(Closing):
    """Commands, one after the other, to one server.

    A peer of version 1 may close after one reply: the connection is then made anew.

    :param server: where to connect to.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection; without it, `CONNECT_TIMEOUT`,
        or ``timeout`` if that is shorter.
    :param route: to the server, shared by the connections of a session.
    :param clock: gives seconds, from any origin: how long the connection has been idle.
    :ivar deadline: when all waiting is over, by `time.monotonic`; `None` for never.
    :ivar interrupted: whether `interrupt` has been called: it is of no use any more.
    :ivar connected: whether it has ever been made.
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
        # Those under way, for `interrupt`.
        self._attempts: Attempts | None = None
        # When the last command was sent, or bytes of its reply received.
        self._used = 0.0
        self.deadline: float | None = None
        self.interrupted = False
        self.connected = False
        # Whether any byte of the current exchange's reply has been received.
        self._heard = False
        # When a header that has begun is to be complete; `None` outside of one.
        self._header_due: float | None = None
        self._socket: socket.socket | None = None
        # The last one on this socket, whether its reply has come or not.
        self._exchange: Exchange | None = None

    def connect(self) -> None:
        """Connect, if there is no connection.

        :raises CannotConnect: if it can't be made.
        """
        if self._socket is not None:
            return
        try:
            self._connect()
        except (OSError, ValueError) as error:
            reason: object = "bad host name"
            if isinstance(error, TimeoutError):
                reason = "no answer in time"
            elif isinstance(error, OSError):
                reason = error.strerror or error
            raise CannotConnect(f"cannot connect to {self.server}: {reason}") from error
        self.connected = True

    def close(self) -> None:
        """Close the connection, if there is one: with a reset if a reply is still to come."""
        idle = self._exchange is None or self._exchange.clean
        self._exchange = None
        if self._socket is not None:
            if idle:
                reset_at_close(self._socket, False)
            self._socket.close()
            self._socket = None

    def settle(self) -> None:
        """Close the connection if a reply's rest is still to come on it."""
        if self._exchange is not None and not self._exchange.clean:
            self.close()

    def carries(self, exchange: Exchange) -> bool:
        """Tell whether what comes next belongs to this exchange."""
        return self._exchange is exchange

    def interrupt(self) -> None:
        """End whatever another thread is waiting for, or would: it sees `Interrupted`."""
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

        :raises UsageError: if the command cannot be sent; nothing was.
        :raises ServerError: if the server answers with an error: `NotFound`, `Changed`,
            `Unavailable`, `Unsupported` or another.
        :raises ClientError: if the server can't be reached or understood.
        """
        exchange = Exchange(word, arguments)
        self.settle()
        if self._socket is not None and (self._is_stale() or self._spoilt()):
            self.close()
        reused = self._exchange is not None
        self._heard = False
        try:
            return self._carry_out(exchange)
        except ConnectionBroken:
            if not reused or self._heard or self._expired():
                raise
            # The server had closed after its last reply, or a box on the way has forgotten
            # the connection; every verb may be repeated.
            return self._carry_out(Exchange(word, arguments))

    def receive(self) -> bytes:
        """Receive a piece of a reply; an empty one when the server has closed.

        :raises ConnectionBroken: if there is none.
        """
        try:
            data = self._ready_socket().recv(CHUNK)
        except OSError as error:
            raise self._lost(error) from error
        self._check()
        self._used = self._clock()
        return data

    def receive_into(self, buffer: memoryview) -> int:
        """Receive a piece of a reply into memory; 0 bytes when the server has closed.

        :raises ConnectionBroken: if there is none.
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

        :raises OSError: if there is no connection to any.
        """
        attempts = self._attempts = Attempts(self._check)
        timeout = self.connect_timeout
        if timeout is None:
            timeout = min(CONNECT_TIMEOUT, self.timeout)
        try:
            connected = self._route.connect(timeout, attempts)
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
        _keep_little_waiting(connected)

    def _is_stale(self) -> bool:
        """Whether it has been idle for so long that it is not trusted.

        A box on the way may have forgotten it, which shows in nothing but silence.
        """
        return self._clock() - self._used > TRUSTED

    def _spoilt(self) -> bool:
        """Whether the server has closed meanwhile, or said more than it was asked."""
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(0):
            return False
        try:
            unasked = self._socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return True
        # Before the first command, it is why there is to be none: too many clients.
        return not unasked or self._exchange is not None

    def _ready_socket(self) -> socket.socket:
        assert self._socket is not None
        ends = [end for end in (self.deadline, self._header_due) if end is not None]
        if ends:
            rest = min(ends) - time.monotonic()
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
        # From here on the connection is good for nothing else until the reply has come.
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
                self._heard = True
                with self.understanding():
                    first = exchange.feed(data)
                # The time for the header is limited as a whole; only a body's progress extends it.
                self._header_due = began + self.timeout
        except ServerError:
            self.settle()
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
        # One with a number is the kernel's: its probes were not answered.
        if isinstance(error, TimeoutError) and error.errno is None:
            return ConnectionBroken(
                f"{self.server} did not answer in time"
                if expired
                else f"{self.server} was silent for {self.timeout:g} s"
            )
        kind = ClosedWithoutReply if headless else ConnectionBroken
        return kind(f"connection to {self.server} lost: {error.strerror or error}")

    @contextmanager
    def understanding(self) -> Iterator[None]:
        """Read what came over the connection; it is closed if that can't be understood.

        :raises NotUnderstood: naming the server, in the place of a `WireError`.
        """
        try:
            yield
        except (WireError, NotUnderstood) as error:
            self.close()
            raise NotUnderstood(f"{self.server} is not understood: {error}") from error


def _keep_little_waiting(connected: socket.socket) -> None:
    """Bound what waits in the kernel to be received, if the other end is nearby.

    What waits there is lost with a process that is killed, and fetched again: up to 32 MiB
    with Linux's own bounds. On a short way a megabyte is as fast; a long one needs more.
    """
    with suppress(OSError, AttributeError):
        # struct tcp_info, tcp(7): tcpi_rtt.
        info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT_AT + 4)
        (microseconds,) = struct.unpack_from("=I", info, _RTT_AT)
        if microseconds <= NEARBY:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
