"""Who sends a command: the client's address, its host, and its identity."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import NamedTuple

from natproxy.address import FIRST_STAND_IN_PORT, Address


class Caller(NamedTuple):
    """The client of a connection. A connection makes one, and another when the identity changes.

    :ivar address: the client's address; behind a PROXY header, that of the header.
    :ivar host: identifies the client's host: see `host_of`.
    :ivar identity: of its certificate or its token; ``None`` if it has none.
    """

    address: Address
    host: str
    identity: str | None = None

    @classmethod
    def at(cls, address: Address, identity: str | None = None) -> Caller:
        """Return the caller at an address."""
        return cls(address, host_of(address), identity)


def host_of(address: Address) -> str:
    """Return a string that identifies a client's host; an empty one for a UNIX socket.

    An IPv4 address is one host, also when it is written as an IPv6 address
    (``::ffff:1.2.3.4``). An IPv6 network of 64 bits is one host, because that is the smallest
    network that is assigned to a site. A link-local address is one host.
    """
    if address.port >= FIRST_STAND_IN_PORT:
        return ""
    if ":" not in address.host:
        return address.host
    text = address.host.partition("%")[0]
    try:
        parsed = IPv6Address(text)
    except ValueError:
        return address.host
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return address.host if parsed.is_link_local else f"{int(parsed) >> 64:x}::/64"
