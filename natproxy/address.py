"""Host and port: where a server listens, or one end of a connection."""

from __future__ import annotations

import re
from typing import NamedTuple

DEFAULT_PORT = 9000
"""The port of a server whose address names none."""

SECURE_PORT = 9443
"""The port of a server with TLS whose address names none."""

FIRST_STAND_IN_PORT = 65_536
"""The first number that represents a port where there is none."""

SCHEME = "natproxy://"
SECURE_SCHEME = "natproxys://"
"""The scheme of a server with TLS."""

SCHEMES = (SCHEME, SECURE_SCHEME)

_PORT = re.compile("[0-9]{1,5}")
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")

_BARE_IPV6 = re.compile("[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%.*)?")

# A zone of 25 and more would be taken for an encoded one in the text of the address.
_BRACKETED = re.compile(r"[0-9A-Fa-f:.]*(%(?!25.)[^%\[\]\s]+)?")

_ENCODED_ZONE = re.compile("([^%]*:[^%]*)%25(.+)")
"""An IPv6 address and its zone in a URL (RFC 6874)."""


class AddressError(ValueError):
    """A text is no address.

    :param text: that could not be parsed; the message begins with it.
    :ivar reason: what is wrong with it.
    """

    def __init__(self, text: str, reason: str) -> None:
        # Control characters are escaped.
        super().__init__(f"server {text!r}: {reason}")
        self.reason = reason


class Address(NamedTuple):
    """A host and a port.

    :ivar host: a name or a numeric address; of a UNIX socket, ``unix`` and its path, if any.
    :ivar port: a TCP port; or, where there is none, a stand-in of at least
        `FIRST_STAND_IN_PORT`, which the daemon assigns to one connection only.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> Address:
        """Parse ``HOST:PORT``, ``HOST``, ``[IPV6]:PORT`` or ``natproxy://HOST:PORT``.

        A zone may follow an IPv6 address as ``%eth0``, or as ``%25eth0`` as in a URL.
        With the scheme ``natproxys``, the server must be connected to by TLS, which the result
        does not state: see `natproxy.client.url.parse_server`.

        :param default_port: of an address that names none; with ``natproxys``, it is
            `SECURE_PORT`.
        :raises AddressError: if the text has none of these forms; it is a ``ValueError``.
        """
        place = text
        scheme = scheme_of(text)
        if scheme:
            if scheme not in SCHEMES:
                raise AddressError(text, "HOST:PORT or natproxy://HOST:PORT is needed")
            if scheme == SECURE_SCHEME:
                default_port = SECURE_PORT
            place, _, path = text[len(scheme) :].partition("/")
            if path:
                raise AddressError(text, "names a path; HOST:PORT alone is meant here")
        host, colon, port = place.rpartition(":")
        if not colon or place.endswith("]"):
            host, port = place, str(default_port)
        if host.startswith("[") and host.endswith("]"):
            host = _ENCODED_ZONE.sub(r"\1%\2", host[1:-1])
            if not _BRACKETED.fullmatch(host):
                raise AddressError(text, "an IPv6 address is written [ADDRESS]:PORT")
        elif _BARE_IPV6.fullmatch(host):
            raise AddressError(text, "an IPv6 address is written [ADDRESS]:PORT")
        elif ":" in host or host.split() != [host]:
            raise AddressError(text, "HOST:PORT is needed")
        if not host or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
            raise AddressError(text, "HOST:PORT is needed")
        return cls(host, int(port))

    def __str__(self) -> str:
        if self.port >= FIRST_STAND_IN_PORT:
            return f"{self.host}#{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def scheme_of(text: str) -> str:
    """Return the scheme of a URL with ``://``, in lower case; empty if there is none."""
    scheme = _SCHEME.match(text)
    return "" if scheme is None else scheme[0].lower()


def is_loopback(host: str) -> bool:
    """Return whether a host is a numeric loopback address."""
    if not host.startswith(("127.", "::")):
        return False
    from ipaddress import ip_address

    try:
        parsed = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)
