"""One health check: every reply, and every way in which there is none."""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import error
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from natproxy.protocol import EMPTY_RESPONSE, MAX_LINE, VERSION_1
from natproxy.proxy.header import LOCAL, NO_HEADER_EXPECTED
from natproxy.proxy.upstreams import Target, Upstream, Upstreams
from natproxy.proxy.upstreams.check import TRANSITIONS, HealthCheck, Stage
from tests.support.state_diagrams import documented_diagrams, state_diagram
from tests.support.upstreams import FEAT_REPLY, VERSION_2, PlayedConnector


class CheckCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.prepare()

    def prepare(self, header: bool = False) -> None:
        """Begin a check."""
        self.clock = Clock()
        self.connector = PlayedConnector()
        group = Upstreams(self.clock)
        self.upstream = Upstream(Target("a", "tcp:a:1", self.connector, header), group)
        self.ended = 0
        self.connected: set[HealthCheck] = set()
        self.check = HealthCheck(self.upstream, self.clock, 2.0, self.connected, self.note)
        self.check.begin()
        self.attempt = self.connector.last

    def die(self) -> None:
        """Close the connection, and each that is made in its place."""
        while self.check.stage is not Stage.ENDED:
            self.attempt = self.connector.last
            if self.attempt.protocol is None:
                self.attempt.accept()
            self.attempt.die()

    def note(self) -> None:
        self.ended += 1

    def assert_ended(self, error: str | None) -> None:
        """Check that the check has passed, or failed with an error."""
        self.assertIs(self.check.stage, Stage.ENDED)
        self.assertEqual(self.ended, 1)
        self.assertEqual(self.upstream.last_error, error)
        self.assertEqual((self.upstream.checks, self.upstream.failed_checks), (1, int(bool(error))))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.connected, set())
        if self.attempt.protocol is not None:
            self.assertTrue(self.attempt.wire.aborted)


class DiagramTests(SynchronousTestCase):
    def test_documentation_shows_the_table(self) -> None:
        self.assertIn(state_diagram(TRANSITIONS, Stage.CONNECTING), documented_diagrams())


class PassTests(CheckCase):
    def test_reply_has_the_abilities(self) -> None:
        self.attempt.accept()
        self.assertEqual(self.attempt.wire.value(), b"FEAT\n")
        self.assertEqual(self.connected, {self.check})
        assert self.check.ends is not None
        self.assertEqual(self.check.ends.local, ("127.0.0.1", 50_000))
        self.attempt.send(FEAT_REPLY)
        self.assert_ended(None)
        self.assertEqual(self.upstream.abilities, VERSION_2)

    @given(st.lists(st.integers(0, len(FEAT_REPLY)), max_size=5))
    def test_reply_in_pieces(self, cuts: list[int]) -> None:
        self.prepare()
        self.attempt.accept()
        places = [0, *sorted(cuts), len(FEAT_REPLY)]
        for begin, end in pairwise(places):
            if self.check.stage is not Stage.ENDED:
                self.attempt.send(FEAT_REPLY[begin:end])
        self.assert_ended(None)
        self.assertEqual(self.upstream.abilities, VERSION_2)

    def test_server_of_version_1(self) -> None:
        for reply in (b"ERR unknown command\n", b"OK\nhello\nEND\n"):
            self.prepare()
            self.attempt.reply(reply)
            self.assert_ended(None)
            self.assertEqual(self.upstream.abilities, VERSION_1)

    def test_server_of_version_1_that_closes_on_an_unknown_verb(self) -> None:
        for commands in ((b"FEAT\n", b"FEAT\n", b"LIST\n"), (b"FEAT\n", b"LIST\n")):
            if len(commands) == 2:
                # It is known: the next check needs one connection less.
                self.check = HealthCheck(self.upstream, self.clock, 2.0, self.connected, self.note)
                self.check.begin()
            for command in commands:
                self.attempt = self.connector.last
                self.attempt.accept()
                self.assertEqual(self.attempt.wire.value(), command)
                self.assertEqual(self.connected, {self.check})
                if command == b"FEAT\n":
                    self.attempt.die()
                    self.assertEqual(self.connected, set())
            self.attempt.send(b"OK\na file\n")
            self.assertIs(self.check.stage, Stage.ENDED)
            self.assertTrue(self.attempt.wire.aborted)
            self.assertEqual(self.upstream.abilities, VERSION_1)
        self.assertEqual((self.ended, self.upstream.checks, self.upstream.failed_checks), (2, 2, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_header_precedes_the_command(self) -> None:
        self.prepare(header=True)
        self.attempt.reply(FEAT_REPLY)
        self.assertEqual(self.attempt.wire.value(), LOCAL + b"FEAT\n")
        self.assert_ended(None)


class FailTests(CheckCase):
    def test_no_connection(self) -> None:
        self.attempt.refuse()
        self.assert_ended("the server refuses connections")

    def test_replies_that_are_not_understood(self) -> None:
        for reply, error_text in (
            (b"ERR 503 busy\n", "its reply to FEAT is an error: 503 busy"),
            (b"ERR too many clients\n", "its reply to FEAT is an error: too many clients"),
            (b"ERR 508 loop\n", "its reply to FEAT is an error: 508 loop"),
            (b"x" * (MAX_LINE + 1), "reply header too long"),
            (b"OK\n" + b"y\n" * 300, "reply to FEAT too long"),
        ):
            self.prepare()
            self.attempt.reply(reply)
            self.assert_ended(error_text)
        self.prepare()
        self.attempt.reply(b"HTTP/1.1 400 Bad Request\n")
        self.assertIn("malformed", str(self.upstream.last_error))

    def test_server_of_version_2_that_closes_is_not_taken_for_one_of_version_1(self) -> None:
        self.upstream.abilities = VERSION_2
        self.attempt.accept()
        self.attempt.die()
        self.assert_ended(EMPTY_RESPONSE)
        self.assertEqual(self.upstream.abilities, VERSION_2)

    def test_list_in_place_of_feat_is_no_proof_without_a_reply(self) -> None:
        for replies, reason in (
            ([b"", b"", b"ERR 503 busy\n"], "its reply to LIST is an error: 503 busy"),
            ([b"", None], "the server refuses connections"),
            ([b"", b"", None], "the server refuses connections"),
        ):
            self.prepare()
            for reply in replies:
                self.attempt = self.connector.last
                if reply is None:
                    self.attempt.refuse()
                elif reply:
                    self.attempt.reply(reply)
                else:
                    self.attempt.accept()
                    self.attempt.die()
            self.assert_ended(reason)

    def test_header_that_is_not_expected(self) -> None:
        self.prepare(header=True)
        self.attempt.reply(b"ERR unknown command\n")
        self.assert_ended(NO_HEADER_EXPECTED)

    @given(st.binary(max_size=200))
    def test_any_bytes_end_in_a_result(self, received: bytes) -> None:
        self.prepare()
        self.attempt.accept()
        self.attempt.send(received)
        if self.check.stage is not Stage.ENDED:
            self.die()
        self.assertIs(self.check.stage, Stage.ENDED)
        self.assertEqual((self.ended, self.upstream.checks), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_connection_that_is_lost(self) -> None:
        for received, reason in (
            (b"", EMPTY_RESPONSE),
            (b"OK", "the server closed the connection inside its reply"),
            (b"OK\nNATPROXY 2\n", "the server closed the connection inside its reply"),
        ):
            self.prepare()
            self.attempt.accept()
            if received:
                self.attempt.send(received)
            self.die()
            self.assert_ended(reason)

    def test_handshake_that_fails(self) -> None:
        self.attempt.accept()
        directlyProvides(self.attempt.wire, ISSLTransport)
        self.attempt.die()
        self.assert_ended(
            "there is no TLS with the server: it closed the connection in the handshake"
        )

    def test_connection_that_is_lost_after_the_handshake(self) -> None:
        self.attempt.accept()
        directlyProvides(self.attempt.wire, ISSLTransport)
        self.attempt.protocol.handshakeCompleted()
        self.die()
        self.assert_ended(EMPTY_RESPONSE)

    def test_time_out_of_the_connection(self) -> None:
        self.clock.advance(2)
        self.assert_ended("the server did not accept a connection within 2 s")
        self.assertTrue(self.attempt.cancelled)

    def test_time_out_of_the_reply(self) -> None:
        for reply in (b"", b"O", b"OK\nNATPROXY 2\n"):
            self.prepare()
            self.attempt.accept()
            self.clock.advance(1.5)
            self.attempt.send(reply)
            self.clock.advance(0.5)
            self.assert_ended("the server did not reply to FEAT within 2 s")


class EndTests(CheckCase):
    def test_cancelled_check_has_no_result(self) -> None:
        for connected in (False, True):
            self.prepare()
            if connected:
                self.attempt.accept()
            self.check.cancel()
            self.check.cancel()
            self.assertEqual((self.ended, self.upstream.checks), (0, 0))
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.assertTrue(self.attempt.wire.aborted if connected else self.attempt.cancelled)

    def test_nothing_counts_after_the_end(self) -> None:
        self.attempt.reply(FEAT_REPLY)
        self.attempt.send(b"ERR 503 busy\n")
        self.attempt.die()
        self.attempt.refuse()
        self.assert_ended(None)

    def test_second_connection_is_reset(self) -> None:
        # A name with two addresses can lead to two connections at once.
        self.attempt.accept()
        first, protocol = self.attempt.wire, self.attempt.protocol
        second: Any = self.connector
        second.connect(self.check)
        second.last.accept()
        self.assertTrue(second.last.wire.aborted)
        second.last.send(b"ERR 503 busy\n")
        second.last.protocol.connectionLost(Failure(error.ConnectionLost()))
        self.assertFalse(first.aborted)
        protocol.dataReceived(FEAT_REPLY)
        self.assert_ended(None)


class OwnFailureTests(CheckCase):
    def test_proxy_without_a_free_port_or_descriptor_blames_no_upstream(self) -> None:
        for code in (errno.EADDRNOTAVAIL, errno.EMFILE):
            self.prepare()
            reason = error.getConnectError((code, os.strerror(code)))
            self.attempt.factory.clientConnectionFailed(None, Failure(reason))
            self.assertIs(self.check.stage, Stage.ENDED)
            self.assertEqual((self.ended, self.upstream.checks), (1, 0))
            self.assertEqual(self.clock.getDelayedCalls(), [])
