"""What a blocking connection sends before its first command: the session's token."""

from __future__ import annotations

from natproxy.client.authentication import Authentication, AuthExchange
from natproxy.client.blocking.connection import Connection
from natproxy.client.blocking.execution import receive
from natproxy.client.errors import ClientError
from natproxy.client.version import Feat


def introduce(connection: Connection, authentication: Authentication) -> AuthExchange | None:
    """Return the command to send in front of the first one of a connection; ``None`` for none.

    Without TLS that verifies the server, ``FEAT`` is sent first.

    :param connection: that is connected, and on which nothing has been sent.
    :raises UsageError: if the token may not be sent on this connection.
    :raises ClientError: if the connection fails.
    """
    if not authentication.supported:
        return None
    authentication.check_peer(connection.peer_host)
    if not authentication.verified:
        try:
            if not authentication.announced(receive(connection, Feat())):
                return None
        except ClientError as error:
            authentication.not_announced(error)
            return None
    return authentication.exchange()
