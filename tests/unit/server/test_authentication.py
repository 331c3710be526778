"""``AUTH``, with both daemons' connections: who is told what, when, and what nobody is told."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.server import identity
from natproxy.server.authentication import DELAY, Result, is_protected
from natproxy.server.state import State
from natproxy.tokens.entries import TokenEntry, Tokens, new_token
from tests.support.doubles import Wire
from tests.support.fileserver import FileServerCase
from tests.support.proxies import ProxyCase

REFUSED = b"ERR 401 the token is not accepted\n"
UNKNOWN = b"ERR unknown command\n"

ALICE, ALICES = new_token("alice")
BOB, BOBS = new_token("bob")


def auth(token: str) -> bytes:
    return f"AUTH {token}\n".encode()


class AuthenticationTests(FileServerCase):
    def setUp(self) -> None:
        super().setUp()
        (self.files / "a").write_bytes(b"abc")
        self.accept(ALICES, BOBS)
        self.events: list[Any] = []
        self.factory.subscribe(self.events.append)

    def accept(self, *entries: TokenEntry, plain: bool = False) -> None:
        self.factory.accept_tokens(Tokens(entries), plain)

    def count(self, result: Result) -> int:
        return self.factory.authenticator.results[result]

    def test_token_is_the_identity_of_later_commands(self) -> None:
        self.assertEqual(self.send(b"STAT a\n")[:3], b"OK ")
        self.assertEqual(self.send(auth(ALICE)), b"OK identity=alice\n")
        self.assertEqual(self.send(b"STAT a\n")[:3], b"OK ")
        self.assertEqual([event.identity for event in self.events], [None, "alice"])
        self.assertEqual(self.count(Result.ACCEPTED), 1)

    def test_last_token_that_is_accepted_counts(self) -> None:
        self.send(auth(ALICE))
        self.send(auth(BOB))
        self.assertEqual(self.protocol.identity, "bob")
        self.send(auth("wrong"))
        self.clock.advance(DELAY)
        self.assertEqual(self.protocol.identity, "bob")

    def test_all_ways_of_writing_it(self) -> None:
        for line in (f"auth {ALICE}\n", f"  AuTh \t{ALICE} \r\n"):
            self.assertEqual(self.send(line.encode()), b"OK identity=alice\n")

    def test_error_comes_after_a_second_and_so_do_the_replies_after_it(self) -> None:
        self.assertEqual(self.send(auth("wrong") + b"STAT b\n"), b"")
        self.assertIs(self.protocol.state, State.REPLYING)
        self.clock.advance(DELAY - 0.01)
        self.assertEqual(self.wire.taken(), b"")
        self.clock.advance(0.01)
        self.assertEqual(self.wire.taken(), REFUSED + b"ERR 404 file not found\n")

    def test_other_connections_are_not_delayed(self) -> None:
        other, wire = self.new_client(43_211)
        self.send(auth("wrong"))
        other.dataReceived(b"STAT b\n" + auth(BOB))
        self.assertEqual(wire.taken(), b"ERR 404 file not found\nOK identity=bob\n")

    def test_many_tokens_are_work_of_a_turn(self) -> None:
        self.accept(*[ALICES] * 1000)
        replies = self.send(auth(ALICE) * 4)
        self.assertEqual(replies, b"OK identity=alice\n")
        self.assertIs(self.protocol.state, State.WAITING)
        self.clock.pump([0] * 4)
        self.assertEqual(self.wire.taken(), b"OK identity=alice\n" * 3)

    def test_third_error_closes_the_connection_without_a_further_command(self) -> None:
        for _ in range(2):
            self.send(auth("wrong"))
            self.clock.advance(DELAY)
            self.assertEqual(self.wire.taken(), REFUSED)
        self.assertEqual(self.send(auth("wrong") + b"STAT a\n" + auth(ALICE)), b"")
        self.clock.advance(DELAY)
        self.assertEqual(self.wire.taken(), REFUSED)
        self.assertFalse(self.wire.open)
        self.assertEqual(self.events, [])
        self.assertIsNone(self.protocol.identity)

    def test_end_of_the_connection_cancels_the_error(self) -> None:
        self.send(auth("wrong"))
        self.wire.lose(self.protocol)
        self.clock.advance(2 * DELAY)
        self.assertEqual((self.wire.taken(), self.events), (b"", []))

    def test_abort_cancels_the_error(self) -> None:
        self.send(auth("wrong"))
        self.factory.abort()
        self.assertTrue(self.wire.aborted)
        self.clock.advance(2 * DELAY)
        self.assertEqual(self.wire.taken(), b"")

    def test_drain_waits_for_the_error(self) -> None:
        self.send(auth("wrong") + b"STAT a\n")
        self.factory.drain()
        self.assertTrue(self.wire.open)
        self.clock.advance(DELAY)
        self.assertEqual(self.wire.taken(), REFUSED)
        self.assertFalse(self.wire.open)

    def test_malformed_token_is_an_error_like_any_other(self) -> None:
        for line in (b"AUTH\n", b"AUTH  \r\n"):
            self.protocol, self.wire = self.new_client(50_000)
            self.assertEqual(self.send(line), b"")
            self.clock.advance(DELAY)
            self.assertEqual(self.wire.taken(), REFUSED)

    def test_verb_that_only_contains_it_is_unknown(self) -> None:
        for line in (f"AUTH:{ALICE}\n", f"AUTH{ALICE}\n", f'"AUTH {ALICE}"\n'):
            self.assertEqual(self.send(line.encode()), UNKNOWN)
        self.assertIsNone(self.protocol.identity)

    def test_without_tokens_the_verb_is_unknown_and_not_announced(self) -> None:
        self.accept()
        self.assertEqual(self.send(auth(ALICE)), UNKNOWN)
        self.assertNotIn(b"AUTH", self.send(b"FEAT\n"))

    def test_with_tokens_it_is_announced(self) -> None:
        self.assertIn(b"\nAUTH\n", self.send(b"FEAT\n"))

    def test_token_expires(self) -> None:
        now = self.factory.authenticator._wall_clock()
        self.accept(ALICES._replace(expires=int(now) - 1), BOBS._replace(expires=int(now) + 3600))
        self.assertEqual(self.send(auth(BOB)), b"OK identity=bob\n")
        self.send(auth(ALICE))
        self.clock.advance(DELAY)
        self.assertEqual(self.wire.taken(), b"ERR 401 the token has expired\n")
        self.assertEqual(self.count(Result.EXPIRED), 1)

    def test_revoked_token_is_no_identity_of_the_next_command(self) -> None:
        self.send(auth(ALICE))
        other, _ = self.new_client(43_211)
        other.dataReceived(auth(BOB))
        self.accept(BOBS)
        self.assertEqual((self.protocol.identity, other.identity), (None, "bob"))
        self.send(b"STAT a\n")
        self.assertIsNone(self.events[-1].identity)

    def test_certificate_is_the_identity_until_there_is_a_token(self) -> None:
        self.patch(identity, "identity_of", lambda transport: "cert")
        # As transports with TLS have.
        self.wire.getPeerCertificate = lambda: None
        self.send(b"STAT a\n")
        self.assertEqual(self.events[0].identity, "cert")
        self.send(auth(ALICE))
        self.assertEqual(self.protocol.identity, "alice")
        self.accept(BOBS)
        self.assertEqual(self.protocol.identity, "cert")

    def test_token_is_in_no_event_no_log_line_and_no_attribute(self) -> None:
        for line in (auth(ALICE), auth("s3cret-wrong"), f"AUTH={ALICE}\n".encode()):
            self.send(line)
            for value in (repr(vars(self.protocol)), repr(self.journal.events), repr(self.events)):
                self.assertNotIn(ALICE, value)
                self.assertNotIn("s3cret", value)
            self.clock.advance(DELAY)
        self.assertEqual(self.events, [])

    def test_refusals_are_logged_with_their_reason_at_a_limited_rate(self) -> None:
        for number in range(5):
            self.protocol, self.wire = self.new_client(50_000 + number)
            self.send(auth("wrong"))
            self.clock.advance(DELAY)
        lines = [line for line in self.journal.lines() if "AUTH" in line]
        self.assertEqual(len(lines), 1)
        self.assertIn("127.0.0.1:50000: AUTH refused: unknown token", lines[0])


class UnprotectedTests(FileServerCase):
    """A client on another host, without TLS."""

    def setUp(self) -> None:
        super().setUp()
        self.wire = Wire(9001, 43_210)
        self.wire.peerAddr = IPv4Address("TCP", "192.0.2.7", 43_210)
        self.protocol = self.factory.buildProtocol(self.wire.getPeer())
        self.protocol.makeConnection(self.wire)

    def test_token_is_not_even_compared(self) -> None:
        self.factory.accept_tokens(Tokens([ALICES]), False)
        self.assertNotIn(b"AUTH", self.send(b"FEAT\n"))
        self.send(auth(ALICE))
        self.clock.advance(DELAY)
        self.assertEqual(
            self.wire.taken(),
            b"ERR 401 tokens are accepted only with TLS, or from the daemon's own host\n",
        )
        self.assertIsNone(self.protocol.identity)
        self.assertEqual(self.factory.authenticator.results[Result.UNENCRYPTED], 1)

    def test_unless_that_is_allowed(self) -> None:
        self.factory.accept_tokens(Tokens([ALICES]), True)
        self.assertIn(b"\nAUTH\n", self.send(b"FEAT\n"))
        self.assertEqual(self.send(auth(ALICE)), b"OK identity=alice\n")


class ProxyAuthenticationTests(ProxyCase):
    def setUp(self) -> None:
        super().setUp()
        self.factory.accept_tokens(Tokens([ALICES]), False)

    def test_proxy_replies_and_opens_no_connection(self) -> None:
        self.protocol.dataReceived(auth(ALICE))
        self.assertEqual(self.wire.taken(), b"OK identity=alice\n")
        self.protocol.dataReceived(auth("wrong"))
        self.clock.advance(DELAY)
        self.assertEqual(self.wire.taken(), REFUSED)
        self.assertEqual(self.endpoint.connections, [])

    def test_entry_and_events_have_the_identity(self) -> None:
        events: list[Any] = []
        self.table.subscribe(events.append)
        self.protocol.dataReceived(auth(ALICE))
        self.travelling(b"STAT a\n").send(b"ERR 404 file not found\n")
        self.protocol.dataReceived(b"STAT b\n")
        self.endpoint.last.refuse(OSError("gone"))
        self.assertEqual([event.identity for event in events], ["alice"] * 4)
        self.assertIn(" (alice) STAT a: completed", "\n".join(self.journal.lines()))

    def test_pipelined_command_waits_for_the_error(self) -> None:
        self.protocol.dataReceived(auth("wrong") + b"STAT a\n")
        self.assertEqual(self.endpoint.connections, [])
        self.clock.advance(DELAY)
        self.assertEqual(len(self.endpoint.connections), 1)
        self.endpoint.last.accept()
        self.endpoint.last.send(b"ERR 404 file not found\n")
        self.assertEqual(self.wire.taken(), REFUSED + b"ERR 404 file not found\n")

    def test_auth_of_the_server_is_not_announced_but_the_own_one_is(self) -> None:
        for announced in (b"", b"AUTH\n"):
            self.travelling(b"FEAT\n").send(b"OK\nNATPROXY 2\nSTAT\n" + announced + b"END\n")
            self.assertEqual(
                self.wire.taken(), b"OK\nNATPROXY 2\nSTAT\nAUTH\nVIA natproxy/2.1\nEND\n"
            )
        self.factory.accept_tokens(Tokens(), False)
        self.travelling(b"FEAT\n").send(b"OK\nNATPROXY 2\nSTAT\nAUTH\nEND\n")
        self.assertEqual(self.wire.taken(), b"OK\nNATPROXY 2\nSTAT\nVIA natproxy/2.1\nEND\n")


class Client:
    def __init__(self, transport: Any, address: Address) -> None:
        self.transport = transport
        self.client_address = address


class Transport:
    def __init__(self, peer: object) -> None:
        self._peer = peer

    def getPeer(self) -> object:
        return self._peer


class Encrypted(Transport):
    def getPeerCertificate(self) -> None:
        return None


class ProtectionTests(SynchronousTestCase):
    def assert_protected(self, transport: Any, client: str, protected: bool, port: int = 1) -> None:
        self.assertIs(
            is_protected(Client(transport, Address(client, port))),  # type: ignore[arg-type]
            protected,
            (transport, client),
        )

    def test_loopback_unix_and_tls_are(self) -> None:
        for host, protected in (
            ("127.0.0.1", True),
            ("127.8.8.8", True),
            ("::1", True),
            ("::ffff:127.0.0.1", True),
            ("192.0.2.7", False),
            ("2001:db8::1", False),
            ("fe80::1%eth0", False),
            ("::ffff:192.0.2.7", False),
            ("localhost.example", False),
        ):
            kind = IPv6Address if ":" in host else IPv4Address
            peer = kind("TCP", host, 1)
            self.assert_protected(Transport(peer), host, protected)
            self.assert_protected(Encrypted(peer), host, True)
        self.assert_protected(Transport(UNIXAddress(b"")), "unix", True, FIRST_STAND_IN_PORT)

    def test_behind_a_proxy_header_both_ends_must_be_local(self) -> None:
        for peer, client, protected in (
            ("127.0.0.1", "127.0.0.1", True),
            ("127.0.0.1", "192.0.2.7", False),
            ("192.0.2.7", "127.0.0.1", False),
        ):
            wrapper: Any = ProtocolWrapper(WrappingFactory(None), None)  # type: ignore[arg-type]
            wrapper.transport = Transport(IPv4Address("TCP", peer, 1))
            self.assert_protected(wrapper, client, protected)
