"""The client wing: blocking sockets, no reactor, up in milliseconds.

It stands on `natproxy.wire` alone. Every failure is a `ClientError` whose text is one
line that names the thing and the reason.
"""

from natproxy.client.connection import Connection, Reply, Server
from natproxy.client.errors import (
    CannotConnect,
    ClientError,
    ConnectionBroken,
    LocalError,
    NotFound,
    NotUnderstood,
    ServerError,
    UsageError,
)
from natproxy.client.saving import download

__all__ = [
    "CannotConnect",
    "ClientError",
    "Connection",
    "ConnectionBroken",
    "LocalError",
    "NotFound",
    "NotUnderstood",
    "Reply",
    "Server",
    "ServerError",
    "UsageError",
    "download",
]
