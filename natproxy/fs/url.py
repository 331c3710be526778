"""URLs of files: the server and the path that they name."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

from fsspec.utils import stringify_path

from natproxy.address import SCHEME, Address, scheme_of
from natproxy.client.authentication import Token
from natproxy.client.errors import UsageError
from natproxy.client.url import Server, is_url, parse_server, parse_url

VARIABLE = "NATPROXY_SERVER"
"""Environment variable with the ``HOST:PORT`` for URLs without one."""


TOKEN_VARIABLE = "NATPROXY_TOKEN"  # noqa: S105  # no password
"""Environment variable with the token for that server."""


class Environment:
    """A class attribute: the present value of `VARIABLE`."""

    def __get__(self, instance: object, owner: type) -> str:
        return os.environ.get(VARIABLE, "")


def default_server(tls: bool = False) -> Server:
    """Return the server that the environment names.

    :param tls: whether TLS is needed, whatever the scheme is.
    :raises ValueError: if it names none, or the value is malformed.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        raise ValueError(
            f"no server: write natproxy://HOST:PORT/PATH, pass the option host, or set ${VARIABLE}"
        )
    try:
        return parse_url(text, tls)[0] if is_url(text) else parse_server(text, tls)
    except UsageError as error:
        raise ValueError(f"${VARIABLE}: {error}") from error


def token_for(server: Address, token: str | None, plain: bool) -> Token | None:
    """Return the token for a server; ``None`` if there is none.

    That of the environment belongs to the server that the environment names.

    :param token: of the options.
    :param plain: whether it may be sent to another host without TLS that verifies the server.
    :raises ValueError: if the token is malformed; the text does not show it.
    """
    text, named = token, "token"
    if text is None:
        text, named = os.environ.get(TOKEN_VARIABLE) or None, f"${TOKEN_VARIABLE}"
        if text is None or VARIABLE not in os.environ or default_server()[0] != server:
            return None
    try:
        return Token(text, plain)
    except UsageError as error:
        raise ValueError(f"{named}: {error}") from None


def path_of(url: Any) -> str:
    """Return the path of a URL, or a path itself, without empty components and dots."""
    text = stringify_path(url)
    if is_url(text):
        text = text[len(scheme_of(text)) :].partition("/")[2]
    # No name on a server has empty components or dots.
    return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))


def options_of(url: Any) -> dict[str, Any]:
    """Return the options of the file system of a URL: ``host`` and ``port``, or none.

    :raises ValueError: if the URL is malformed.
    """
    text = stringify_path(url)
    place = text[len(scheme_of(text)) :]
    if not is_url(text) or place.startswith("/") or not place:
        return {}
    if place.startswith("[") and "]" not in text:
        raise ValueError(
            f"{text!r}: fsspec takes '::' for the separator of a chain: write all groups of an"
            " IPv6 address, as in [0:0:0:0:0:0:0:1]"
        )
    try:
        return parse_url(text)[0].address._asdict()
    except UsageError as error:
        raise ValueError(str(error)) from error


def url_of(server: Address, path: str, scheme: str = SCHEME) -> str:
    """Return the URL of a path, which begins with a slash, on a server.

    :param scheme: with ``://``.
    """
    if "::" in server.host:
        # fsspec takes "::" for the separator of a chain of URLs.
        server = Address(ipaddress.ip_address(server.host).exploded, server.port)
    return f"{scheme}{server}{path}"
