"""URLs: a server and a path on it, which may be a pattern."""

from __future__ import annotations

from typing import NamedTuple

from natproxy.address import (
    DEFAULT_PORT,
    FIRST_STAND_IN_PORT,
    SCHEMES,
    SECURE_PORT,
    SECURE_SCHEME,
    Address,
    scheme_of,
)
from natproxy.client.errors import UsageError


class Server(NamedTuple):
    """A server, as an option or a URL names it.

    :ivar address: where it listens.
    :ivar tls: whether connections to it need TLS.
    """

    address: Address
    tls: bool


def parse_server(text: str, tls: bool = False) -> Server:
    """Parse a server's address; see `natproxy.address.Address.parse`.

    :param tls: whether TLS is needed, whatever the scheme is; ``natproxys`` always needs it.
    :raises UsageError: if it is malformed.
    """
    tls = tls or scheme_of(text) == SECURE_SCHEME
    try:
        return Server(Address.parse(text, SECURE_PORT if tls else DEFAULT_PORT), tls)
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_server(server: Address) -> None:
    """Check that a server has a TCP port: the system takes other numbers modulo 65536.

    :raises UsageError: if it has none.
    """
    if not 0 < server.port < FIRST_STAND_IN_PORT:
        raise UsageError(f"server {server.host!r}: the port must be from 1 to 65535")


def is_url(text: str) -> bool:
    """Return whether a text is a URL with the scheme ``natproxy`` or ``natproxys``."""
    return scheme_of(text) in SCHEMES


def parse_path(text: str, tls: bool = False) -> tuple[Server | None, str]:
    """Parse a path on the server, or a URL that names the server as well.

    :param tls: as of `parse_server`.
    :return: the server, ``None`` if none is named, and the path.
    :raises UsageError: for a URL with another scheme: no path on a server contains ``//``.
    """
    if not scheme_of(text):
        return None, text
    return parse_url(text, tls)


def parse_url(text: str, tls: bool = False) -> tuple[Server, str]:
    """Parse ``natproxy://HOST:PORT/PATH`` or ``natproxys://HOST:PORT/PATH``.

    The path is literal: ``%41`` is not decoded to ``A``.

    :param tls: as of `parse_server`.
    :return: the server and the path below its served directory.
    :raises UsageError: if it is malformed.
    """
    scheme = scheme_of(text)
    place, _, path = text[len(scheme) :].partition("/")
    if not is_url(text) or not place:
        raise UsageError(f"{text!r}: natproxy://HOST:PORT/PATH is needed")
    return parse_server(place, tls or scheme == SECURE_SCHEME), path
