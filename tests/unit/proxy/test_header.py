"""The PROXY header to the upstream, against both parsers: natproxy's own, and Twisted's."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.testing import StringTransport
from twisted.protocols.haproxy._v2parser import V2Parser
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.protocol import parse_command
from natproxy.proxy.header import LOCAL, encode_header, is_reply_to_header, with_header
from natproxy.server.proxy_header import parse_header

SERIAL = "0123456789abcdef:42"
LOCAL4 = IPv4Address("TCP", "192.0.2.1", 9000)
LOCAL6 = IPv6Address("TCP", "2001:db8::1", 9000)

ports = st.integers(0, 0xFFFF)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)
hosts = ipv4 | ipv6 | ipv4.map(lambda host: f"::ffff:{host}") | ipv6.map(lambda h: f"{h}%eth0")
translations = st.builds(
    "{}:{}".format,
    st.text("0123456789abcdef", min_size=1, max_size=32),
    st.integers(0, 10**19 - 1),
)
paths = st.binary(max_size=107).filter(lambda path: b"\0" not in path)


def local_of(host: str, port: int) -> IAddress:
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


def plain(host: str) -> Any:
    """Return the number of a host; that of an IPv4 address if it is one."""
    number: Any = ip_address(host.partition("%")[0])
    return getattr(number, "ipv4_mapped", None) or number


class EncoderTests(SynchronousTestCase):
    def assert_parsed(
        self, header: bytes, source: IAddress | None, destination: IAddress | None
    ) -> None:
        parsed = parse_header(header + b"LIST\n")
        assert parsed is not None
        self.assertEqual(parsed[:3], (source, destination, len(header)))

    def test_addresses_by_family(self) -> None:
        for client, local, expected in (
            ("192.0.2.7", LOCAL4, (IPv4Address("TCP", "192.0.2.7", 5), LOCAL4)),
            ("2001:db8::7", LOCAL6, (IPv6Address("TCP", "2001:db8::7", 5), LOCAL6)),
            # On a socket for both families, both addresses are in IPv6.
            (
                "::ffff:192.0.2.7",
                IPv6Address("TCP", "::ffff:192.0.2.1", 9000),
                (IPv4Address("TCP", "192.0.2.7", 5), LOCAL4),
            ),
            # Behind a load balancer, they can differ.
            ("192.0.2.7", LOCAL6, (IPv6Address("TCP", "::ffff:c000:207", 5), LOCAL6)),
            (
                "2001:db8::7",
                LOCAL4,
                (
                    IPv6Address("TCP", "2001:db8::7", 5),
                    IPv6Address("TCP", "::ffff:c000:201", 9000),
                ),
            ),
            ("fe80::1%eth0", LOCAL6, (IPv6Address("TCP", "fe80::1", 5), LOCAL6)),
        ):
            header = encode_header(Address(client, 5), local, SERIAL)
            parsed = parse_header(header)
            assert parsed is not None
            for found, address in zip(parsed[:2], expected, strict=True):
                assert isinstance(found, (IPv4Address, IPv6Address))
                self.assertEqual(plain(found.host), plain(address.host))
                self.assertEqual(found.port, address.port)
            self.assertEqual(parsed.translation, SERIAL)

    def test_unix_client_has_no_path(self) -> None:
        client = Address("unix:/x", FIRST_STAND_IN_PORT + 3)
        header = encode_header(client, UNIXAddress(b"/run/natproxy"), SERIAL)
        self.assert_parsed(header, UNIXAddress(None), UNIXAddress(b"/run/natproxy"))

    def test_addresses_without_a_common_family(self) -> None:
        unix = Address("unix", FIRST_STAND_IN_PORT)
        for client, local in (
            (unix, LOCAL4),
            (Address("192.0.2.7", 5), UNIXAddress(b"/x")),
            (Address("192.0.2.7", 5), HostnameAddress(b"a", 1)),
            (Address("a.example", 5), LOCAL4),
        ):
            self.assertEqual(encode_header(client, local, SERIAL), LOCAL)
        self.assert_parsed(LOCAL, None, None)

    @given(hosts, ports, hosts, ports, translations)
    def test_both_parsers_read_it(
        self, client: str, client_port: int, host: str, port: int, translation: str
    ) -> None:
        header = encode_header(Address(client, client_port), local_of(host, port), translation)
        parsed = parse_header(header + b"GET x\n")
        assert parsed is not None
        self.assertEqual((parsed.size, parsed.translation), (len(header), translation))
        twisted, rest = V2Parser().feed(header + b"GET x\n")
        self.assertEqual(rest, b"GET x\n")
        for source, destination in (
            (parsed.source, parsed.destination),
            (twisted.source, twisted.destination),
        ):
            for found, expected in ((source, (client, client_port)), (destination, (host, port))):
                self.assertEqual((plain(found.host), found.port), (plain(expected[0]), expected[1]))

    @given(paths, translations)
    def test_own_parser_reads_that_of_unix_sockets(self, path: bytes, translation: str) -> None:
        client = Address("unix", FIRST_STAND_IN_PORT)
        header = encode_header(client, UNIXAddress(path or None), translation)
        parsed = parse_header(header)
        assert parsed is not None
        expected = UNIXAddress(path.rstrip(b"\0") or None)
        self.assertEqual((parsed.source, parsed.destination), (UNIXAddress(None), expected))
        self.assertEqual((parsed.size, parsed.translation), (len(header), translation))

    @given(hosts, ports, translations, st.data())
    def test_no_part_of_it_is_a_header(
        self, client: str, port: int, translation: str, data: st.DataObject
    ) -> None:
        header = encode_header(Address(client, port), LOCAL6, translation)
        end = data.draw(st.integers(0, len(header) - 1))
        self.assertIsNone(parse_header(header[:end]))


class SendingTests(SynchronousTestCase):
    class Client:
        client_address = Address("192.0.2.7", 5)
        local_address = LOCAL4

    def test_command_follows_in_the_same_write(self) -> None:
        transport = StringTransport()
        client: Any = self.Client()
        data = with_header(transport, client, SERIAL, b"LIST\n")  # type: ignore[arg-type]
        self.assertEqual(transport.value(), b"")
        header = encode_header(client.client_address, LOCAL4, SERIAL)
        self.assertEqual(data, header + b"LIST\n")

    def test_header_precedes_tls(self) -> None:
        secure: Any = ProtocolWrapper(WrappingFactory(None), None)  # type: ignore[type-var]
        secure.transport = StringTransport()
        client: Any = self.Client()
        self.assertEqual(with_header(secure, client, SERIAL, b"LIST\n"), b"LIST\n")
        header = encode_header(client.client_address, LOCAL4, SERIAL)
        self.assertEqual(secure.transport.value(), header)

    def test_reply_of_a_server_that_expects_no_header(self) -> None:
        for line, error, expected in (
            (b"LIST", b"unknown command", True),
            (b"GET a", b"400 unknown command", False),
            (b"DOWNLOAD a", b"unknown command", True),
            (b"DOWNLOAD a", b"file not found", False),
            # A server of version 1 behind a header.
            (b"STAT a", b"unknown command", False),
            (b"FEAT", b"unknown command", False),
        ):
            self.assertIs(is_reply_to_header(parse_command(line), error), expected, line)
