"""The PROXY header of versions 1 and 2, with the values after the addresses."""

from __future__ import annotations

import ipaddress
import re

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.logger import Logger

from fuzz.oracles import is_safe
from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.proxy.header import encode_header
from natproxy.server.proxy_header import (
    LONGEST,
    LONGEST_LINE,
    SIGNATURE,
    Header,
    HeaderError,
    HeaderFactory,
    HeaderReceiver,
    parse_header,
)

WORDS = (
    "PROXY ",
    "TCP4 ",
    "TCP6 ",
    "UNKNOWN",
    "192.0.2.1 ",
    "::1 ",
    "\r\n",
    "\r\n\r\n\0\r\nQUIT\n",
)


def check(data: bytes) -> None:
    """Check a header and each of its beginnings."""
    result = parsed(data)
    if isinstance(result, Header):
        check_header(result, data)
    check_beginnings(data, result)
    check_connection(data, result)
    if result is None:
        assert len(data) < (LONGEST if data.startswith(SIGNATURE) else LONGEST_LINE)


def parsed(data: bytes) -> Header | str | None:
    """Return what a header is parsed as: a text is the reason why it is refused."""
    try:
        return parse_header(data)
    except HeaderError as error:
        text = str(error)
        assert is_safe(text)
        assert len(text) < 200
        return text


def check_beginnings(data: bytes, result: Header | str | None) -> None:
    """Check that a header in pieces is what it is as a whole: the rest of it cannot change it."""
    ends = {len(data) // 2, max(0, len(data) - 1)}
    if isinstance(result, Header):
        ends |= {result.size - 1, result.size, 5, 11, 15, 16}
        assert parsed(data[: result.size] + b"x") == result
    for end in ends:
        if 0 <= end < len(data):
            part = parsed(data[:end])
            if isinstance(part, Header):
                assert part == result
            elif isinstance(part, str):
                assert isinstance(result, str)
            if isinstance(result, Header):
                assert part == (result if end >= result.size else None)


class Inner(Protocol):
    """What is behind the header: collects what it receives.

    :ivar identified: how often the client's address was found.
    :ivar reasons: why the header was refused.
    """

    def __init__(self) -> None:
        self.received = b""
        self.identified = 0
        self.reasons: list[str] = []

    def dataReceived(self, data: bytes) -> None:
        """Collect bytes."""
        assert self.identified
        self.received += data

    def peer_identified(self) -> None:
        """Count."""
        self.identified += 1

    def header_refused(self, log: Logger, peer: str, reason: str) -> None:
        """Note the reason."""
        self.reasons.append(reason)


def check_connection(data: bytes, result: Header | str | None) -> None:
    """Check that a connection passes on what follows a header, and nothing else."""
    inner = Inner()
    receiver = HeaderReceiver(HeaderFactory(Factory()), inner)
    receiver.makeConnection(StringTransport())
    half = len(data) // 2
    for piece in (data[:half], data[half:]):
        receiver.dataReceived(piece)
    if isinstance(result, Header):
        assert inner.identified == 1
        assert inner.received == data[result.size :]
        assert receiver.translation == result.translation
        if result.source is not None:
            assert (receiver.getPeer(), receiver.getHost()) == (result.source, result.destination)
    else:
        assert not inner.identified
        assert receiver.peer_pending
    # A beginning may be refused for another reason than the whole.
    assert len(inner.reasons) == isinstance(result, str)
    assert receiver.transport.disconnected == isinstance(result, str)


def check_header(header: Header, data: bytes) -> None:
    """Check the addresses, and that the proxy's own header has the same."""
    assert 0 < header.size <= min(LONGEST, len(data))
    assert (header.source is None) == (header.destination is None)
    addresses: tuple[object, ...] = (header.source, header.destination)
    for address in addresses:
        if isinstance(address, (IPv4Address, IPv6Address)):
            assert 0 <= address.port <= 0xFFFF
            assert str(ipaddress.ip_address(address.host)) == address.host
            assert (":" in address.host) == isinstance(address, IPv6Address)
        elif isinstance(address, UNIXAddress):
            assert address.name is None or len(address.name) <= 108
        else:
            assert address is None
    translation = header.translation
    if translation is not None:
        assert data.startswith(SIGNATURE)
        assert re.fullmatch("[0-9a-f]{1,32}:[0-9]{1,19}", translation)
    if header.source is not None and header.destination is not None:
        check_own(header.source, header.destination, translation or "0a:1")


def check_own(source: IAddress, destination: IAddress, translation: str) -> None:
    """Check that the header that a proxy sends is parsed as it was meant."""
    if isinstance(source, (IPv4Address, IPv6Address)):
        client = Address(source.host, source.port)
    else:
        client = Address("unix", FIRST_STAND_IN_PORT)
    again = parse_header(encode_header(client, destination, translation))
    assert again is not None
    assert again.source is not None
    if isinstance(source, UNIXAddress):
        assert isinstance(destination, UNIXAddress)
        assert again.destination == destination
    else:
        # An IPv4 address that is written as IPv6 is IPv4 on the way.
        assert unmapped(again.source) == unmapped(source)
        assert unmapped(again.destination) == unmapped(destination)
    assert again.translation == translation


def unmapped(address: object) -> tuple[str, int]:
    """Return host and port; the host as IPv4 if it stands for such an address."""
    assert isinstance(address, (IPv4Address, IPv6Address))
    host = ipaddress.ip_address(address.host)
    return str(getattr(host, "ipv4_mapped", None) or host), address.port
