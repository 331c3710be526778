"""Tokens that expire while their clients are connected."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access.rules import AccessRule, Rules
from natproxy.server.expiry import AT_ONCE, LOOK, Expiries
from natproxy.tokens.entries import TokenEntry, Tokens, new_token
from tests.support.doubles import Journal, TurnClock
from tests.support.fileserver import FileServerCase

EPOCH = 1_800_000_000
ALICE, ALICES = new_token("alice", expires=EPOCH + 100)
BOB, BOBS = new_token("bob", expires=EPOCH + 1000)
EVE, EVES = new_token("eve")


class ExpiriesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.journal = Journal(self)
        self.clock = Clock()
        self.set_by = 0.0
        self.expired: list[str] = []
        self.expiries: Expiries[str] = Expiries(self.clock, self.now, self.expired.append)

    def now(self) -> float:
        return EPOCH + self.clock.seconds() + self.set_by

    def test_each_token_has_its_end(self) -> None:
        self.expiries.add("b", BOBS)
        self.expiries.add("a", ALICES)
        self.expiries.add("e", EVES)
        self.assertEqual(len(self.expiries), 2)
        self.clock.pump([LOOK, 39.9])
        self.assertEqual(self.expired, [])
        self.clock.advance(0.1)
        self.assertEqual(self.expired, ["a"])
        self.clock.pump([LOOK] * 15)
        self.assertEqual(self.expired, ["a", "b"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.journal.line_with("the token of alice has expired: clients without it now: 1")

    def test_client_that_is_gone(self) -> None:
        self.expiries.add("a", ALICES)
        self.expiries.discard("a", ALICES)
        self.assertEqual((len(self.expiries), self.clock.getDelayedCalls()), (0, []))
        self.expiries.discard("a", ALICES)

    def test_token_that_does_not_expire_needs_no_timer(self) -> None:
        self.expiries.add("e", EVES)
        self.assertEqual((len(self.expiries), self.clock.getDelayedCalls()), (0, []))

    def test_clock_of_the_system_that_is_set(self) -> None:
        self.expiries.add("b", BOBS)
        self.set_by = 2000.0
        self.clock.advance(LOOK)
        self.assertEqual(self.expired, ["b"])
        self.expiries.add("a", ALICES)
        self.set_by = -2000.0
        self.clock.pump([LOOK] * 10)
        self.assertEqual(self.expired, ["b"])
        self.set_by = 0.0
        self.clock.advance(LOOK)
        self.assertEqual(self.expired, ["b", "a"])

    def test_work_of_a_turn_is_bounded(self) -> None:
        clock = TurnClock()
        self.expiries = Expiries(clock, lambda: EPOCH + 100.0, self.expired.append)
        for number in range(2 * AT_ONCE + 1):
            self.expiries.add(str(number), ALICES)
        for turn in (1, 2):
            clock.turn()
            self.assertEqual(len(self.expired), turn * AT_ONCE)
        clock.turn()
        self.assertEqual(self.expired, [str(number) for number in range(2 * AT_ONCE + 1)])


class ConnectionTests(FileServerCase):
    def setUp(self) -> None:
        super().setUp()
        (self.files / "a").write_bytes(b"abc")
        authenticator: Any = self.factory.authenticator
        authenticator._wall_clock = authenticator._expiries._wall_clock = self.now
        self.accept(ALICES, BOBS, EVES)
        self.factory.use_rules(
            Rules((AccessRule(True, identities=("alice", "bob", "eve")),), False)
        )

    def now(self) -> float:
        return EPOCH + self.clock.seconds()

    def accept(self, *entries: TokenEntry) -> None:
        self.factory.accept_tokens(Tokens(entries), False)

    def authenticate(self, token: str) -> None:
        self.assertEqual(self.send(f"AUTH {token}\n".encode())[:3], b"OK ")

    def wait(self, seconds: int) -> None:
        self.clock.pump([1] * seconds)

    def assert_denied(self) -> None:
        self.assertEqual(self.send(b"STAT a\n"), b"ERR 403 forbidden\n")

    def assert_allowed(self) -> None:
        self.assertEqual(self.send(b"STAT a\n")[:3], b"OK ")

    def test_commands_after_the_end_have_no_identity(self) -> None:
        self.authenticate(ALICE)
        self.wait(99)
        self.assert_allowed()
        self.wait(1)
        self.assert_denied()
        self.assertTrue(self.wire.open)
        self.send(f"AUTH {ALICE}\n".encode())
        self.clock.advance(1)
        self.assertEqual(self.wire.taken(), b"ERR 401 the token has expired\n")
        self.authenticate(EVE)
        self.assert_allowed()

    def test_other_token_of_the_connection_counts(self) -> None:
        self.authenticate(ALICE)
        self.authenticate(BOB)
        self.wait(100)
        self.assert_allowed()
        self.authenticate(EVE)
        self.wait(100)
        self.assertEqual(len(self.factory.authenticator._expiries), 0)

    def test_lost_connection_is_forgotten(self) -> None:
        self.authenticate(ALICE)
        self.assertEqual(len(self.factory.authenticator._expiries), 1)
        self.wire.lose(self.protocol)
        self.assertEqual(len(self.factory.authenticator._expiries), 0)

    def test_token_that_a_reload_has_removed_is_forgotten(self) -> None:
        self.authenticate(ALICE)
        self.accept(BOBS)
        self.assertEqual(len(self.factory.authenticator._expiries), 0)
        self.assert_denied()
