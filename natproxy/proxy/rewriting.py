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
from natproxy.proxy.failure import Kind
from natproxy.proxy.retries import Retries
from natproxy.proxy.upstreams import Upstream

GET = b"GET"

MOST_LOST_GETS = 2
"""Connections that are lost before the header of a ``GET`` until the ``DOWNLOAD`` itself is sent.

It may be another server now, of version 1, that closes the connection on a verb that it does not
support; one loss is that of a server that dies, and comes back.
"""

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


class Rewriting:
    """What is sent in place of one ``DOWNLOAD``: each attempt decides by its upstream.

    :param retries: has the upstreams that are known to support ``GET``.
    """

    def __init__(self, command: Command, retries: Retries) -> None:
        self._command = command
        self._retries = retries
        # Each as often as it has lost a ``GET``; twice if it has refused one.
        self._lost: tuple[Upstream, ...] = ()

    def command_for(self, upstream: Upstream) -> Command:
        """Return the ``GET`` if the upstream is known to support it, else the command itself."""
        retries = self._retries
        known = upstream in retries.get_supported or can_get(upstream.abilities)
        if known and retries.resume_for and self._lost.count(upstream) < MOST_LOST_GETS:
            return as_get(self._command)
        return self._command

    def failed(self, upstream: Upstream, kind: Kind) -> None:
        """Note that a ``GET`` has failed before its header."""
        times = {Kind.UNSUPPORTED: MOST_LOST_GETS, Kind.LOST: 1}.get(kind, 0)
        self._lost += (upstream,) * times
        if self._lost.count(upstream) >= MOST_LOST_GETS:
            # Another ``FEAT`` shows what it supports.
            self._retries.get_supported.discard(upstream)
