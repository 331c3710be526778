"""The PROXY header that the proxy sends to its upstream: the client's address, and the translation.

It is a header of version 2, which `natproxy.server.proxy_header` parses. The same write has the
command.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import IPv4Address as NumericIPv4
from ipaddress import IPv6Address as NumericIPv6
from ipaddress import ip_address
from typing import cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, ITransport
from twisted.protocols.policies import ProtocolWrapper

from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.protocol import VERBS, Command, ErrorKind, kind_of, parse_error
from natproxy.proxy.interfaces import Client
from natproxy.relay import Transport
from natproxy.server.proxy_header import SIGNATURE, TRANSLATION

NO_HEADER_EXPECTED = "the server does not expect a PROXY header: let it listen on haproxy:"
"""The error for a client, if the upstream takes the header for a command."""

LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
"""The header of a connection that is not for a client, or whose addresses cannot be stated."""

_HEAD = struct.Struct("!12sBBH")
_VALUE = struct.Struct("!BH")
_PORTS = struct.Struct("!HH")
_PROXY = 0x21
_TCP4, _TCP6, _UNIX_STREAM = 0x11, 0x21, 0x31
_PATH = 108


def encode_header(client: Address, local: IAddress, translation: str) -> bytes:
    """Return the header of a command's upstream connection.

    :param client: the client's address, as the table has it.
    :param local: the proxy's address to which the client has connected.
    :param translation: boot and serial, ``0123456789abcdef:42``.
    """
    addressed = _addresses(client, _address_of(local))
    if addressed is None:
        return LOCAL
    family, addresses = addressed
    value = translation.encode("ascii")
    size = len(addresses) + _VALUE.size + len(value)
    return b"".join(
        (
            _HEAD.pack(SIGNATURE, _PROXY, family, size),
            addresses,
            _VALUE.pack(TRANSLATION, len(value)),
            value,
        )
    )


def with_header(transport: Transport, client: Client, translation: str, line: bytes) -> bytes:
    """Return a command with the header before it. With TLS, the header is sent before TLS.

    :param transport: of an upstream connection on which nothing has been written yet.
    :param translation: as of `encode_header`.
    """
    header = encode_header(client.client_address, client.local_address, translation)
    return send_header(transport, header, line)


def send_header(transport: Transport, header: bytes, line: bytes) -> bytes:
    """Return what is to be written: the line, with a header before it. With TLS, send that now."""
    if isinstance(transport, ProtocolWrapper):
        # The handshake begins when the protocol's `connectionMade` has returned.
        cast(ITransport, transport.transport).write(header)
        return line
    return header + line


def is_reply_to_header(command: Command, error: bytes) -> bool:
    """Return whether an error must be a reply to the header, from a server that expects none.

    Every server supports the verbs of version 1.
    """
    verb = VERBS.get(command.verb)
    unknown = kind_of(*parse_error(error)) is ErrorKind.UNSUPPORTED
    return unknown and verb is not None and verb.version == 1


def _address_of(local: IAddress) -> Address | bytes | None:
    """Return host and port, or the path of a UNIX socket; ``None`` for other addresses."""
    if isinstance(local, (IPv4Address, IPv6Address)):
        return Address(local.host, local.port)
    if isinstance(local, UNIXAddress):
        return local.name or b""
    return None


# The commands of a connection have the same addresses.
@lru_cache(maxsize=1024)
def _addresses(client: Address, local: Address | bytes | None) -> tuple[int, bytes] | None:
    """Return family and transport, and both addresses; ``None`` if they have no common family."""
    if client.port >= FIRST_STAND_IN_PORT:
        if not isinstance(local, bytes):
            return None
        # The path of a client, if it has one, is known in a printable form only.
        return _UNIX_STREAM, bytes(_PATH) + local[:_PATH].ljust(_PATH, b"\0")
    if not isinstance(local, Address):
        return None
    hosts = _number(client.host), _number(local.host)
    if hosts[0] is None or hosts[1] is None:
        return None
    ports = _PORTS.pack(client.port, local.port)
    if all(isinstance(host, NumericIPv4) for host in hosts):
        return _TCP4, hosts[0].packed + hosts[1].packed + ports
    return _TCP6, b"".join(map(_packed_in_16, hosts)) + ports


def _number(host: str) -> NumericIPv4 | NumericIPv6 | None:
    """Return an address without its zone; an IPv4 address that is written as IPv6 is IPv4."""
    try:
        number = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(number, "ipv4_mapped", None)
    return number if mapped is None else mapped


def _packed_in_16(host: NumericIPv4 | NumericIPv6 | None) -> bytes:
    assert host is not None
    return host.packed if len(host.packed) == 16 else bytes(10) + b"\xff\xff" + host.packed
