"""What a blocking connection sends before its first command: the session's token."""

from __future__ import annotations

from natproxy.client.authentication import Authentication
from natproxy.client.blocking.connection import Connection
from natproxy.client.blocking.execution import receive
from natproxy.client.errors import ClientError, ConnectionBroken, ServerError
from natproxy.client.exchange import Exchange
from natproxy.client.version import Feat


class TokenIntroduction:
    """Sends a token: see `natproxy.client.blocking.connection.Introduction`.

    :param authentication: of the session.
    """

    def __init__(self, authentication: Authentication) -> None:
        self._authentication = authentication

    def begin(self, connection: Connection) -> tuple[Exchange, ...]:
        """Return ``AUTH``, or nothing if the server lacks it.

        Without TLS that verifies the server, ``FEAT`` is sent first.

        :param connection: that is connected, and on which nothing has been sent.
        :raises UsageError: if the token may not be sent on this connection.
        :raises ClientError: if the connection fails.
        """
        authentication = self._authentication
        if not authentication.supported:
            return ()
        try:
            authentication.check_peer(connection.peer_host)
            if not authentication.verified and not self._announced(connection):
                # A server of version 1 may close after its reply to `FEAT`.
                connection.close()
                connection.connect()
                return ()
        except BaseException:
            # No command may be sent without the token.
            connection.close()
            raise
        return (authentication.exchange(),)

    def receive(self, connection: Connection, exchange: Exchange) -> None:
        """Receive the reply to ``AUTH``.

        :raises Unauthorized: if the server does not accept the token.
        :raises ConnectionBroken: if a retry may succeed.
        """
        authentication = self._authentication
        try:
            connection.receive_header()
            authentication.replied(exchange)
        except ConnectionBroken:
            if not connection.reply_begun:
                authentication.lost()
            raise
        except ServerError as error:
            try:
                authentication.refused(error)
            except ClientError:
                connection.close()
                raise

    def _announced(self, connection: Connection) -> bool:
        """Return whether the reply to ``FEAT`` has ``AUTH``."""
        try:
            return self._authentication.announced(receive(connection, Feat()))
        except ClientError as error:
            self._authentication.not_announced(error)
            return False
