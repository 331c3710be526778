"""The socket of a blocking connection, which another thread may interrupt."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from natproxy.address import Address
from natproxy.client.blocking.route import (
    Attempts,
    Route,
    connect_seconds,
    limit_receive_buffer,
    reset_at_close,
)
from natproxy.client.context import Closing
from natproxy.client.errors import Interrupted, cannot_connect
from natproxy.kernel.keepalive import probe_idle


class Channel(Closing):
    """A TCP connection to one server, or none at present.

    The parameters are those of `natproxy.client.blocking.connection.Connection`.
    """

    def __init__(
        self,
        server: Address,
        timeout: float,
        connect_timeout: float | None,
        route: Route | None,
        clock: Callable[[], float],
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
        self.interrupted = False
        self.connected = False
        # Whether nothing has been sent on this socket yet.
        self._fresh_socket = False
        self._socket: socket.socket | None = None

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
            raise cannot_connect(self.server, reason) from error
        self.connected = True

    @property
    def peer_host(self) -> str:
        """The numeric address of the other end; empty if it is not connected."""
        peer = None
        if self._socket is not None:
            with suppress(OSError):
                peer = self._socket.getpeername()
        return peer[0] if isinstance(peer, tuple) else ""

    def interrupt(self) -> None:
        """Cancel what another thread is waiting for, now or later: it raises `Interrupted`."""
        self.interrupted = True
        attempts = self._attempts
        if attempts is not None:
            attempts.interrupt()
        connected = self._socket
        if connected is not None:
            with suppress(OSError):
                # The method of a TLS socket would end TLS while another thread reads.
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

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
        self._fresh_socket = True
        self._used = self._clock()
        self._check()
        connected.settimeout(self.timeout)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        probe_idle(connected)
        reset_at_close(connected, True)
        limit_receive_buffer(connected)

    def _check(self) -> None:
        if self.interrupted:
            self.close()
            raise Interrupted("interrupted")
