"""URLs: a server and a path on it, which may be a pattern."""

from __future__ import annotations

from natproxy.address import FIRST_STAND_IN_PORT, SCHEME, Address, scheme_of
from natproxy.client.errors import UsageError


def parse_server(text: str) -> Address:
    """Parse a server's address; see `natproxy.address.Address.parse`.

    :raises UsageError: if it is malformed.
    """
    try:
        return Address.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_server(server: Address) -> None:
    """Check that a server has a TCP port: the system takes other numbers modulo 65536.

    :raises UsageError: if it has none.
    """
    if not 0 < server.port < FIRST_STAND_IN_PORT:
        raise UsageError(f"server {server.host!r}: the port must be from 1 to 65535")


def is_url(text: str) -> bool:
    """Return whether a text is a URL with the scheme ``natproxy``."""
    return scheme_of(text) == SCHEME


def parse_path(text: str) -> tuple[Address | None, str]:
    """Parse a path on the server, or a URL that names the server as well.

    :return: the server, ``None`` if none is named, and the path.
    :raises UsageError: for a URL with another scheme: no path on a server contains ``//``.
    """
    if not scheme_of(text):
        return None, text
    return parse_url(text)


def parse_url(text: str) -> tuple[Address, str]:
    """Parse ``natproxy://HOST:PORT/PATH``.

    The path is literal: ``%41`` is not decoded to ``A``.

    :return: the server and the path below its served directory.
    :raises UsageError: if it is malformed.
    """
    place, _, path = text[len(SCHEME) :].partition("/")
    if not is_url(text) or not place:
        raise UsageError(f"{text!r}: natproxy://HOST:PORT/PATH is needed")
    return parse_server(place), path
