"""Sets of IP networks, and of the clients on UNIX sockets."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

UNIX = "unix"
"""Stands for all clients on UNIX sockets, in place of a network."""

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_MAPPED_PREFIX = b"\0" * 10 + b"\xff\xff"

Place = tuple[int, int]
"""A numeric address: its length in bits, and its value."""


class Networks:
    """A set of networks.

    An IPv4 address and an IPv6 address that maps it (``::ffff:1.2.3.4``) are the same.

    :param texts: networks such as ``10.0.0.0/8`` and ``2001:db8::/32``, addresses, and `UNIX`.
    :raises ValueError: if one is malformed; the message begins with it.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.unix = False
        # Networks of one length of address and of prefix are looked up together.
        found: dict[tuple[int, int], set[int]] = {}
        for text in texts:
            if text == UNIX:
                self.unix = True
                continue
            network = _parse(text)
            shift = network.max_prefixlen - network.prefixlen
            value = int(network.network_address) >> shift
            found.setdefault((network.max_prefixlen, shift), set()).add(value)
        self._values = tuple(
            (bits, shift, frozenset(each)) for (bits, shift), each in found.items()
        )

    def __contains__(self, host: str) -> bool:
        """Return whether a client's host is in one of the networks.

        It takes as many steps as there are lengths of prefixes, whatever the number of networks.

        :param host: of an `Address`: a numeric address, perhaps with a zone, or ``unix`` with a
            path.
        """
        if is_unix(host):
            return self.unix
        place = place_of(host)
        if place is None:
            return False
        length, number = place
        return any(
            bits == length and number >> shift in values for bits, shift, values in self._values
        )


def is_unix(host: str) -> bool:
    """Return whether the host of an `Address` is that of a client on a UNIX socket."""
    return host == UNIX or host.startswith("unix:")


def place_of(host: str) -> Place | None:
    """Return a numeric address as a number; ``None`` if the text is no address."""
    try:
        if ":" not in host:
            return 32, int.from_bytes(socket.inet_pton(socket.AF_INET, host), "big")
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        return None
    if packed.startswith(_MAPPED_PREFIX):
        return 32, int.from_bytes(packed[12:], "big")
    return 128, int.from_bytes(packed, "big")


def _parse(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    shown = ascii(text[:80])
    try:
        if "%" in text:
            raise ValueError
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{shown} is no network: write one as 10.0.0.0/8, an address, or {UNIX!r}"
        ) from None
    if "/" in text and network.network_address != ipaddress.ip_interface(text).ip:
        raise ValueError(f"{shown} has bits set after its prefix: {network} may be meant")
    if network.version == 6 and network.subnet_of(_MAPPED):
        address = int(network.network_address) & 0xFFFFFFFF
        return ipaddress.IPv4Network((address, network.prefixlen - 96))
    return network
