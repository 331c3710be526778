"""The PROXY header: parsing, refusal of malformed headers, and limits by the client's address."""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.listening import ListeningEndpoint
from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.factory import ProxyFactory
from natproxy.server.admission import REFUSED, Admission
from natproxy.server.proxy_header import (
    LONGEST,
    SIGNATURE,
    Header,
    HeaderError,
    HeaderFactory,
    parse_header,
)
from natproxy.server.refusal_log import REFUSAL_INTERVAL
from tests.support.doubles import HalfClosingWire, Journal, PlayedEndpoint

LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n"


def binary(family: int, addresses: bytes, command: int = 0x21, rest: bytes = b"") -> bytes:
    size = len(addresses) + len(rest)
    return SIGNATURE + struct.pack("!BBH", command, family, size) + addresses + rest


BINARY = binary(0x11, bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 40_000, 443))

MALFORMED = (
    b"GET / HTTP/1.1\r\n",
    b"LIST\n",
    b"\x00" * 16,
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
    b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 99999999 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 \xd9\xa3 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 a b\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 \x1b[31m 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1\n 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP6 ::zz ::1 a b\r\n",
    b"PROXY TCP6 ::zz ::1 1 2\r\n",
    b"PROXY TCP6 fe80::1%\x07 ::1 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 ::1 1 2\r\n",
    b"PROXY UNKNOWN " + b"x" * 107,
    b"PROXY " + b"x" * 200 + b"\r\n",
    binary(0x11, b"\x00" * 11),
    binary(0x21, b"\x00" * 35),
    binary(0x31, b"\x00" * 215),
    binary(0x12, b"\x00" * 12),
    binary(0x41, b"\x00" * 12),
    binary(0x11, b"\x00" * 12, command=0x22),
    binary(0x11, b"\x00" * 12, command=0x31),
    binary(0x11, b"\x00" * 12, command=0x11),
    binary(0x11, b"\x00" * LONGEST),
)


class ParsingTests(SynchronousTestCase):
    def test_line_of_version_1(self) -> None:
        self.assertEqual(
            parse_header(LINE + b"LIST\n"),
            Header(
                IPv4Address("TCP", "192.0.2.1", 40_000),
                IPv4Address("TCP", "192.0.2.2", 443),
                len(LINE),
            ),
        )
        line = b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n"
        self.assertEqual(
            parse_header(line),
            Header(
                IPv6Address("TCP", "2001:db8::1", 65_535), IPv6Address("TCP", "::1", 0), len(line)
            ),
        )

    def test_binary_header_of_version_2(self) -> None:
        self.assertEqual(
            parse_header(BINARY + b"LIST\n"), Header(*parse_header(LINE)[:2], len(BINARY))
        )
        packed = bytes.fromhex("20010db8" + "00" * 11 + "01") * 2
        header = binary(0x21, packed + struct.pack("!HH", 1, 2), rest=b"\x04\x00\x00")
        source = IPv6Address("TCP", "2001:db8::1", 1)
        destination = IPv6Address("TCP", "2001:db8::1", 2)
        self.assertEqual(parse_header(header), Header(source, destination, len(header)))
        header = binary(0x31, b"/run/client".ljust(108, b"\x00") + b"\x00" * 108)
        self.assertEqual(
            parse_header(header),
            Header(UNIXAddress(b"/run/client"), UNIXAddress(None), len(header)),
        )

    def test_header_that_names_no_client(self) -> None:
        for header in (
            b"PROXY UNKNOWN\r\n",
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
            binary(0x00, b""),
            binary(0x11, b"\x00" * 12, command=0x20),
        ):
            self.assertEqual(parse_header(header), Header(None, None, len(header)))

    def test_every_part_of_a_header_is_incomplete(self) -> None:
        for header in (LINE, BINARY):
            for size in range(1, len(header)):
                self.assertIsNone(parse_header(header[:size]), header[:size])

    def test_malformed_headers(self) -> None:
        for header in MALFORMED:
            error = self.assertRaises(HeaderError, parse_header, header)
            self.assertTrue(str(error).isprintable(), error)

    def test_translation_is_a_value_after_the_addresses(self) -> None:
        addresses = b"\x00" * 12
        value = b"\xe0\x00\x04ab:7"
        for rest, expected in (
            (value, "ab:7"),
            (b"\x04\x00\x02xx" + value + b"\x04\x00\x00", "ab:7"),
            (b"\xe1\x00\x04ab:7", None),
            (b"\xe0\x00\x04ab:x", None),
            (b"\xe0\x00\x00", None),
            (b"\xe0\x00\x06ab:\n7\x1b", None),
            # Its length exceeds the header.
            (b"\xe0\x00\x09ab:7\xff", None),
            (b"\x04\xff\xff" + value, None),
            (value[:2], None),
            (b"\xe0" + struct.pack("!H", 60) + b"a" * 39 + b":" + b"1" * 20, None),
        ):
            parsed = parse_header(binary(0x11, addresses, rest=rest))
            assert parsed is not None
            self.assertEqual(parsed.translation, expected, rest)
        # A connection that is not for a client has none.
        self.assertIsNone(parse_header(binary(0x11, addresses, rest=value, command=0x20))[3])


class ConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.journal = Journal(self)
        self.clock = Clock()
        self.upstream = PlayedEndpoint()
        self.factory = ProxyFactory(
            self.clock,
            EndpointConnector(self.upstream, self.clock, 5.0),
            admission=Admission(10, 1),
            first_command_timeout=30.0,
        )
        self.listener = HeaderFactory(self.factory)

    def connect(self, *received: bytes) -> tuple[Any, HalfClosingWire]:
        wire = HalfClosingWire(9000, 50_000)
        protocol = self.listener.buildProtocol(wire.getPeer())
        assert protocol is not None
        protocol.makeConnection(wire)
        for data in received:
            protocol.dataReceived(data)
        return protocol, wire

    def test_client_has_the_address_in_the_header(self) -> None:
        for header, client in ((LINE, "192.0.2.1:40000"), (BINARY, "192.0.2.1:40000")):
            protocol, wire = self.connect(header + b"LIST\n")
            self.upstream.last.refuse(ConnectionRefusedError())
            self.journal.line_with(f"{client} LIST")
            self.journal.events.clear()
            wire.lose(protocol)

    def test_header_in_pieces(self) -> None:
        self.connect(*(bytes([byte]) for byte in LINE + b"LIST\n"))
        self.assertEqual(len(self.upstream.connections), 1)

    def test_malformed_header_is_logged_and_the_connection_aborted(self) -> None:
        for header in MALFORMED:
            protocol, wire = self.connect(header, b"LIST\n")
            self.assertTrue(wire.aborted, header)
            (event,) = self.journal.events
            self.assertEqual(event["log_level"], LogLevel.warn)
            line = self.journal.line_with("connection from 127.0.0.1 refused: PROXY header: ")
            self.assertTrue(line.isprintable(), line)
            self.journal.events.clear()
            wire.lose(protocol)
            self.clock.advance(REFUSAL_INTERVAL)
        self.assertEqual(self.upstream.connections, [])
        self.assertEqual(self.factory.admission.admitted, 0)

    def test_malformed_headers_are_logged_once_per_interval(self) -> None:
        def refuse(reason: str) -> None:
            protocol, wire = self.connect(reason.encode() + b"\r\n")
            self.assertTrue(wire.aborted)
            wire.lose(protocol)

        for _ in range(100):
            refuse("GET /")
        self.journal.line_with("127.0.0.1 refused: PROXY header: not a PROXY header")
        self.clock.advance(REFUSAL_INTERVAL)
        refuse("PROXY TCP5")
        self.journal.line_with("malformed line PROXY TCP5 (and 99 others before)")
        self.assertEqual(len(self.journal.events), 2)

    def test_malformed_headers_do_not_hide_refused_clients(self) -> None:
        self.connect(b"GET /\r\n")
        self.connect(LINE)
        self.connect(LINE)
        self.journal.line_with("refused: PROXY header")
        self.journal.line_with("192.0.2.1:40000 refused")

    def test_missing_or_incomplete_header_times_out(self) -> None:
        for received in (b"", b"PROXY TCP4 ", BINARY[:20], LINE, LINE + b"LI"):
            protocol, wire = self.connect(received) if received else self.connect()
            self.clock.advance(29.9)
            self.assertTrue(wire.open)
            self.clock.advance(0.2)
            self.assertTrue(wire.disconnecting, received)
            wire.lose(protocol)

    def test_connection_without_a_header_yet_is_counted_and_drained(self) -> None:
        protocol, wire = self.connect()
        self.assertEqual(self.factory.admission.admitted, 1)
        drained = self.factory.drain()
        self.assertTrue(wire.disconnecting)
        wire.lose(protocol)
        self.successResultOf(drained)

    def test_clients_are_counted_by_the_address_in_the_header(self) -> None:
        _, first = self.connect(LINE)
        _, other = self.connect(LINE.replace(b"192.0.2.1", b"192.0.2.7"))
        _, second = self.connect(BINARY + b"LIST\n")
        self.assertEqual((first.taken(), other.taken()), (b"", b""))
        self.assertEqual(
            second.taken(), b"ERR proxy error: too many connections from this address\n"
        )
        self.assertEqual(self.upstream.connections, [])
        self.journal.line_with("192.0.2.1:40000 refused")

    def test_clients_without_an_address_in_the_header_are_counted_by_the_connection(self) -> None:
        self.connect(b"PROXY UNKNOWN\r\n")
        _, second = self.connect(b"PROXY UNKNOWN\r\n")
        self.assertIn(b"too many connections", second.taken())

    def test_connection_is_not_refused_for_the_address_of_the_load_balancer(self) -> None:
        self.connect(b"PROXY UNKNOWN\r\n")
        for _ in range(REFUSED):
            self.connect(b"PROXY UNKNOWN\r\n")
        _, wire = self.connect(LINE)
        self.assertTrue(wire.open)
        self.assertEqual(wire.taken(), b"")

    def test_unix_clients_are_exempt(self) -> None:
        header = binary(0x31, b"/run/client".ljust(108, b"\x00") + b"\x00" * 108)
        for _ in range(3):
            _, wire = self.connect(header)
            self.assertEqual(wire.taken(), b"")

    def test_half_closed_client_receives_its_reply(self) -> None:
        protocol, wire = self.connect(LINE + b"LIST\n")
        protocol.readConnectionLost()
        upstream = self.upstream.last
        upstream.accept()
        upstream.protocol.dataReceived(b"OK\nEND\n")
        self.assertEqual(wire.taken(), b"OK\nEND\n")
        self.assertTrue(wire.disconnecting)

    def test_connection_closes_if_the_client_half_closes_before_its_header(self) -> None:
        protocol, wire = self.connect(b"PROXY ")
        protocol.readConnectionLost()
        self.assertTrue(wire.disconnecting)


class EndpointTests(SynchronousTestCase):
    def test_endpoint_of_a_description(self) -> None:
        reactor = MemoryReactorClock()
        factory = ProxyFactory(reactor, EndpointConnector(PlayedEndpoint(), reactor, 5.0))
        ListeningEndpoint(reactor, "haproxy:tcp:9000:interface=127.0.0.1").listen(factory)
        ListeningEndpoint(reactor, r"haproxy:tcp6:9001:interface=\:\:1").listen(factory)
        (port, listener, _, interface), (_, _, _, other) = reactor.tcpServers
        self.assertEqual((port, interface, other), (9000, "127.0.0.1", "::1"))
        self.assertIsInstance(listener, HeaderFactory)
        self.assertIs(listener.wrappedFactory, factory)
