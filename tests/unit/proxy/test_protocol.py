"""The path of one command, with a client and an upstream that the test plays."""

from __future__ import annotations

import errno

from twisted.internet import error
from twisted.internet.address import UNIXAddress

from natproxy.address import Address
from natproxy.nat import EntryState
from tests.support.doubles import Upstream, Wire
from tests.support.proxies import ProxyCase


class OneCommandTests(ProxyCase):
    def test_command_has_a_connection_of_its_own(self) -> None:
        self.protocol.dataReceived(b"DOWNLOAD a b\r\n")
        upstream = self.endpoint.last
        self.assertEqual(len(self.table), 0)
        upstream.accept()
        self.assertEqual(upstream.wire.taken(), b"DOWNLOAD a b\n")
        (entry,) = self.table.lookup(50_000)
        self.assertIs(entry.state, EntryState.REGISTERED)
        upstream.protocol.dataReceived(b"OK 5\nhel")
        self.assertIs(entry.state, EntryState.RELAYING)
        self.assertEqual(self.wire.taken(), b"OK 5\nhel")
        upstream.protocol.dataReceived(b"lo and more than promised")
        self.assertEqual(self.wire.taken(), b"lo")
        self.assertEqual(entry.relayed, 10)
        self.assertTrue(upstream.wire.aborted)
        self.assertTrue(self.wire.open)

    def test_client_is_usable_after_a_refused_connection(self) -> None:
        self.protocol.dataReceived(b"LIST\nLIST\n")
        self.endpoint.last.refuse(error.ConnectionRefusedError())
        self.assertEqual(self.wire.taken(), b"ERR proxy error: the server refuses connections\n")
        self.endpoint.last.accept()
        self.endpoint.last.protocol.dataReceived(b"OK\nEND\n")
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")

    def test_listing_is_relayed_up_to_its_end_and_no_further(self) -> None:
        upstream = self.travelling(b"list\n")
        upstream.send(b"OK\nENDING\n END\na\nEND\nEND\nsurplus")
        self.assertEqual(self.wire.taken(), b"OK\nENDING\n END\na\nEND\n")
        self.assertTrue(upstream.wire.aborted)
        self.assertEqual(self.journal.ends, ["completed"])

    def test_replies_may_come_in_pieces_of_one_byte(self) -> None:
        for command, reply in (
            (b"LIST\n", b"OK\n\na\nEND\n"),
            (b"DOWNLOAD a\n", b"OK 4 mtime=1\n\nEND"),
            (b"DOWNLOAD a\n", b"ERR file not found\n"),
            (b"STAT a\n", b"OK type=file\n"),
        ):
            upstream = self.travelling(command)
            for position in range(len(reply)):
                self.assertFalse(upstream.wire.aborted, (command, position))
                upstream.send(reply[position : position + 1])
            self.assertTrue(upstream.wire.aborted)
            self.assertEqual(self.wire.taken(), reply)
        self.assertEqual(self.journal.ends, ["completed"] * 4)

    def test_surplus_is_never_relayed(self) -> None:
        for command, reply in (
            (b"LIST\n", b"OK\nEND\n"),
            (b"DOWNLOAD a\n", b"OK 0\n"),
            (b"DOWNLOAD a\n", b"OK 2\nab"),
            (b"DOWNLOAD a\n", b"ERR file not found\n"),
            (b"WHO\n", b"ERR nobody\n"),
        ):
            upstream = self.travelling(command)
            upstream.send(reply + b"surplus in the same piece")
            upstream.send(b"surplus in a piece of its own\n")
            upstream.send(b"OK 3\nabc")
            self.assertEqual(self.wire.taken(), reply)
            self.assertTrue(upstream.wire.aborted)
            self.assertEqual(len(self.table), 0)
        self.assert_usable()

    def test_reply_to_an_unknown_verb_is_its_first_line(self) -> None:
        self.protocol.dataReceived(b"frobnicate  the  lot\r\n")
        upstream = self.endpoint.last
        upstream.accept()
        self.assertEqual(upstream.wire.taken(), b"frobnicate  the  lot\n")
        upstream.send(b"any words at all\nsecond line\n")
        self.assertEqual(self.wire.taken(), b"any words at all\n")
        self.assertEqual(self.journal.outcomes[0]["verb"], "FROBNICATE")
        self.assert_usable()

    def test_unknown_verb_does_not_desynchronize_the_client(self) -> None:
        for reply in (b"OK\n", b"OK 5\nhello", b"OK 5 offset=0\n", b"OK\na\nEND\n", b"OK\r\n"):
            self.protocol.dataReceived(b"SEND a b\nDOWNLOAD a\n")
            self.endpoint.last.accept()
            self.endpoint.last.send(reply)
            self.endpoint.last.accept()
            self.endpoint.last.send(b"OK 2\nab")
            self.assertEqual(self.wire.taken(), b"ERR unknown command\nOK 2\nab")
        self.assertEqual(self.journal.ends, ["error", "completed"] * 5)
        self.assertIn("no framing is known for SEND", "\n".join(self.journal.lines()))

    def test_body_of_the_largest_size_is_relayed(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 9223372036854775807\nabc")
        self.assertEqual(self.wire.taken(), b"OK 9223372036854775807\nabc")
        self.assertTrue(upstream.wire.open)

    def test_entry_contains_the_client_and_the_command(self) -> None:
        self.clock.advance(7)
        upstream = self.travelling(b"download some file\n")
        (entry,) = self.table.lookup(50_000)
        self.assertEqual(entry.client_address, ("127.0.0.1", 43210))
        self.assertEqual(entry.key, (("127.0.0.1", 50_000), ("127.0.0.1", 9001)))
        self.assertEqual((entry.verb, entry.name), (b"DOWNLOAD", b"some file"))
        self.assertEqual((entry.registered_at, entry.relayed), (7, 0))
        upstream.send(b"OK 1\n")
        self.assertEqual(entry.relayed, 5)

    def test_entry_is_removed_before_the_next_command_begins(self) -> None:
        entries = []
        self.endpoint.connect, connect = (
            lambda factory: (entries.append(len(self.table)), connect(factory))[1],
            self.endpoint.connect,
        )
        self.protocol.dataReceived(b"LIST\nLIST\n")
        self.endpoint.last.accept()
        self.endpoint.last.send(b"OK\nEND\n")
        self.assertEqual(entries, [0, 0])


class ConnectingTests(ProxyCase):
    def assert_reported(self, words: bytes, outcome: str) -> None:
        self.assertEqual(self.wire.taken(), b"ERR proxy error: " + words + b"\n")
        (event,) = self.journal.outcomes
        self.assertEqual(event["outcome"], outcome)
        self.assertIsNone(event["nat_port"])
        self.assertEqual(len(self.table), 0)
        self.assert_usable()

    def test_connect_that_hangs_is_cancelled_after_5_seconds(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        hanging = self.endpoint.last
        self.clock.advance(4.99)
        self.assertEqual(self.wire.taken(), b"")
        self.assertFalse(hanging.cancelled)
        self.clock.advance(0.01)
        self.assertTrue(hanging.cancelled)
        self.assert_reported(b"the server did not accept a connection within 5 s", "timeout")

    def test_time_out_of_the_connect_ends_with_it(self) -> None:
        upstream = self.travelling()
        self.clock.advance(5)
        upstream.send(b"OK\nEND\n")
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")
        self.assertEqual(self.journal.ends, ["completed"])

    def test_time_out_of_the_kernel(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.endpoint.last.refuse(error.TCPTimedOutError())
        self.assert_reported(b"the server did not accept a connection within 5 s", "timeout")

    def test_time_out_of_the_endpoint(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.endpoint.last.refuse(error.TimeoutError())
        self.assert_reported(b"the server did not accept a connection within 5 s", "timeout")

    def test_refused(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.endpoint.last.refuse(error.ConnectionRefusedError())
        self.assert_reported(b"the server refuses connections", "error")

    def test_name_cannot_be_resolved(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.endpoint.last.refuse(error.DNSLookupError())
        self.assert_reported(b"the server's name cannot be resolved", "error")

    def test_no_route(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.endpoint.last.refuse(error.NoRouteError())
        self.assert_reported(b"there is no route to the server", "error")

    def test_no_local_port_is_free(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.endpoint.last.refuse(error.ConnectError(errno.EADDRNOTAVAIL, "not for all eyes"))
        self.assert_reported(b"the proxy has no free port left", "error")

    def test_no_descriptor_is_free(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.endpoint.last.refuse(error.ConnectError(errno.EMFILE, "not for all eyes"))
        self.assert_reported(b"the proxy has no free descriptor left", "error")

    def test_other_failures_are_not_described_to_the_client(self) -> None:
        for number, failure in enumerate(
            (error.UnknownHostError(), OSError(5, "secret"), KeyError("x"))
        ):
            self.protocol.dataReceived(b"LIST\n")
            self.endpoint.last.refuse(failure)
            self.assertEqual(
                self.wire.taken(), b"ERR proxy error: cannot connect to the server\n", failure
            )
            self.assertEqual(self.journal.ends, ["error"] * (number + 1))
        self.assertIn("secret", "\n".join(self.journal.lines()))
        self.assert_usable()

    def test_second_of_two_connections_that_both_succeed_is_aborted(self) -> None:
        upstream = self.travelling()
        second = Upstream(upstream.factory, 50_001)
        second.accept()
        self.assertTrue(second.wire.aborted)
        self.assertEqual(second.wire.taken(), b"")
        self.assertEqual(self.table.lookup(50_001), ())
        second.send(b"OK\nfrom the wrong one\nEND\n")
        second.die()
        upstream.send(b"OK\nEND\n")
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")
        self.assertEqual(self.journal.ends, ["completed"])

    def test_second_connection_after_the_reply_is_aborted_too(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 0\n")
        second = Upstream(upstream.factory, 50_001)
        self.endpoint.connections.append(second)
        second.accept()
        self.assertTrue(second.wire.aborted)
        self.assertEqual(second.wire.taken(), b"")
        self.assertEqual(len(self.table), 0)


class PortlessAddressTests(ProxyCase):
    """UNIX sockets have no port; a number over 65,535 stands for it."""

    def address_of_client(self, peer: UNIXAddress) -> Address:
        wire = Wire(9000, 0)
        wire.peerAddr = peer
        client = self.factory.buildProtocol(peer)
        client.makeConnection(wire)
        self.assertEqual(client.client_address, client.client_address)
        return client.client_address

    def test_client_on_a_unix_socket(self) -> None:
        first = self.address_of_client(UNIXAddress(None))
        second = self.address_of_client(UNIXAddress(b"/run/c"))
        self.assertEqual((first.host, second.host), ("unix", "unix:/run/c"))
        self.assertGreater(first.port, 65_535)
        self.assertGreater(second.port, first.port)
        self.assertEqual(str(second), f"unix:/run/c#{second.port}")

    def test_unnamed_client_as_the_kernel_reports_it(self) -> None:
        # accept(2) returns an empty name.
        self.assertEqual(self.address_of_client(UNIXAddress("")).host, "unix")

    def test_upstream_on_a_unix_socket(self) -> None:
        ports = []
        for _ in range(2):
            self.protocol.dataReceived(b"LIST\n")
            upstream = self.endpoint.last
            upstream.wire.hostAddr = UNIXAddress(None)
            upstream.wire.peerAddr = UNIXAddress(b"/run/files.sock")
            upstream.accept()
            (entry,) = self.table
            self.assertEqual(self.table.lookup(entry.key.local.port), (entry,))
            self.assertEqual(entry.key.local.host, "unix")
            self.assertEqual(entry.key.upstream.host, "unix:/run/files.sock")
            upstream.send(b"OK\nEND\n")
            ports.append(self.journal.outcomes[-1]["nat_port"])
        self.assertGreater(ports[0], 65_535)
        self.assertGreater(ports[1], ports[0])
