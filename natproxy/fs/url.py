"""URLs of files: which server and which path they name."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

from fsspec.utils import stringify_path

from natproxy.address import SCHEME, Address
from natproxy.client.errors import UsageError
from natproxy.client.url import is_url, parse_server, parse_url

VARIABLE = "NATPROXY_SERVER"
"""Environment variable with the ``HOST:PORT`` for URLs without one."""


class Environment:
    """A class attribute whose value is that of `VARIABLE` at the time."""

    def __get__(self, instance: object, owner: type) -> str:
        return os.environ.get(VARIABLE, "")


def default_server() -> Address:
    """Return the server that the environment names.

    :raises ValueError: if it names none, or what it says cannot be read.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        raise ValueError(
            f"no server: write natproxy://HOST:PORT/PATH, give the option host, or set ${VARIABLE}"
        )
    try:
        return parse_url(text)[0] if is_url(text) else parse_server(text)
    except UsageError as error:
        raise ValueError(f"${VARIABLE}: {error}") from error


def path_of(url: Any) -> str:
    """Return the path that a URL or a path names: a slash, and plain components."""
    text = stringify_path(url)
    if is_url(text):
        text = text[len(SCHEME) :].partition("/")[2]
    # The server refuses empty components and dots, and so serves nothing under such a name.
    return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))


def options_of(url: Any) -> dict[str, Any]:
    """Return the options of a file system that a URL names: ``host`` and ``port``, or none.

    :raises ValueError: if the URL cannot be read.
    """
    text = stringify_path(url)
    if not is_url(text) or text[len(SCHEME) :].startswith("/") or len(text) == len(SCHEME):
        return {}
    if text[len(SCHEME) :].startswith("[") and "]" not in text:
        raise ValueError(
            f"'{text}': fsspec takes '::' for the link of a chain: write all groups of an"
            " IPv6 address, as in [0:0:0:0:0:0:0:1]"
        )
    try:
        return parse_url(text)[0]._asdict()
    except UsageError as error:
        raise ValueError(str(error)) from error


def url_of(server: Address, path: str) -> str:
    """Return the URL of a path, which begins with a slash, on a server."""
    if "::" in server.host:
        # fsspec takes "::" for the link of a chain of URLs.
        server = Address(ipaddress.ip_address(server.host).exploded, server.port)
    return f"{SCHEME}{server}{path}"
