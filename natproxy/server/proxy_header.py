"""The PROXY header, in which a load balancer says for whom it connects.

Versions 1 (a line of text) and 2 (binary) of the PROXY protocol. Twisted has a parser of
its own, but it lets control characters, ports above 65,535 and malformed addresses pass,
or raises whatever a conversion raises. Here everything is checked, and a header that is
not understood is refused; one line in some seconds is logged about that.
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address as NumericIPv4
from ipaddress import IPv6Address as NumericIPv6
from typing import Any, NamedTuple, Protocol, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
)
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer

from natproxy.protocol import printable

LONGEST_LINE = 107
"""Bytes of a header of version 1, its line end included."""

LONGEST = 4096
"""Bytes of a header of version 2; what is not an address in it is ignored."""

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
"""What a header of version 2 begins with."""

_FIXED = struct.Struct("!12sBBH")
_IPV4 = struct.Struct("!4s4sHH")
_IPV6 = struct.Struct("!16s16sHH")
_UNIX = struct.Struct("!108s108s")
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}", re.ASCII)


class HeaderError(ValueError):
    """Bytes that are not a PROXY header. Its text names what is wrong, on one line."""


class Header(NamedTuple):
    """A complete header.

    :ivar source: the client's address; `None` if the header names none, as the health
        checks of a load balancer do: then it is the address of the connection.
    :ivar destination: the address that the client has connected to.
    :ivar size: bytes of the header.
    """

    source: IAddress | None
    destination: IAddress | None
    size: int


def parse_header(received: bytes) -> Header | None:
    """Parse the header that a connection begins with.

    :return: `None` if more bytes are needed.
    :raises HeaderError: if it is not a PROXY header, or a malformed one.
    """
    if received[: len(SIGNATURE)] == SIGNATURE[: len(received)]:
        return _parse_binary(received)
    if received[:6] == b"PROXY "[: len(received)]:
        return _parse_line(received)
    raise HeaderError("not a PROXY header")


def _parse_line(received: bytes) -> Header | None:
    line, end, _ = received[:LONGEST_LINE].partition(b"\r\n")
    if not end:
        if len(received) < LONGEST_LINE:
            return None
        raise HeaderError("line too long")
    size = len(line) + len(end)
    _, _, rest = line.partition(b" ")
    if rest == b"UNKNOWN" or rest.startswith(b"UNKNOWN "):
        return Header(None, None, size)
    words = rest.split(b" ")
    if len(words) != 5 or words[0] not in (b"TCP4", b"TCP6"):
        raise HeaderError(f"malformed line {printable(line, 80)}")
    family, source, destination, source_port, destination_port = words
    return Header(
        _address(family, source, source_port),
        _address(family, destination, destination_port),
        size,
    )


def _address(family: bytes, host: bytes, port: bytes) -> IAddress:
    if not _PORT.fullmatch(port) or int(port) > 0xFFFF:
        raise HeaderError(f"malformed port {printable(port, 40)}")
    try:
        text = host.decode("ascii")
        if family == b"TCP4":
            return IPv4Address("TCP", str(NumericIPv4(text)), int(port))
        if "%" in text:
            raise ValueError
        return IPv6Address("TCP", str(NumericIPv6(text)), int(port))
    except ValueError:
        raise HeaderError(f"malformed address {printable(host, 80)}") from None


def _parse_binary(received: bytes) -> Header | None:
    if len(received) < _FIXED.size:
        return None
    _, version_and_command, family, length = _FIXED.unpack_from(received)
    if version_and_command not in (0x20, 0x21):
        raise HeaderError(f"unknown version and command 0x{version_and_command:02x}")
    size = _FIXED.size + length
    if size > LONGEST:
        raise HeaderError(f"{size} bytes long")
    if len(received) < size:
        return None
    if version_and_command == 0x20 or family == 0x00:
        return Header(None, None, size)
    addresses = received[_FIXED.size : size]
    try:
        if family == 0x11:
            source, destination, *ports = _IPV4.unpack_from(addresses)
            return Header(
                IPv4Address("TCP", str(NumericIPv4(source)), ports[0]),
                IPv4Address("TCP", str(NumericIPv4(destination)), ports[1]),
                size,
            )
        if family == 0x21:
            source, destination, *ports = _IPV6.unpack_from(addresses)
            return Header(
                IPv6Address("TCP", str(NumericIPv6(source)), ports[0]),
                IPv6Address("TCP", str(NumericIPv6(destination)), ports[1]),
                size,
            )
        if family == 0x31:
            source, destination = _UNIX.unpack_from(addresses)
            return Header(_unix(source), _unix(destination), size)
    except struct.error:
        raise HeaderError(f"{length} bytes are too few for its addresses") from None
    raise HeaderError(f"unknown address family and transport 0x{family:02x}")


def _unix(path: bytes) -> IAddress:
    return UNIXAddress(path.rstrip(b"\x00") or None)


class Receiver(Protocol):
    """What is asked of the protocol behind a header; see `natproxy.server.connection`."""

    def peer_identified(self) -> None:
        """The client's address is known from now on."""
        ...

    def header_refused(self, log: Logger, peer: str, reason: str) -> None:
        """Log that the header is malformed: so often that a flood does not fill the log.

        :param peer: host of the connection.
        """
        ...


@implementer(IHalfCloseableProtocol)
class HeaderReceiver(ProtocolWrapper):
    """Receives a PROXY header, then hands on what follows it.

    The wrapped protocol is connected from the beginning, so that it is counted, timed out
    and drained as any other. It learns the client's address by ``peer_identified``.

    :ivar peer_pending: whether the header has not been received yet.
    """

    _log = Logger()
    transport: Any

    def __init__(self, factory: WrappingFactory[Any], wrapped: IProtocol) -> None:
        super().__init__(factory, wrapped)
        self.peer_pending = True
        self._received = b""
        self._header: Header | None = None
        self._refused = False

    def dataReceived(self, data: bytes) -> None:
        """Receive bytes of the header, or of what follows it."""
        if self._refused:
            return
        if not self.peer_pending:
            self.wrappedProtocol.dataReceived(data)
            return
        self._received += data
        try:
            header = parse_header(self._received)
        except HeaderError as error:
            self._refuse(str(error))
            return
        if header is None:
            return
        self.peer_pending = False
        self._header = header
        rest, self._received = self._received[header.size :], b""
        cast(Receiver, self.wrappedProtocol).peer_identified()
        if rest:
            self.wrappedProtocol.dataReceived(rest)

    def getPeer(self) -> IAddress:
        """Return the client's address; until it is known, the load balancer's."""
        if self._header is not None and self._header.source is not None:
            return self._header.source
        peer: IAddress = super().getPeer()
        return peer

    def getHost(self) -> IAddress:
        """Return the address that the client has connected to."""
        if self._header is not None and self._header.destination is not None:
            return self._header.destination
        host: IAddress = super().getHost()
        return host

    def readConnectionLost(self) -> None:
        """The client has half-closed: that is the wrapped protocol's affair."""
        if self.peer_pending:
            self.transport.loseConnection()
        else:
            cast(IHalfCloseableProtocol, self.wrappedProtocol).readConnectionLost()

    def writeConnectionLost(self) -> None:
        """Everything has been sent."""
        cast(IHalfCloseableProtocol, self.wrappedProtocol).writeConnectionLost()

    def _refuse(self, reason: str) -> None:
        self._refused = True
        self._received = b""
        peer = super().getPeer()
        cast(Receiver, self.wrappedProtocol).header_refused(
            self._log, getattr(peer, "host", "unix"), reason
        )
        self.transport.abortConnection()


class HeaderFactory(WrappingFactory):
    """Makes connections that begin with a PROXY header."""

    noisy = False
    protocol = HeaderReceiver

    def buildProtocol(self, addr: IAddress | None) -> HeaderReceiver | None:  # type: ignore[override]
        """Wrap the protocol that is made for a connection, if one is."""
        # The address is the load balancer's: nobody is to be refused because of it.
        wrapped = self.wrappedFactory.buildProtocol(None)
        return None if wrapped is None else HeaderReceiver(self, wrapped)
