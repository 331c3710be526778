"""The PROXY header, in which a load balancer sends the address of the client.

Versions 1 (a line of text) and 2 (binary) of the PROXY protocol. Twisted's parser accepts control
characters, ports above 65,535 and malformed addresses, or raises the exception of a failed
conversion. This one checks everything. A malformed header is refused, and the refusal is logged at
most once per interval.

A natproxy in front of a file server adds the translation of its command, which Twisted's parser
drops: a value of the type `TRANSLATION` after the addresses. `natproxy.proxy.header` sends it.
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
"""Bytes of a header of version 1 at most, including its line end."""

LONGEST = 4096
"""Bytes of a header of version 2 at most; but for the addresses and the translation, its content is
ignored."""

TRANSLATION = 0xE0
"""The type of the value that has boot and serial of a translation, ``0123456789abcdef:42``.

It is the first type of the range for applications.
"""

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
"""The first bytes of a header of version 2."""

_FIXED = struct.Struct("!12sBBH")
_IPV4 = struct.Struct("!4s4sHH")
_IPV6 = struct.Struct("!16s16sHH")
_UNIX = struct.Struct("!108s108s")
_VALUE = struct.Struct("!BH")
_TRANSLATION = re.compile(rb"[0-9a-f]{1,32}:[0-9]{1,19}")
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}", re.ASCII)


class HeaderError(ValueError):
    """Bytes that are not a PROXY header. The text is the reason, on one line."""


class Header(NamedTuple):
    """A complete header.

    :ivar source: the client's address; ``None`` if the header contains none, as in the health
        checks of a load balancer. The client's address is then that of the connection.
    :ivar destination: the address to which the client has connected; ``None`` likewise.
    :ivar size: bytes of the header.
    :ivar translation: boot and serial of the proxy's translation; ``None`` without one.
    """

    source: IAddress | None
    destination: IAddress | None
    size: int
    translation: str | None = None


def parse_header(received: bytes) -> Header | None:
    """Parse the header at the beginning of a connection.

    :return: ``None`` if more bytes are needed.
    :raises HeaderError: if it is not a PROXY header, or if it is malformed.
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
                _translation_in(addresses[_IPV4.size :]),
            )
        if family == 0x21:
            source, destination, *ports = _IPV6.unpack_from(addresses)
            return Header(
                IPv6Address("TCP", str(NumericIPv6(source)), ports[0]),
                IPv6Address("TCP", str(NumericIPv6(destination)), ports[1]),
                size,
                _translation_in(addresses[_IPV6.size :]),
            )
        if family == 0x31:
            source, destination = _UNIX.unpack_from(addresses)
            translation = _translation_in(addresses[_UNIX.size :])
            return Header(_unix(source), _unix(destination), size, translation)
    except struct.error:
        raise HeaderError(f"{length} bytes are too few for its addresses") from None
    raise HeaderError(f"unknown address family and transport 0x{family:02x}")


def _translation_in(values: bytes) -> str | None:
    """Return the translation among the values after the addresses; ``None`` if it is malformed."""
    position = 0
    while position + _VALUE.size <= len(values):
        kind, length = _VALUE.unpack_from(values, position)
        position += _VALUE.size
        if kind == TRANSLATION:
            found = _TRANSLATION.fullmatch(values[position : position + length])
            return found[0].decode("ascii") if found else None
        position += length
    return None


def _unix(path: bytes) -> IAddress:
    return UNIXAddress(path.rstrip(b"\x00") or None)


class Receiver(Protocol):
    """The wrapped protocol: see `natproxy.server.connection.CommandReceiver`."""

    def peer_identified(self) -> None:
        """Called when the header has been received: the transport returns the client's address."""
        ...

    def header_refused(self, log: Logger, peer: str, reason: str) -> None:
        """Log that the header is malformed, at a limited rate.

        :param peer: host of the connection.
        """
        ...


def receiver_of(protocol: Any) -> Receiver:
    """Return the receiver of a connection, inside of wrappers such as TLS."""
    while isinstance(protocol, ProtocolWrapper):
        protocol = protocol.wrappedProtocol
    return cast(Receiver, protocol)


@implementer(IHalfCloseableProtocol)
class HeaderReceiver(ProtocolWrapper):
    """Receives a PROXY header, and passes the bytes after it to the wrapped protocol.

    The wrapped protocol is connected from the beginning, so that limits, time-outs and draining
    apply to it. `Receiver.peer_identified` is called when the client's address is known.

    :ivar peer_pending: whether the header has not been received yet.
    """

    _log = Logger()
    transport: Any

    def __init__(self, factory: WrappingFactory[Any], wrapped: IProtocol) -> None:
        super().__init__(factory, wrapped)
        self.peer_pending = True
        self._received = b""
        self._header: Header | None = None
        # A TLS protocol passes calls that it does not know to its transport, which is this one.
        self._half_closes = isinstance(wrapped, HeaderReceiver) or not isinstance(
            wrapped, ProtocolWrapper
        )
        self._refused = False

    def dataReceived(self, data: bytes) -> None:
        """Receive bytes of the header, or bytes after it."""
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
        receiver_of(self.wrappedProtocol).peer_identified()
        if rest:
            self.wrappedProtocol.dataReceived(rest)

    @property
    def translation(self) -> str | None:
        """Boot and serial of the proxy's translation; ``None`` without one, or without a header."""
        return None if self._header is None else self._header.translation

    def getPeer(self) -> IAddress:
        """Return the client's address; before the header, the load balancer's."""
        if self._header is not None and self._header.source is not None:
            return self._header.source
        peer: IAddress = super().getPeer()
        return peer

    def getHost(self) -> IAddress:
        """Return the address to which the client has connected."""
        if self._header is not None and self._header.destination is not None:
            return self._header.destination
        host: IAddress = super().getHost()
        return host

    def readConnectionLost(self) -> None:
        """Pass the half-close on; close if the header is missing, or inside is TLS."""
        if self.peer_pending or not self._half_closes:
            self.transport.loseConnection()
        else:
            cast(IHalfCloseableProtocol, self.wrappedProtocol).readConnectionLost()

    def writeConnectionLost(self) -> None:
        """Pass on that everything has been sent; TLS has no half-close."""
        if self._half_closes:
            cast(IHalfCloseableProtocol, self.wrappedProtocol).writeConnectionLost()

    def _refuse(self, reason: str) -> None:
        self._refused = True
        self._received = b""
        peer = super().getPeer()
        receiver_of(self.wrappedProtocol).header_refused(
            self._log, getattr(peer, "host", "unix"), reason
        )
        self.transport.abortConnection()


class HeaderFactory(WrappingFactory):
    """Builds connections that begin with a PROXY header."""

    noisy = False
    protocol = HeaderReceiver

    def buildProtocol(self, addr: IAddress | None) -> HeaderReceiver | None:  # type: ignore[override]
        """Return the wrapped protocol of a connection; ``None`` if the connection is refused."""
        if addr is not None and not self.trusts_header_from(addr):
            return None
        # The address is the load balancer's: no client may be refused because of it.
        wrapped = self.wrappedFactory.buildProtocol(None)
        return None if wrapped is None else HeaderReceiver(self, wrapped)

    def trusts_header_from(self, peer: IAddress) -> bool:
        """Return whether a header is accepted from a peer; the factory of the clients decides."""
        trusts = getattr(self.wrappedFactory, "trusts_header_from", None)
        return trusts is None or bool(trusts(peer))
