"""A ``DOWNLOAD`` that is sent as a ``GET``, so that its body can be continued.

The file server must support ``GET``. Its reply is passed on as that to a ``DOWNLOAD``.
"""

from __future__ import annotations

from functools import lru_cache

from natproxy.protocol import (
    VERBS,
    Abilities,
    Arguments,
    Command,
    ErrorKind,
    Header,
    WireError,
    error_line,
    format_request,
    kind_of,
    parse_error,
)

GET = b"GET"

LONGEST_NAME = 4095
"""Bytes of a name that every server accepts in a ``GET``."""

_KEYS = frozenset(VERBS[GET].keys)


def can_get(abilities: Abilities | None) -> bool:
    """Return whether a server supports ``GET`` with all its arguments, as far as is known."""
    return abilities is not None and abilities.verbs.get(GET, frozenset()) >= _KEYS


# Many commands are the same. At most 4 MiB are cached.
@lru_cache(maxsize=512)
def as_get(command: Command) -> Command:
    """Return the ``GET`` for the file of a ``DOWNLOAD``; the command itself if there is none."""
    name = command.name
    # The name "." is the served directory itself in a ``GET``.
    if not name or name == b"." or len(name) > LONGEST_NAME:
        return command
    try:
        line = format_request(GET, Arguments(name)).removesuffix(b"\n")
    except WireError:
        return command
    return Command(GET, line.removeprefix(GET + b" "), line)


def is_unsupported(header: Header) -> bool:
    """Return whether a server does not support ``GET``, or a rule of it forbids that."""
    if header.error is None:
        return False
    kind = kind_of(*parse_error(header.error))
    return kind in (ErrorKind.UNSUPPORTED, ErrorKind.FORBIDDEN)


def header_of_download(header: Header) -> bytes:
    """Return the header line of the reply to a ``DOWNLOAD``, without its line feed.

    :param header: of the reply to the ``GET``.
    """
    if header.error is None:
        return b"OK %d" % header.size
    _, message = parse_error(header.error)
    return error_line(message.decode("ascii", "backslashreplace")).removesuffix(b"\n")
