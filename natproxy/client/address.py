"""Where a server is, and what on it is meant."""

from __future__ import annotations

import re
from typing import NamedTuple

from natproxy.client.errors import UsageError

DEFAULT_PORT = 9000
SCHEME = "natproxy://"

_PORT = re.compile("[0-9]{1,5}")
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")

_BARE_IPV6 = re.compile("[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%.*)?")

_ENCODED_ZONE = re.compile("(.*:[^%]*)%25(.+)")
"""An IPv6 address and its zone in a URL (RFC 6874)."""


class Server(NamedTuple):
    """Where the server is."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Server:
        """Parse ``HOST:PORT``, ``HOST``, ``[IPV6]:PORT`` or ``natproxy://HOST:PORT``.

        A zone may follow an IPv6 address as ``%eth0``, or as ``%25eth0`` as in a URL.

        :raises UsageError: if it is none of them.
        """
        place = text
        scheme = scheme_of(text)
        if scheme:
            if scheme != SCHEME:
                raise UsageError(f"server '{text}': HOST:PORT or natproxy://HOST:PORT is needed")
            place, _, path = text[len(SCHEME) :].partition("/")
            if path:
                raise UsageError(f"server '{text}': names a path; HOST:PORT alone is meant here")
        host, colon, port = place.rpartition(":")
        if not colon or place.endswith("]"):
            host, port = place, str(DEFAULT_PORT)
        if host.startswith("[") and host.endswith("]"):
            host = _ENCODED_ZONE.sub(r"\1%\2", host[1:-1])
        elif _BARE_IPV6.fullmatch(host):
            raise UsageError(f"server '{text}': an IPv6 address is written [ADDRESS]:PORT")
        elif ":" in host or host.split() != [host]:
            raise UsageError(f"server '{text}': HOST:PORT is needed")
        if not host or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
            raise UsageError(f"server '{text}': HOST:PORT is needed")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def scheme_of(text: str) -> str:
    """Return the scheme of a URL, in lower case, with ``://``; empty if it is none."""
    scheme = _SCHEME.match(text)
    return "" if scheme is None else scheme[0].lower()


def is_url(text: str) -> bool:
    """Tell whether a text names a server as well as a path."""
    return scheme_of(text) == SCHEME


def parse_path(text: str) -> tuple[Server | None, str]:
    """Parse a path on the server, or a URL that names the server as well.

    :return: the server, `None` if it is not named, and the path.
    :raises UsageError: for a URL with another scheme: ``//`` is in no path of a server.
    """
    scheme = scheme_of(text)
    if not scheme:
        return None, text
    return parse_url(text)


def parse_url(text: str) -> tuple[Server, str]:
    """Read ``natproxy://HOST:PORT/PATH``.

    The path is taken as it stands, as the server's names are: ``%41`` is not ``A``.

    :return: the server and the path below its served directory.
    :raises UsageError: if it can't be read.
    """
    place, _, path = text[len(SCHEME) :].partition("/")
    if not is_url(text) or not place:
        raise UsageError(f"'{text}': natproxy://HOST:PORT/PATH is needed")
    return Server.parse(place), path
