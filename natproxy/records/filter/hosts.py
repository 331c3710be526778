"""Addresses, networks and ports, as a filter compares them with hosts of records."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from natproxy.records.filter.errors import quoted

_MAPPED = 0xFFFF << 32
"""The IPv6 addresses that stand for IPv4 addresses: ``::ffff:0:0/96``."""

_PORT = re.compile("[0-9]{1,6}")


class Network(NamedTuple):
    """A network, or one address.

    :ivar version: 4 or 6. A mapped IPv6 address is an IPv4 address.
    :ivar prefix: the leading bits, as an integer.
    :ivar bits: the bits of an address that follow the prefix.
    :ivar zone: of an IPv6 address, such as ``eth0``; empty for any.
    """

    version: int
    prefix: int
    bits: int
    zone: str = ""

    def contains(self, host: str | None) -> bool:
        """Return whether a host of a record is an address of the network."""
        found = None if host is None else address_of(host)
        return (
            found is not None
            and found.version == self.version
            and found.prefix >> self.bits == self.prefix
            and (not self.zone or found.zone == self.zone)
        )

    def text(self) -> str:
        """Return the network as people write it."""
        from ipaddress import IPv4Network, IPv6Network

        first = self.prefix << self.bits
        if self.version == 4:
            network: IPv4Network | IPv6Network = IPv4Network((first, 32 - self.bits))
        else:
            network = IPv6Network((first, 128 - self.bits))
        text = str(network if self.bits else network.network_address)
        return f"{text}%{self.zone}" if self.zone else text


@lru_cache(maxsize=4096)
def address_of(host: str) -> Network | None:
    """Return a host of a record as a network of one address; ``None`` if it is no address."""
    from ipaddress import ip_address

    plain, _, zone = host.partition("%")
    try:
        address = ip_address(plain)
    except ValueError:
        return None
    number = int(address)
    if address.version == 6 and number >> 32 == 0xFFFF:
        return Network(4, number & 0xFFFF_FFFF, 0)
    return Network(address.version, number, 0, zone if address.version == 6 else "")


def check_host(text: str) -> None:
    """Raise an exception for a host that no record can have, such as a name.

    :param text: ``HOST``, ``HOST:PORT`` or ``[IPV6]:PORT``; the host may be a UNIX socket.
    :raises ValueError: if the host is no address; the message is a phrase.
    """
    if text.startswith("unix") or address_of(text) is not None:
        return
    if address_of(split_port(text)[0]) is None:
        raise ValueError("an IP address is needed: names are not resolved")


def parse_network(text: str) -> Network:
    """Return the network ``ADDRESS/LENGTH``, or one address; bits after the prefix are ignored.

    :raises ValueError: if it is none; the message is a phrase.
    """
    if "/" not in text:
        address = address_of(text)
        if address is None:
            raise ValueError("it is no address")
        return address
    host, _, length = text.rpartition("/")
    address = address_of(host)
    if address is None:
        raise ValueError(f"{quoted(host)} is no address")
    size = 32 if "." in host and ":" not in host else 128
    if not (length.isascii() and length.isdigit() and len(length) < 4 and int(length) <= size):
        raise ValueError(f"the length of a prefix is a number from 0 to {size}")
    bits = size - int(length)
    if size == 128 and address.version == 4 and bits > 32:
        # Shorter than the prefix of mapped addresses.
        return Network(6, (_MAPPED | address.prefix) >> bits, bits)
    return Network(address.version, address.prefix >> bits, bits, address.zone)


def split_port(text: str) -> tuple[str, int | None]:
    """Split ``HOST:PORT``, ``[IPV6]:PORT``, ``:PORT``, ``HOST#STAND-IN``, or a host alone.

    :return: the host, empty for any; and the port.
    :raises ValueError: if the port is malformed; the message is a phrase.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or rest[:1] not in ("", ":", "#"):
            raise ValueError("an IPv6 address with a port is written [ADDRESS]:PORT")
        return host, _port(rest[1:]) if rest else None
    if "#" in text:
        host, _, port = text.rpartition("#")
        return host, _port(port)
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, _port(port)
    return text, None


def _port(text: str) -> int:
    if not _PORT.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no port")
    return int(text)
