"""The connections of a session: those in use, and idle ones that are kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from natproxy.address import Address
from natproxy.client.blocking.connection import Connection
from natproxy.client.blocking.route import Route
from natproxy.client.context import Closing
from natproxy.client.retry import RetryContext, check_timeout
from natproxy.client.url import check_server
from natproxy.tls.options import TLSOptions

if TYPE_CHECKING:
    from natproxy.client.authentication import Authentication, Token
    from natproxy.client.blocking.secure import Security

MOST_IDLE = 16
"""Idle connections that are kept."""


class ConnectionPool(Closing):
    """Lends connections to one server. Several threads may share it.

    The parameters are those of `natproxy.client.blocking.session.Session`.

    :ivar tls: how the server is verified; ``None`` without TLS.
    :ivar retry_context: whether the server has been reached: see `natproxy.client.retry`.
    """

    def __init__(
        self,
        server: Address,
        timeout: float = 60.0,
        connect_timeout: float | None = None,
        tls: TLSOptions | None = None,
        token: Token | str | None = None,
    ) -> None:
        check_server(server)
        check_timeout("timeout", timeout)
        check_timeout("connect_timeout", connect_timeout)
        self.server = server
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.tls = tls
        self._security: Security | None = None
        if tls is not None:
            from natproxy.client.blocking.secure import Security

            self._security = Security(tls, server.host)
        verified = tls is not None and not tls.insecure
        self._authentication: Authentication | None = None
        if token is not None:
            from natproxy.client.authentication import authentication_of

            self._authentication = authentication_of(token, server, verified)
        self._route = Route(*server)
        # Guards what the threads share: the connections.
        self._lock = threading.Lock()
        # Number of calls of `interrupt`.
        self._interrupts = 0
        self.retry_context = RetryContext()
        self._idle: list[Connection] = []
        # Those in use, and whether to keep them afterwards.
        self._lent: dict[Connection, bool] = {}

    def connect(self) -> None:
        """Connect to the server, or check that an idle connection exists.

        :raises CannotConnect: if that fails.
        """
        with self.connection() as connection:
            connection.connect()

    def close(self) -> None:
        """Close idle connections now, and the others once they are no longer in use."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._lent = dict.fromkeys(self._lent, False)
        for connection in idle:
            connection.close()

    def interrupt(self) -> None:
        """Cancel what other threads are waiting for: each raises `Interrupted`.

        That is a connection, a reply, the time between two tries, or another thread's ``FEAT``.
        """
        with self._lock:
            self._interrupts += 1
            for connection in self._lent:
                connection.interrupt()
        self.retry_context.interrupt()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection for one command or more; the first one connects it.

        Within the block no other caller uses it. Afterwards it is kept for further commands.
        """
        with self._lock:
            lent = self._idle.pop() if self._idle else self._new_connection()
            self._lent[lent] = True
        lent.timeout = self.timeout
        lent.connect_timeout = self.connect_timeout
        try:
            yield lent
        finally:
            lent.abort_reply()
            if lent.connected:
                self.retry_context.reached = True
            with self._lock:
                wanted = self._lent.pop(lent)
                keep = wanted and len(self._idle) < MOST_IDLE and not lent.interrupted
                if keep:
                    self._idle.append(lent)
            if not keep:
                lent.close()

    def _new_connection(self) -> Connection:
        connection = self._plain_or_secure()
        if self._authentication is not None:
            # Most sessions have no token.
            from natproxy.client.blocking.introduction import TokenIntroduction

            connection.introduction = TokenIntroduction(self._authentication)
        return connection

    def _plain_or_secure(self) -> Connection:
        if self._security is None:
            return Connection(self.server, self.timeout, route=self._route)
        from natproxy.client.blocking.secure import SecureConnection

        return SecureConnection(self.server, self._security, self.timeout, route=self._route)
