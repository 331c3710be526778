"""Ident: only the full pair of addresses, only to the upstream's address."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.nat import NATTable, Outcome, TranslationKey
from natproxy.protocol import parse_command
from natproxy.proxy.ident import (
    MAX_QUERY,
    MAX_USER,
    MOST_CONNECTIONS,
    MOST_QUERIES,
    TIMEOUT,
    IdentFactory,
)

PROXY, UPSTREAM, OTHER = "10.0.0.1", "10.0.0.9", "10.0.0.7"
CLIENT = Address("198.51.100.7", 43210)


def at(host: str, port: int = 113) -> IAddress:
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, port)


class IdentCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.table = NATTable(self.clock.seconds)
        self.factory = IdentFactory(self.table, self.clock)

    def register(
        self,
        port: int = 50000,
        upstream: str = UPSTREAM,
        client: Address = CLIENT,
        local: str = PROXY,
        identity: str | None = None,
    ) -> object:
        command = parse_command(b"LIST")
        assert command is not None
        key = TranslationKey(Address(local, port), Address(upstream, 9001))
        return self.table.register(
            key, StringTransport(), client, command, 0.0, lambda: None, identity
        )

    def reply(self, query: bytes, own: str = PROXY, peer: str = UPSTREAM) -> bytes:
        return self.factory.reply(query, at(own), at(peer, 33333))


class ReplyTests(IdentCase):
    def test_client_of_a_connection(self) -> None:
        self.register()
        self.assertEqual(
            self.reply(b"50000, 9001"), b"50000, 9001 : USERID : OTHER : 198.51.100.7:43210"
        )

    def test_client_with_an_identity(self) -> None:
        self.register(identity="alice")
        self.assertEqual(
            self.reply(b"50000, 9001"),
            b"50000, 9001 : USERID : OTHER : alice@198.51.100.7:43210",
        )

    def test_spaces_are_optional(self) -> None:
        self.register()
        for query in (b"50000,9001", b" 50000 , 9001 ", b"50000,9001\r", b"050000, 09001"):
            self.assertIn(b"USERID", self.reply(query), query)

    def test_only_to_the_upstream(self) -> None:
        self.register()
        no_user = b"50000, 9001 : ERROR : NO-USER"
        self.assertEqual(self.reply(b"50000, 9001", peer=OTHER), no_user)
        self.assertEqual(self.reply(b"50000, 9001", peer=PROXY), no_user)
        self.assertEqual(self.reply(b"50000, 9001", peer="::1"), no_user)

    def test_only_for_the_address_that_the_query_came_to(self) -> None:
        self.register()
        self.assertIn(b"NO-USER", self.reply(b"50000, 9001", own=OTHER))

    def test_only_for_the_full_pair_of_ports(self) -> None:
        self.register()
        for query in (b"50000, 9002", b"50001, 9001", b"9001, 50000"):
            self.assertEqual(self.reply(query), query + b" : ERROR : NO-USER")

    def test_port_that_leads_to_two_upstreams(self) -> None:
        self.register()
        self.register(upstream=OTHER, client=Address("198.51.100.8", 1))
        self.assertIn(b"198.51.100.7:43210", self.reply(b"50000, 9001"))
        self.assertIn(b"198.51.100.8:1", self.reply(b"50000, 9001", peer=OTHER))

    def test_nothing_after_the_end_of_the_command(self) -> None:
        self.table.remove(self.register(), Outcome.COMPLETED)
        self.assertIn(b"NO-USER", self.reply(b"50000, 9001"))

    def test_bad_ports(self) -> None:
        self.register()
        for query in (b"0, 9001", b"65536, 9001", b"50000, 0", b"50000, 4294967295"):
            self.assertEqual(self.reply(query), query + b" : ERROR : INVALID-PORT")
        for query in (b"", b"50000", b"-1, 2", b"1.5, 2", b"a, b", b"1, 2, 3", b"1" * 20 + b", 2"):
            self.assertEqual(self.reply(query), b"0, 0 : ERROR : INVALID-PORT", query)

    def test_ipv6_and_mapped_ipv4(self) -> None:
        self.register(client=Address("2001:db8::7", 5))
        mapped = self.reply(b"50000, 9001", own=f"::ffff:{PROXY}", peer=f"::ffff:{UPSTREAM}")
        self.assertTrue(mapped.endswith(b" : [2001:db8::7]:5"), mapped)

    def test_unix_sockets(self) -> None:
        client = Address("unix:/run/\nnatproxy/" + "ä" * 600, FIRST_STAND_IN_PORT)
        self.register(client=client)
        reply = self.reply(b"50000, 9001")
        user = reply.partition(b" : OTHER : ")[2]
        self.assertTrue(user.startswith(b"unix:/run/"))
        self.assertLessEqual(len(user), MAX_USER)
        self.assertTrue(user.isascii() and user.decode().isprintable(), user)
        peer = UNIXAddress("/run/other")
        self.assertIn(b"NO-USER", self.factory.reply(b"50000, 9001", peer, peer))

    @given(st.binary(max_size=60))
    def test_any_line_has_a_reply_of_one_line(self, query: bytes) -> None:
        reply = self.reply(query)
        self.assertIn(b" : ERROR : ", reply)
        self.assertNotIn(b"\n", reply)
        self.assertNotIn(b"\r", reply)


class ConnectionTests(IdentCase):
    def connect(self) -> tuple[object, StringTransport]:
        transport = StringTransport(hostAddress=at(PROXY), peerAddress=at(UPSTREAM, 33333))
        protocol = self.factory.buildProtocol(transport.getPeer())
        protocol.makeConnection(transport)
        return protocol, transport

    def test_several_queries(self) -> None:
        self.register()
        protocol, transport = self.connect()
        protocol.dataReceived(b"50000, 9001\r\n1, ")
        protocol.dataReceived(b"2\n")
        self.assertEqual(
            transport.value(),
            b"50000, 9001 : USERID : OTHER : 198.51.100.7:43210\r\n1, 2 : ERROR : NO-USER\r\n",
        )

    def test_connection_is_closed_after_many_queries(self) -> None:
        protocol, transport = self.connect()
        protocol.dataReceived(b"1, 2\n" * (MOST_QUERIES - 1))
        self.assertFalse(transport.disconnecting)
        protocol.dataReceived(b"1, 2\n" * 1000)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(transport.value().count(b"NO-USER"), MOST_QUERIES)

    def test_idle_connection_is_closed(self) -> None:
        protocol, transport = self.connect()
        self.clock.advance(TIMEOUT - 1)
        protocol.dataReceived(b"1, 2\r\n")
        self.clock.advance(TIMEOUT - 1)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(1.1)
        self.assertTrue(transport.disconnecting)
        protocol.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_connection_that_the_peer_closes_leaves_no_timer(self) -> None:
        protocol, _ = self.connect()
        protocol.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_line_without_an_end_is_not_kept(self) -> None:
        protocol, transport = self.connect()
        protocol.dataReceived(b"1" * (MAX_QUERY + 3))
        self.assertTrue(transport.disconnecting)
        self.assertEqual(transport.value(), b"")

    def test_number_of_connections_is_limited(self) -> None:
        connections = [self.connect() for _ in range(MOST_CONNECTIONS)]
        protocol, transport = self.connect()
        self.assertTrue(transport.disconnecting)
        protocol.connectionLost()
        connections[0][0].connectionLost()
        _, transport = self.connect()
        self.assertFalse(transport.disconnecting)
