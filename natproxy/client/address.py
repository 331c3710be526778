"""Where a server is, and what on it is meant."""

from __future__ import annotations

import re
from typing import NamedTuple

from natproxy.client.errors import UsageError

DEFAULT_PORT = 9000
SCHEME = "natproxy://"

_PORT = re.compile("[0-9]{1,5}")


class Server(NamedTuple):
    """Where the server is."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Server:
        """Read ``HOST:PORT``, ``HOST`` or ``[IPV6]:PORT``.

        :raises UsageError: if it is none of them.
        """
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            host, port = text, str(DEFAULT_PORT)
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise UsageError(f"server '{text}': an IPv6 address is written [ADDRESS]:PORT")
        if not host or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
            raise UsageError(f"server '{text}': HOST:PORT is needed")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_url(text: str) -> bool:
    """Tell whether a text names a server as well as a path."""
    return text[: len(SCHEME)].lower() == SCHEME


def parse_url(text: str) -> tuple[Server, str]:
    """Read ``natproxy://HOST:PORT/PATH``.

    The path is taken as it stands, as the server's names are: ``%41`` is not ``A``.

    :return: the server and the path below its served folder.
    :raises UsageError: if it can't be read.
    """
    if not is_url(text):
        raise UsageError(f"'{text}': natproxy://HOST:PORT/PATH is needed")
    place, _, path = text[len(SCHEME) :].partition("/")
    return Server.parse(place), path
