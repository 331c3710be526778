"""How a Deferred session finds out the version of its server."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.testing import StringTransport

from natproxy.client import (
    CannotConnect,
    ConnectionBroken,
    NotFound,
    NotUnderstood,
    ServerError,
    Unavailable,
    Unsupported,
)
from natproxy.client.errors import NoUpstreamReply
from natproxy.client.version import Features
from tests.support.deferred_sessions import (
    FEATURES,
    DeferredCase,
)


class VersionTests(DeferredCase):
    def test_feat_is_sent_once_for_all_callers(self) -> None:
        versions = [self.client.version() for _ in range(3)]
        metadata = self.client.stat("a")
        connection = self.accept()
        self.assertEqual([self.successResultOf(version) for version in versions], [2, 2, 2])
        self.assertEqual(connection.wire.taken(), b"STAT a\n")
        connection.send(b"ERR 404 file not found\n")
        self.failureResultOf(metadata, NotFound)
        self.assertEqual(self.successResultOf(self.client.version()), 2)
        self.assertEqual(len(self.endpoint.connections), 1)

    def test_reply_that_is_none_of_version_2_means_version_1(self) -> None:
        for reply in (
            b"ERR unknown command\n",
            b"ERR file not found\n",
            b"OK\nSOMETHING 2\n",
            b"OK\nEND\n",
            b"OK 17\n",
            b"what?\n",
            b"OK\n" + b"x" * 20_000,
        ):
            self.client = self.new_client()
            version = self.client.version()
            self.accept(of_version=None).send(reply)
            self.assertEqual(self.successResultOf(version), 1, reply)

    def close_on(self, command: bytes, reply: bytes = b"") -> None:
        """Send a part of a reply on the newest connection, and close it."""
        connection = self.endpoint.last
        if connection.protocol is None:
            connection.accept()
        self.assertEqual(connection.wire.taken(), command)
        if reply:
            connection.send(reply)
        self.lose(connection)

    def reply_to_list(self) -> None:
        connection = self.accept(of_version=None)
        self.assertEqual(connection.wire.taken(), b"LIST\n")
        connection.send(b"OK\n")
        self.lose(connection)

    def test_peer_that_twice_closes_and_replies_to_list_is_of_version_1(self) -> None:
        for sent in (b"", b"OK"):
            self.client = self.new_client()
            version = self.client.version()
            for _ in range(2):
                self.close_on(b"FEAT\n", sent)
                self.reply_to_list()
            self.assertEqual(self.successResultOf(version), 1)

    def test_empty_response_that_a_proxy_reports_twice_means_version_1(self) -> None:
        for text in (
            b"ERR empty response from server\n",
            b"ERR 502 empty response from server\n",
            b"ERR proxy error: malformed reply header 'what?'\n",
        ):
            self.client = self.new_client()
            version = self.client.version()
            for _ in range(2):
                connection = self.accept(of_version=None)
                self.assertEqual(connection.wire.taken(), b"FEAT\n")
                connection.send(text)
                self.assertEqual(connection.wire.taken(), b"LIST\n")
                connection.send(b"OK\nEND\n")
                self.lose(connection)
            self.assertEqual(self.successResultOf(version), 1)

    def test_feat_is_sent_again_after_one_close(self) -> None:
        version = self.client.version()
        self.close_on(b"FEAT\n")
        self.reply_to_list()
        self.accept()
        self.assertEqual(self.successResultOf(version), 2)

    def test_peer_that_closes_without_replying_to_list_is_a_temporary_failure(self) -> None:
        version = self.client.version()
        self.close_on(b"FEAT\n")
        self.endpoint.last.refuse(ValueError("x"))
        self.assertTrue(self.failureResultOf(version, ConnectionBroken).value.passing)
        version = self.client.version()
        self.accept()
        self.assertEqual(self.successResultOf(version), 2)

    def test_reply_that_breaks_off_is_a_passing_failure(self) -> None:
        version = self.client.version()
        self.close_on(b"FEAT\n", b"OK\nNATPROXY 2\n")
        self.assertTrue(self.failureResultOf(version, ConnectionBroken).value.passing)

    def test_silence_is_a_passing_failure_and_the_reply_has_the_time_out_in_all(self) -> None:
        version = self.client.version()
        # The time that the connection takes is not the server's.
        self.clock.advance(9)
        connection = self.accept(of_version=None)
        for piece in (b"OK\n", b"NATPROXY 2\n", b"STAT\n"):
            connection.send(piece)
            self.clock.advance(19)
        self.assertNoResult(version)
        self.clock.advance(3)
        self.assertTrue(self.failureResultOf(version, ConnectionBroken).value.passing)
        self.assertTrue(connection.wire.aborted)
        version = self.client.version()
        self.accept()
        self.assertEqual(self.successResultOf(version), 2)

    def test_error_with_a_code_and_an_error_of_the_proxy_are_not_remembered(self) -> None:
        for reply, kind in (
            (b"ERR 502 x\n", Unavailable),
            (b"ERR 503 x\n", Unavailable),
            (b"ERR 504 x\n", Unavailable),
            (b"ERR 429 x\n", Unavailable),
            (b"ERR 403 x\n", ServerError),
            (b"ERR proxy error: the server was silent for 60 s\n", Unavailable),
        ):
            self.client = self.new_client()
            version = self.client.version()
            connection = self.accept(of_version=None)
            connection.send(reply)
            self.failureResultOf(version, kind)
            version = self.client.version()
            connection.send(FEATURES)
            self.assertEqual(self.successResultOf(version), 2)

    def test_listing_without_an_end_is_not_held_in_memory(self) -> None:
        version = self.client.version()
        connection = self.accept(of_version=None)
        connection.send(b"OK\nNATPROXY 2\n" + b"GET\n" * 300_000)
        self.failureResultOf(version, NotUnderstood)
        self.assertTrue(connection.wire.aborted)

    def test_silence_on_a_new_connection_is_not_waited_for_twice(self) -> None:
        connected = self.client.connect()
        connection = self.accept(of_version=None)
        self.successResultOf(connected)
        version = self.client.version()
        self.clock.advance(60)
        self.assert_fails(version, ConnectionBroken, "files:9000 was silent for 60 s")
        self.assertEqual(connection.wire.taken(), b"FEAT\n")
        self.assertEqual(len(self.endpoint.connections), 1)

    def test_slow_reply_to_feat_fails_after_the_time_out(self) -> None:
        # Not repeated, not even on a connection that has been used before.
        names = self.client.list()
        connection = self.play((b"LIST\n", b"OK\nEND\n"), of_version=None)
        self.successResultOf(names)
        version = self.client.version()
        for piece in (b"OK\n", b"NATPROXY 2\n"):
            self.clock.advance(29)
            connection.send(piece)
        self.clock.advance(2)
        self.assert_fails(version, ConnectionBroken, "files:9000 did not reply in time")
        self.assertEqual(len(self.endpoint.connections), 1)

    def test_page_that_is_too_large_is_not_understood(self) -> None:
        entries = self.client.ls()
        self.play((b"LS\n", b"OK 16777217\n"))
        text = "files:9000 is not understood: a page of 16777217 bytes"
        self.assert_fails(entries, NotUnderstood, text)

    def test_features(self) -> None:
        features = self.client.features()
        self.accept(of_version=None).send(b"OK\nNATPROXY 2\nSTAT\nVIA natproxy/2.1\nEND\n")
        self.assertEqual(
            self.successResultOf(features), Features(2, {b"STAT": frozenset()}, ("natproxy/2.1",))
        )

    def test_peer_that_twice_closes_on_a_verb_and_replies_to_list_is_of_version_1(self) -> None:
        consumer = StringTransport()
        for ask, command in (
            (lambda: self.client.stat("a"), b"STAT a\n"),
            (lambda: self.client.hash("a"), b"HASH a\n"),
            (lambda: self.client.read("a"), b"GET a\n"),
            (lambda: self.client.get("a", consumer), b"GET a\n"),
            (lambda: self.client.ls("a"), b"LS a\n"),
        ):
            self.client = self.new_client()
            result = ask()
            self.accept()
            # The first is repeated, since it was sent on the connection of ``FEAT``.
            self.close_on(command)
            for _ in range(2):
                self.close_on(command)
                self.reply_to_list()
            self.failureResultOf(result, Unsupported)
            self.assertEqual(self.successResultOf(self.client.version()), 1)

    def test_page_without_words_in_its_header_leaves_the_doubt(self) -> None:
        entries = self.client.ls()
        self.play((b"LS\n", b"OK 0\n"))
        self.assertEqual(self.successResultOf(entries), [])
        metadata = self.client.stat("a")
        # The first is repeated, since it was sent on a used connection.
        self.endpoint.last.die()
        for _ in range(2):
            self.close_on(b"STAT a\n")
            self.reply_to_list()
        self.failureResultOf(metadata, Unsupported)

    def test_proxy_of_version_2_is_not_doubted(self) -> None:
        metadata = self.client.stat("a")
        connection = self.accept(of_version=None)
        self.assertEqual(connection.wire.taken(), b"FEAT\n")
        connection.send(b"OK\nNATPROXY 2\nSTAT\nVIA natproxy/2.1\nEND\n")
        self.assertEqual(connection.wire.taken(), b"STAT a\n")
        connection.send(b"ERR 502 empty response from server\n")
        self.failureResultOf(metadata, NoUpstreamReply)
        # Another proxy, of version 1, may be in front of it.
        metadata = self.client.stat("a")
        for _ in range(2):
            self.close_on(b"STAT a\n")
        self.reply_to_list()
        self.close_on(b"STAT a\n")
        self.reply_to_list()
        self.failureResultOf(metadata, Unsupported)

    def test_error_of_the_proxy_leaves_the_version_unknown(self) -> None:
        versions = [self.client.version() for _ in range(2)]
        connection = self.accept(of_version=None)
        connection.send(b"ERR proxy error: the server refuses connections\n")
        for version in versions:
            text = "proxy error: the server refuses connections"
            self.assert_fails(version, Unavailable, text)
        version = self.client.version()
        connection.send(FEATURES)
        self.assertEqual(self.successResultOf(version), 2)

    def test_failed_connect_leaves_the_version_unknown(self) -> None:
        version = self.client.version()
        self.endpoint.last.refuse(ValueError("no such name"))
        self.failureResultOf(version, CannotConnect)
        version = self.client.version()
        self.accept()
        self.assertEqual(self.successResultOf(version), 2)

    def test_version_1_does_what_it_can(self) -> None:
        version = self.client.version()
        connection = self.accept(of_version=1)
        self.assertEqual(self.successResultOf(version), 1)
        for ask, what in (
            (lambda: self.client.stat("a"), "report a file's size and time"),
            (lambda: self.client.hash("a"), "compute digests"),
            (lambda: self.client.read("a"), "send a part of a file"),
            (lambda: self.client.get("a", connection.wire), "send a part of a file"),
            (self.client.ls, "list more than the served directory's files"),
        ):
            text = f"files:9000 speaks version 1 of the protocol only: it cannot {what}"
            self.assert_fails(ask(), Unsupported, text)
        names = self.client.list()
        connection.send(b"OK\na\nEND\n")
        self.assertEqual(self.successResultOf(names), [b"a"])

    def test_cancelled_caller_does_not_affect_the_others(self) -> None:
        one, other = self.client.version(), self.client.version()
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.accept()
        self.assertEqual(self.successResultOf(other), 2)

    def test_callback_of_one_caller_may_cancel_another(self) -> None:
        one, other = self.client.version(), self.client.version()
        one.addCallback(lambda _: other.cancel())
        self.accept()
        self.successResultOf(one)
        self.failureResultOf(other, CancelledError)

    def test_feat_is_cancelled_with_its_last_caller(self) -> None:
        metadata_list = [self.client.stat("a") for _ in range(2)]
        connection = self.accept(of_version=None)
        for metadata in metadata_list:
            metadata.cancel()
            self.failureResultOf(metadata, CancelledError)
        self.assertTrue(connection.wire.aborted)
        version = self.client.version()
        self.accept()
        self.assertEqual(self.successResultOf(version), 2)
