"""The exceptions of the client, and the exit status of the command line for each."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import Any, ClassVar

from natproxy.counts import counted
from natproxy.protocol import (
    ROOT,
    ErrorKind,
    WireError,
    decode_name,
    denied_word,
    forbidden_text,
    kind_of,
    parse_error,
    printable,
    retry_after,
)


class ClientError(Exception):
    """A failure; its text is one line.

    :cvar exit_status: of the command line.
    :cvar passing: whether it is temporary: a retry may succeed.
    :ivar name: of the file on the server, if the text begins with it and is that of a reply, or
        of retries; otherwise empty.
    """

    exit_status: ClassVar[int] = 1
    passing: ClassVar[bool] = False
    name: bytes = b""

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By default, pickle passes the text to the constructor, which may need other arguments.
        return _restored, (type(self), self.args, self.__dict__)


class ServerError(ClientError):
    """The server replied ``ERR``; the text is its message.

    :ivar code: the three-digit code of the reply; ``None`` if it had none.
    """

    code: int | None = None


class Unsupported(ServerError):
    """The server's version of the protocol does not have this feature."""


class Unavailable(ServerError):
    """A temporary failure of the server, or of the file server behind the proxy."""

    passing = True


class Limited(Unavailable):
    """The client is over a limit of the server, or the server is overloaded.

    :ivar retry_after: seconds after which the command may be sent again; 0 if the server has
        stated none.
    """

    exit_status = 13
    retry_after: int = 0


class NoUpstreamReply(Unavailable):
    """The proxy received no reply line from the file server, or a malformed one."""


class Unauthorized(ClientError):
    """The server does not accept the client's token."""

    exit_status = 12


class UsageError(ClientError):
    """An invalid argument; no command was sent."""

    exit_status = 2


class InvalidQuery(UsageError):
    """A daemon refused a filter, a time, or another member of a request.

    :ivar position: index of the character of the filter at which the error is; ``None`` if it is
        not in a filter.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class NotFound(ServerError):
    """The server has no such file."""

    exit_status = 3


class Forbidden(ServerError, PermissionError):
    """A rule of the server, or of a proxy before it, denies the command to this client.

    :ivar denied: the name that is denied, of a command with several; ``None`` if none is named.
    """

    exit_status = 14
    errno = errno.EACCES
    denied: bytes | None = None


class CannotConnect(ClientError):
    """The connection to the server could not be made.

    :ivar server: its address, ``HOST:PORT``; empty if unknown.
    """

    exit_status = 4
    passing = True

    def __init__(self, message: str, server: str = "") -> None:
        super().__init__(message)
        self.server = server


class TLSError(CannotConnect):
    """There is no TLS with the server: a certificate is refused, or one side has no TLS.

    Unlike other failures to connect, it is permanent.
    """

    passing = False


class NoDaemon(CannotConnect):
    """No daemon listens on a control socket."""


class ConnectionBroken(ClientError):
    """The connection was lost, or the server was silent for too long."""

    exit_status = 5
    passing = True


class ClosedWithoutReply(ConnectionBroken):
    """The connection was closed or lost before a whole reply line."""


class GaveUp(ClientError):
    """A temporary failure lasted longer, or occurred more often, than the retry policy allows."""

    exit_status = 5


class NotUnderstood(ClientError):
    """The reply violates the protocol."""

    exit_status = 6


class DigestMismatch(ClientError):
    """The received bytes differ from those of the server."""

    exit_status = 7


class Changed(ServerError):
    """The file on the server is no longer the requested one."""

    exit_status = 8


class LocalError(ClientError):
    """A local file or directory cannot be read or written.

    :ivar errno: of the system's error; ``None`` if it has none.
    """

    exit_status = 9

    def __init__(self, path: bytes, error: OSError) -> None:
        super().__init__(f"{printable(path)}: {error.strerror or error}")
        self.errno = error.errno


class TooManyEntries(ClientError):
    """A listing has more entries than its limit."""


class ListingIncomplete(ServerError):
    """A listing lacks the content of directories that the server could not read.

    It is raised after the last entry.

    :ivar count: number of such directories.
    :param reason: for the text, if the server reports another reason than such directories.
    """

    def __init__(self, count: int, reason: str = "") -> None:
        what = counted(count, "directory", "directories")
        reason = reason or f"the server could not read {what}"
        super().__init__(f"the listing is incomplete: {reason}")
        self.count = count


class DeletionRefused(ClientError):
    """A mirror would delete more files than is allowed: nothing was deleted."""

    exit_status = 11


class Interrupted(ClientError):
    """The caller has interrupted the operation."""

    exit_status = 130


_BY_KIND: dict[ErrorKind, type[ServerError]] = {
    ErrorKind.OTHER: ServerError,
    ErrorKind.NOT_FOUND: NotFound,
    ErrorKind.FORBIDDEN: Forbidden,
    ErrorKind.CHANGED: Changed,
    ErrorKind.UNAUTHORIZED: ServerError,
    ErrorKind.UNSUPPORTED: Unsupported,
    ErrorKind.UNAVAILABLE: Unavailable,
    ErrorKind.LIMITED: Limited,
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
    elif kind is Forbidden and text == forbidden_text().encode("ascii"):
        message = "forbidden by a rule of the server"
    elif kind is Limited and (seconds := retry_after(text)):
        message = f"{message.rpartition(' ')[0]}; try again in {seconds} s"
    elif not message:
        message = "the server sent no reason" if code is None else f"error {code}"
    error = kind(f"{printable(name)}: {message}" if name else message)
    error.code = code
    error.name = name
    if isinstance(error, Limited):
        error.retry_after = retry_after(text)
    if isinstance(error, Forbidden) and (word := denied_word(text)) is not None:
        with suppress(WireError):
            decoded = decode_name(word)
            error.denied = b"" if decoded == ROOT else decoded
    return error


def cannot_connect(
    server: object, reason: object, kind: type[CannotConnect] = CannotConnect
) -> CannotConnect:
    """Return the error for a connection that cannot be made."""
    return kind(f"cannot connect to {server}: {reason}", str(server))


def timed_out(server: object, silence: float | None) -> ConnectionBroken:
    """Return the error for a reply that took too long.

    :param silence: seconds without a byte; ``None`` if the reply has begun, but took too long.
    """
    late = "did not reply in time" if silence is None else f"was silent for {silence:g} s"
    return ConnectionBroken(f"{server} {late}")


def download_error(error: ClientError, name: bytes, kept: int) -> ClientError:
    """Return a failure of a download, with a text for the user.

    The text of a temporary failure has the name of the file, and how to resume. Any other
    failure, and a failed connection before the first byte, is returned as it is.

    :param name: of the file on the server.
    :param kept: number of received bytes that are on the disk.
    """
    if not (isinstance(error, GaveUp) or error.passing) or (
        isinstance(error, CannotConnect) and not kept
    ):
        return error
    text = str(error) if error.name == name else f"{printable(name)}: {error}"
    if kept:
        text += "; what was received is kept, and the same command continues it"
    named = _restored(type(error), (text,), error.__dict__)
    named.name = name
    return named


def _restored(
    kind: type[ClientError], arguments: tuple[Any, ...], attributes: dict[str, Any]
) -> ClientError:
    """Return an exception of a kind, made without its constructor."""
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(attributes)
    return error
