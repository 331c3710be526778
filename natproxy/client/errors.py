"""What can go wrong for a client, and the exit status that says so to a program."""

from __future__ import annotations

from typing import ClassVar

from natproxy.wire import printable


class ClientError(Exception):
    """A failure, told in one line.

    :cvar exit_status: what the command line ends with.
    """

    exit_status: ClassVar[int] = 1


class ServerError(ClientError):
    """The server answered ``ERR``; its message is the text."""


class UsageError(ClientError):
    """What was asked for cannot be asked for."""

    exit_status = 2


class NotFound(ServerError):
    """The server has no such file."""

    exit_status = 3


class CannotConnect(ClientError):
    """There is no connection to the server."""

    exit_status = 4


class ConnectionBroken(ClientError):
    """The connection was lost, or was silent for too long."""

    exit_status = 5


class NotUnderstood(ClientError):
    """What came back breaks the protocol."""

    exit_status = 6


class LocalError(ClientError):
    """A file or a folder here cannot be written."""

    exit_status = 9

    def __init__(self, path: bytes, error: OSError) -> None:
        super().__init__(f"{printable(path)}: {error.strerror or error}")
