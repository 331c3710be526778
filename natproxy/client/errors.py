"""What can go wrong for a client, and the exit status that says so to a program."""

from __future__ import annotations

from typing import ClassVar

from natproxy.protocol import ErrorKind, kind_of, parse_error, printable


class ClientError(Exception):
    """A failure, told in one line.

    :cvar exit_status: what the command line ends with.
    :cvar passing: whether the same may well succeed a little later.
    """

    exit_status: ClassVar[int] = 1
    passing: ClassVar[bool] = False


class ServerError(ClientError):
    """The server answered ``ERR``; its message is the text.

    :ivar code: the three-digit code of the reply; `None` if it had none.
    """

    code: int | None = None


class Unsupported(ServerError):
    """The server's version of the protocol cannot do it."""


class Unavailable(ServerError):
    """The server, or the file server behind the proxy, cannot do it at present."""

    passing = True


class NoUpstreamReply(Unavailable):
    """The proxy received no reply line from the file server, or a malformed one."""


class UsageError(ClientError):
    """What was asked for cannot be asked for."""

    exit_status = 2


class NotFound(ServerError):
    """The server has no such file."""

    exit_status = 3


class CannotConnect(ClientError):
    """There is no connection to the server."""

    exit_status = 4
    passing = True


class ConnectionBroken(ClientError):
    """The connection was lost, or was silent for too long."""

    exit_status = 5
    passing = True


class ClosedWithoutReply(ConnectionBroken):
    """The connection was closed or lost before a whole reply line."""


class GaveUp(ClientError):
    """Every try has failed."""

    exit_status = 5


class NotUnderstood(ClientError):
    """What came back breaks the protocol."""

    exit_status = 6


class DigestMismatch(ClientError):
    """What was received isn't what the server has."""

    exit_status = 7


class Changed(ServerError):
    """The file on the server isn't the one that was asked for any more."""

    exit_status = 8


class LocalError(ClientError):
    """A file or a directory here cannot be read or written."""

    exit_status = 9

    def __init__(self, path: bytes, error: OSError) -> None:
        super().__init__(f"{printable(path)}: {error.strerror or error}")
        self.errno = error.errno


class TooManyEntries(ClientError):
    """A listing is longer than its limit."""


class ListingIncomplete(ServerError):
    """Directories are listed, but not what is in them, nor which they are.

    It is raised after the last entry.

    :ivar count: of such directories.
    :param reason: what is incomplete, if it is something else.
    """

    def __init__(self, count: int, reason: str = "") -> None:
        what = "1 directory" if count == 1 else f"{count} directories"
        reason = reason or f"the server could not read {what}"
        super().__init__(f"the listing is incomplete: {reason}")
        self.count = count


class DeletionRefused(ClientError):
    """A mirror would lose more files than is allowed: nothing was deleted."""

    exit_status = 11


class Interrupted(ClientError):
    """Somebody wants it to end."""

    exit_status = 130


_BY_KIND: dict[ErrorKind, type[ServerError]] = {
    ErrorKind.OTHER: ServerError,
    ErrorKind.NOT_FOUND: NotFound,
    ErrorKind.CHANGED: Changed,
    ErrorKind.UNSUPPORTED: Unsupported,
    ErrorKind.UNAVAILABLE: Unavailable,
    ErrorKind.NO_UPSTREAM_REPLY: NoUpstreamReply,
}


def error_of(reply: bytes, name: bytes = b"") -> ServerError:
    """Return the exception for an error reply.

    :param reply: what follows ``ERR``.
    :param name: of the file that the command names, to begin the text with.
    """
    code, text = parse_error(reply)
    kind = _BY_KIND[kind_of(code, text)]
    message = printable(text)
    if kind is Changed:
        message = "changed on the server"
    elif not message:
        message = "the server gives no reason" if code is None else f"error {code}"
    error = kind(f"{printable(name)}: {message}" if name else message)
    error.code = code
    return error


def interrupted_by(error: ClientError, name: bytes, kept: int) -> ClientError:
    """Return a temporary failure that has ended a download, as it is shown to the user.

    :param name: of the file on the server.
    :param kept: bytes that are on the disk.
    """
    if not (isinstance(error, GaveUp) or error.passing) or (
        isinstance(error, CannotConnect) and not kept
    ):
        return error
    shown = printable(name)
    text = str(error)
    if not text.startswith(f"{shown}: "):
        text = f"{shown}: {text}"
    if kept:
        text += "; what was received is kept, and the same command continues it"
    named = type(error)(text)
    if isinstance(error, ServerError) and isinstance(named, ServerError):
        named.code = error.code
    return named
