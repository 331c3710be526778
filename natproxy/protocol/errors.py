"""Errors on the wire: codes, texts, and the kind of error that a client decides by.

A verb of version 2 fails with ``ERR <code> <message>``, a verb of version 1 with
``ERR <message>``. Programs decide by `ErrorKind`: this module alone compares the English
texts of version 1, and the proxy's texts that distinguish two errors of one code.
"""

from __future__ import annotations

import enum
import re

BAD_REQUEST = 400
UNAUTHORIZED = 401
"""The token of ``AUTH`` is not accepted."""
FORBIDDEN = 403
NOT_FOUND = 404
CHANGED = 412
TOO_LARGE = 413
"""The file is not packed because of its size: ``GET`` sends it."""
RANGE_NOT_SATISFIABLE = 416
TOO_MANY_REQUESTS = 429
INTERNAL_ERROR = 500
BAD_GATEWAY = 502
"""The file server cannot be reached, or its reply is malformed or incomplete."""
UNAVAILABLE = 503
GATEWAY_TIMEOUT = 504
"""The file server did not accept the connection, or did not reply, in time."""
LOOP_DETECTED = 508
"""The upstream of a proxy leads back to it."""

UNKNOWN_COMMAND = "unknown command"
FILE_NOT_FOUND = "file not found"
LINE_TOO_LONG = "line too long"
FORBIDDEN_TEXT = "forbidden"
NEEDS_TLS = "this port needs TLS: natproxys://, or --tls"
EMPTY_RESPONSE = "empty response from server"
PROXY_ERROR = "proxy error: "
"""The beginning of every error that a proxy reports, except `EMPTY_RESPONSE`."""

_REPLY_HEADER = "reply header"
"""Words of the proxy's messages about a header that it could not parse."""

_RETRY_AFTER = re.compile(rb" retry-after=([1-9][0-9]{0,8})\Z")

_NAME = b"name="
_CODED_ERROR = re.compile(rb"([1-5][0-9]{2})(?: (.*))?")


class Refusal(Exception):
    """A command of version 2 that fails: ``ERR <code> <message>``.

    :ivar code: one of this module's constants.
    :ivar message: in ASCII, on one line.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


class ErrorKind(enum.Enum):
    """What an error reply means for a program."""

    OTHER = "other"
    """The server refuses the command; repeating it does not help."""
    NOT_FOUND = "not found"
    FORBIDDEN = "forbidden"
    """A rule of the server, or of a proxy, denies the command to this client."""
    CHANGED = "changed"
    """The file is not the one that ``if-match`` names."""
    UNAUTHORIZED = "unauthorized"
    """The token is not accepted."""
    UNSUPPORTED = "unsupported"
    """The server does not implement the verb."""
    UNAVAILABLE = "unavailable"
    """A temporary failure of the server, of the proxy, or of the file server behind it."""
    LIMITED = "limited"
    """The client is over a limit: a temporary failure too; see `retry_after`."""
    NO_UPSTREAM_REPLY = "no upstream reply"
    """A temporary failure too: the file server sent the proxy no header, or a malformed one.

    A file server of version 1 replies to ``FEAT`` in this way.
    """


_KINDS = {
    FORBIDDEN: ErrorKind.FORBIDDEN,
    NOT_FOUND: ErrorKind.NOT_FOUND,
    CHANGED: ErrorKind.CHANGED,
    UNAUTHORIZED: ErrorKind.UNAUTHORIZED,
    TOO_MANY_REQUESTS: ErrorKind.LIMITED,
    BAD_GATEWAY: ErrorKind.UNAVAILABLE,
    UNAVAILABLE: ErrorKind.UNAVAILABLE,
    GATEWAY_TIMEOUT: ErrorKind.UNAVAILABLE,
}


def error_line(message: str, code: int | None = None) -> bytes:
    """Return the reply for a failure, line feed included.

    :param message: its line ends become spaces; characters outside ASCII are escaped.
    :param code: one of this module's constants, for a verb of version 2.
    """
    text = " ".join(message.split()).encode("ascii", "backslashreplace")
    return b"ERR " + text + b"\n" if code is None else b"ERR %d %b\n" % (code, text)


def parse_error(error: bytes) -> tuple[int | None, bytes]:
    """Return the code, if there is one, and the message of an error reply.

    :param error: what follows ``ERR``.
    """
    coded = _CODED_ERROR.fullmatch(error)
    return (None, error) if coded is None else (int(coded[1]), coded[2] or b"")


def retry_after(message: bytes) -> int:
    """Return the seconds after which a limited client may send its command again.

    :param message: of the error reply, after its code; it ends with ``retry-after=SECONDS``.
    :return: 0 if the message has none.
    """
    found = _RETRY_AFTER.search(message)
    return 0 if found is None else int(found[1])


def kind_of(code: int | None, message: bytes) -> ErrorKind:
    """Return the kind of an error reply.

    :param code: of the reply; ``None`` if it has none.
    :param message: what follows the code, or ``ERR``.
    """
    text = message.decode("ascii", "backslashreplace")
    if code is None:
        if text == FILE_NOT_FOUND:
            return ErrorKind.NOT_FOUND
        if text == FORBIDDEN_TEXT:
            return ErrorKind.FORBIDDEN
        if text == UNKNOWN_COMMAND:
            return ErrorKind.UNSUPPORTED
        if retry_after(message):
            return ErrorKind.LIMITED
        if text != EMPTY_RESPONSE and not text.startswith(PROXY_ERROR):
            return ErrorKind.OTHER
    elif code != BAD_GATEWAY:
        return _KINDS.get(code, ErrorKind.OTHER)
    # Some errors of version 1 and of code 502 mean more than "try again".
    if text == EMPTY_RESPONSE or _REPLY_HEADER in text:
        return ErrorKind.NO_UPSTREAM_REPLY
    return ErrorKind.UNAVAILABLE


def is_missing_tls(message: str) -> bool:
    """Return whether an error is the reply of a port with TLS to a client without TLS."""
    return message == NEEDS_TLS


def forbidden_text(name: bytes | None = None) -> str:
    """Return the message of the error for a command that a rule denies.

    :param name: the name that is denied, as it is encoded on the wire, if it is one of several.
    """
    return FORBIDDEN_TEXT if name is None else f"{FORBIDDEN_TEXT} name={name.decode('ascii')}"


def denied_word(message: bytes) -> bytes | None:
    """Return the encoded name in the message of an error of kind `ErrorKind.FORBIDDEN`."""
    words = (word for word in message.split() if word.startswith(_NAME))
    return next((word[len(_NAME) :] for word in words), None)
