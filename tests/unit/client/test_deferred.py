"""The client on a reactor: what it asks, and what it makes of the answers."""

from __future__ import annotations

import math
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import (
    CannotConnect,
    Changed,
    ConnectionBroken,
    Interrupted,
    ListingIncomplete,
    NotFound,
    NotUnderstood,
    ServerError,
    TooManyEntries,
    Unavailable,
    Unsupported,
    UsageError,
)
from natproxy.client.errors import NoUpstreamReply
from natproxy.client.twisted import Session
from natproxy.client.version import Features, State
from natproxy.protocol import (
    DIRECTORY,
    FILE,
    Digest,
    Entry,
    Metadata,
    format_entry,
    format_metadata,
)
from tests.support.doubles import PlayedEndpoint, Upstream

FEATURES = b"OK\nNATPROXY 2\nSTAT\nEND\n"
FACTS = b"mtime=7.000000000 etag=e"
METADATA = Metadata(FILE, 5, 7 * 10**9, "e")


def entry_line(name: bytes) -> bytes:
    return format_entry(Entry(name, METADATA))


def page_of(*names: bytes, more: bool = False) -> bytes:
    body = b"".join(map(entry_line, names)) + (b"more\n" if more else b"")
    return b"OK %d\n" % len(body) + body


class ClientCase(SynchronousTestCase):
    """A client whose server the test plays; nothing may be left on the clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = PlayedEndpoint()
        self.client = self.new_client()

    def tearDown(self) -> None:
        closed = self.client.close()
        for connection in self.endpoint.connections:
            if connection.protocol is not None:
                self.lose(connection)
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def new_client(self, **options: Any) -> Session:
        options = {"timeout": 60.0, "server": "files:9000", **options}
        return Session(self.endpoint, self.clock, **options)

    def begin_listing(self) -> None:
        """Ask for something that is not answered while the test lasts."""
        self.client.list().addErrback(lambda failure: failure.trap(Interrupted) and None)

    def lose(self, connection: Upstream) -> None:
        """End a connection as our side has, or else as the server does."""
        connection.die(ConnectionAborted() if connection.wire.aborted else None)
        connection.protocol = None

    def accept(self, of_version: int | None = 2) -> Upstream:
        """Accept the newest connection, and answer its first question."""
        connection = self.endpoint.last
        connection.accept()
        if of_version is not None:
            self.assertEqual(connection.wire.taken(), b"FEAT\n")
            connection.send(FEATURES if of_version == 2 else b"ERR unknown command\n")
        return connection

    def play(self, *exchanges: tuple[bytes, bytes], of_version: int | None = 2) -> Upstream:
        """Accept a connection; expect commands on it, and answer each."""
        connection = self.accept(of_version)
        for command, answer in exchanges:
            self.assertEqual(connection.wire.taken(), command)
            connection.send(answer)
        return connection

    def assert_fails(self, result: Deferred[Any], kind: type[Exception], text: str) -> None:
        error = self.failureResultOf(result).value
        self.assertIs(type(error), kind)
        self.assertEqual(str(error), text)


class AskingTests(ClientCase):
    def test_header_that_drips_is_given_up_after_the_time_out(self) -> None:
        metadata = self.client.stat("a")
        connection = self.accept()
        for _ in range(59):
            self.clock.advance(1)
            connection.send(b"O")
        self.assertNoResult(metadata)
        self.clock.advance(1)
        self.assert_fails(metadata, ConnectionBroken, "files:9000 did not reply in time")
        self.assertTrue(connection.wire.aborted)

    def test_body_that_comes_on_may_take_longer_than_the_time_out(self) -> None:
        data = self.client.read("a")
        connection = self.accept()
        self.clock.advance(59)
        connection.send(b"OK 2 offset=0 size=2 " + FACTS + b"\n")
        for _ in range(2):
            self.clock.advance(59)
            connection.send(b"x")
        self.assertEqual(self.successResultOf(data), b"xx")

    def test_body_that_drips_is_given_up(self) -> None:
        entries = self.client.ls()
        connection = self.accept()
        connection.send(b"OK 1000\n")
        for _ in range(120):
            self.clock.advance(1)
            connection.send(b"x")
        self.assertNoResult(entries)
        self.clock.advance(1)
        connection.send(b"x")
        text = "files:9000 sent less than 1024 bytes a second"
        self.assert_fails(entries, ConnectionBroken, text)
        self.assertTrue(connection.wire.aborted)

    def test_names_are_listed_without_asking_for_the_version(self) -> None:
        names = self.client.list()
        self.play((b"LIST\n", b"OK\n\na b\n\xff\nEND\n"), of_version=None)
        self.assertEqual(self.successResultOf(names), [b"a b", b"\xff"])

    def test_status(self) -> None:
        metadata = self.client.stat("a b/")
        self.play((b"STAT a%20b\n", b"OK type=file size=5 " + FACTS + b"\n"))
        self.assertEqual(self.successResultOf(metadata), METADATA)

    def test_digest(self) -> None:
        digest = self.client.hash(b"a", 1, 2)
        self.play((b"HASH a offset=1 length=2\n", b"OK sha256=%b size=5 etag=e\n" % (b"0" * 64)))
        self.assertEqual(self.successResultOf(digest), Digest("0" * 64, 5, "e"))

    def test_digest_that_is_long_in_coming_is_asked_for_again(self) -> None:
        digest = self.client.hash("a")
        first = self.accept()
        self.clock.advance(60)
        self.assertTrue(first.wire.aborted)
        second = self.accept(of_version=None)
        self.clock.advance(59)
        second.send(b"ERR 504 the server was silent\n")
        second.send(b"OK type=file size=5 " + FACTS + b"\n")
        second.send(b"OK sha256=%b size=5 etag=e\n" % (b"0" * 64))
        self.assertEqual(second.wire.taken(), b"HASH a\nSTAT a\nHASH a\n")
        self.assertEqual(self.successResultOf(digest).size, 5)

    def test_digest_of_a_server_that_is_silent_about_all_else_has_failed(self) -> None:
        digest = self.client.hash("a")
        self.accept()
        for command in (b"HASH a\n", b"STAT a\n"):
            self.clock.advance(60)
            self.assertEqual(self.accept(of_version=None).wire.taken(), command)
        self.clock.advance(60)
        self.assert_fails(digest, ConnectionBroken, "files:9000 was silent for 60 s")

    def test_digest_that_the_server_has_given_up_has_failed(self) -> None:
        metadata = self.client.stat("a")
        self.play((b"STAT a\n", b"ERR 404 file not found\n"))
        self.assert_fails(metadata, NotFound, "a: file not found")
        upstream = self.endpoint.last
        for code in (b"502", b"503"):
            digest = self.client.hash("a")
            self.clock.advance(30)
            upstream.send(b"ERR %b not now\n" % code)
            self.assert_fails(digest, Unavailable, "a: not now")

    def test_digest_that_fails_at_once_has_failed(self) -> None:
        digest = self.client.hash("a")
        self.play((b"HASH a\n", b"ERR 503 not now\n"))
        self.assert_fails(digest, Unavailable, "a: not now")

    def test_part_of_a_file(self) -> None:
        data = self.client.read("a", 1, 9, "e")
        reply = b"OK 4 offset=1 size=5 " + FACTS + b"\nbody"
        self.play((b"GET a offset=1 length=9 if-match=e\n", reply))
        self.assertEqual(self.successResultOf(data), b"body")

    def test_directory_is_read_page_by_page_over_one_connection(self) -> None:
        entries = self.client.ls("f=g", math.inf)
        self.play(
            (b"LS f%3Dg depth=inf\n", page_of(b"f=g/a", b"f=g/b", more=True)),
            (b"LS f%3Dg depth=inf after=f=g/b\n", page_of(b"f=g/c")),
        )
        names = [b"f=g/a", b"f=g/b", b"f=g/c"]
        self.assertEqual(self.successResultOf(entries), [Entry(n, METADATA) for n in names])

    def test_pages_are_asked_for_when_they_are_wanted(self) -> None:
        async def two() -> list[bytes]:
            return [(await anext(walk)).name for _ in range(2)]

        walk = self.client.walk()
        first = Deferred.fromCoroutine(two())
        connection = self.play((b"LS depth=inf\n", page_of(b"a", b"b", more=True)))
        self.assertEqual(self.successResultOf(first), [b"a", b"b"])
        self.assertEqual(connection.wire.taken(), b"")
        last = Deferred.fromCoroutine(two())
        self.assertEqual(connection.wire.taken(), b"LS depth=inf after=b\n")
        connection.send(page_of(b"c", b"d"))
        self.assertEqual(self.successResultOf(last), [b"c", b"d"])

    def test_command_that_cannot_be_said_is_not_begun(self) -> None:
        self.client.version()
        connection = self.accept()
        self.assert_fails(
            self.client.stat("x" * 20_000),
            UsageError,
            "file name of 20000 bytes is too long: a line holds 16384",
        )
        self.assertEqual(connection.wire.taken(), b"")

    def test_more_than_may_be_held_is_refused(self) -> None:
        self.client = self.new_client(largest=3)
        self.client._negotiation.learn(Features(2, {}))
        for ask, reply in (
            (lambda: self.client.read("a"), b"OK 4 offset=0 size=4 " + FACTS + b"\n"),
            (self.client.list, b"OK\na\nb\n"),
        ):
            result = ask()
            connection = self.accept(of_version=None)
            connection.send(reply)
            text = "a reply of more than 3 bytes is not held in memory"
            self.assert_fails(result, UsageError, text)
            self.assertTrue(connection.wire.aborted)


class ErrorTests(ClientCase):
    def test_answers_of_the_server_have_kinds(self) -> None:
        self.client.version()
        connection = self.accept()
        self.client._negotiation.state = State.CONFIRMED
        for answer, kind, text in (
            (b"ERR 404 file not found", NotFound, "a: file not found"),
            (b"ERR 412 changed etag=f", Changed, "a: changed on the server"),
            (b"ERR 429 too many", Unavailable, "a: too many"),
            (b"ERR 503 not now", Unavailable, "a: not now"),
            (b"ERR 500 \x1b", ServerError, "a: \\x1b"),
            (b"ERR unknown command", Unsupported, "a: unknown command"),
            (b"ERR 502 broken", Unavailable, "a: broken"),
            (b"ERR 504 late", Unavailable, "a: late"),
            (b"ERR empty response from server", NoUpstreamReply, "a: empty response from server"),
            (b"ERR proxy error: broken", Unavailable, "a: proxy error: broken"),
        ):
            metadata = self.client.stat("a")
            connection.send(answer + b"\n")
            self.assert_fails(metadata, kind, text)
        # All of it went over the same connection, which is still good.
        self.assertEqual(len(self.endpoint.connections), 1)
        self.assertTrue(connection.wire.open)

    def test_malformed_answers_cost_the_connection(self) -> None:
        self.client._negotiation.learn(Features(2, {}))
        of_get = b"OK 1 offset=%b size=9 " + FACTS + b"\n"
        for ask, answer, why in (
            (self.client.list, b"OK 5\n", "malformed reply header 'OK 5'"),
            (self.client.list, b"x" * 17_000, "reply header too long"),
            (lambda: self.client.stat("a"), b"OK size=1\n", "type: 'size=1'"),
            (lambda: self.client.hash("a"), b"OK sha256=0 size=1 etag=e\n", "sha256: 's"),
            (lambda: self.client.ls("a"), b"OK 2\nx\n", "type: ''"),
            (lambda: self.client.ls("a"), b"OK 1\nx", "a page that ends inside a line"),
            (lambda: self.client.ls("a"), page_of(more=True), "a page that leads nowhere"),
            (lambda: self.client.read("a", 3), of_get % b"3", "another part of the file"),
            (lambda: self.client.read("a", 3, 1), of_get % b"4", "another part of the file"),
            (
                lambda: self.client.read("a", 3, 1, "f"),
                of_get % b"3",
                "another file than was requested",
            ),
            (lambda: self.client.read("a"), b"OK 9 offset=1 size=9 " + FACTS + b"\n", "outside"),
            (lambda: self.client.read("a"), b"OK -1\n", "malformed reply header 'OK -1'"),
        ):
            result = ask()
            connection = self.accept(of_version=None)
            connection.send(answer)
            error = self.failureResultOf(result, NotUnderstood).value
            self.assertTrue(str(error).startswith("files:9000 is not understood: "))
            self.assertIn(why, str(error))
            self.assertTrue(connection.wire.aborted)

    def test_directory_has_no_digest_and_is_called_one(self) -> None:
        directory = format_metadata(METADATA._replace(type=DIRECTORY))
        for metadata, kind, text in (
            (b"OK " + directory + b"\n", UsageError, "a: is a directory"),
            (b"OK " + format_metadata(METADATA) + b"\n", NotFound, "a: file not found"),
            (b"ERR 404 file not found\n", NotFound, "a: file not found"),
        ):
            self.setUp()
            digest = self.client.hash("a")
            self.play((b"HASH a\n", b"ERR 404 file not found\n"), (b"STAT a\n", metadata))
            error = self.failureResultOf(digest, kind).value
            self.assertEqual(str(error), text)

    def test_page_that_does_not_go_on_is_not_followed(self) -> None:
        entries = self.client.ls()
        connection = self.play(
            (b"LS\n", page_of(b"b", more=True)), (b"LS after=b\n", page_of(b"a", more=True))
        )
        self.failureResultOf(entries, NotUnderstood)
        self.assertTrue(connection.wire.aborted)

    def test_listing_ends_at_its_limit(self) -> None:
        entries = self.client.ls(limit=2)
        self.play(
            (b"LS\n", page_of(b"a", b"b", more=True)), (b"LS after=b\n", page_of(b"c", more=True))
        )
        error = self.failureResultOf(entries, TooManyEntries).value
        self.assertIn("lists more than 2 entries", str(error))

    def test_listing_that_lacks_what_it_does_not_name_fails(self) -> None:
        entries = self.client.ls()
        self.play((b"LS\n", b"OK 0 unread=3\n"))
        error = self.failureResultOf(entries, ListingIncomplete).value
        self.assertEqual(error.count, 3)

    def test_page_says_where_the_next_one_begins(self) -> None:
        entries = self.client.ls()
        self.play((b"LS\n", b"OK 5 after=b\nmore\n"), (b"LS after=b\n", page_of(b"c")))
        self.assertEqual([entry.name for entry in self.successResultOf(entries)], [b"c"])


class VersionTests(ClientCase):
    def test_is_asked_for_once_by_all_who_want_it(self) -> None:
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
        for answer in (
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
            self.accept(of_version=None).send(answer)
            self.assertEqual(self.successResultOf(version), 1, answer)

    def close_on(self, command: bytes, reply: bytes = b"") -> None:
        """Answer a command on the newest connection with a part of a reply, and close it."""
        connection = self.endpoint.last
        if connection.protocol is None:
            connection.accept()
        self.assertEqual(connection.wire.taken(), command)
        if reply:
            connection.send(reply)
        self.lose(connection)

    def answer_list(self) -> None:
        connection = self.accept(of_version=None)
        self.assertEqual(connection.wire.taken(), b"LIST\n")
        connection.send(b"OK\n")
        self.lose(connection)

    def test_peer_that_twice_closes_and_answers_a_listing_is_of_version_1(self) -> None:
        for sent in (b"", b"OK"):
            self.client = self.new_client()
            version = self.client.version()
            for _ in range(2):
                self.close_on(b"FEAT\n", sent)
                self.answer_list()
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

    def test_peer_that_closes_once_is_asked_again(self) -> None:
        version = self.client.version()
        self.close_on(b"FEAT\n")
        self.answer_list()
        self.accept()
        self.assertEqual(self.successResultOf(version), 2)

    def test_peer_that_closes_and_answers_no_listing_is_a_passing_failure(self) -> None:
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

    def test_list_of_verbs_that_drips_is_given_up_after_the_time_out(self) -> None:
        # Not even on a connection that has been used before it is asked for once more.
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

    def test_peer_that_twice_closes_on_a_verb_and_answers_a_listing_is_of_version_1(self) -> None:
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
                self.answer_list()
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
            self.answer_list()
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
        self.answer_list()
        self.close_on(b"STAT a\n")
        self.answer_list()
        self.failureResultOf(metadata, Unsupported)

    def test_proxy_that_could_not_ask_says_nothing(self) -> None:
        versions = [self.client.version() for _ in range(2)]
        connection = self.accept(of_version=None)
        connection.send(b"ERR proxy error: the server refuses connections\n")
        for version in versions:
            text = "proxy error: the server refuses connections"
            self.assert_fails(version, Unavailable, text)
        version = self.client.version()
        connection.send(FEATURES)
        self.assertEqual(self.successResultOf(version), 2)

    def test_server_that_is_not_there_says_nothing(self) -> None:
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

    def test_who_gives_up_takes_nothing_from_the_others(self) -> None:
        one, other = self.client.version(), self.client.version()
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.accept()
        self.assertEqual(self.successResultOf(other), 2)

    def test_one_may_give_up_for_another_when_the_answer_comes(self) -> None:
        one, other = self.client.version(), self.client.version()
        one.addCallback(lambda _: other.cancel())
        self.accept()
        self.successResultOf(one)
        self.failureResultOf(other, CancelledError)

    def test_when_all_give_up_nobody_asks(self) -> None:
        metadata_list = [self.client.stat("a") for _ in range(2)]
        connection = self.accept(of_version=None)
        for metadata in metadata_list:
            metadata.cancel()
            self.failureResultOf(metadata, CancelledError)
        self.assertTrue(connection.wire.aborted)
        version = self.client.version()
        self.accept()
        self.assertEqual(self.successResultOf(version), 2)


class ClosedTests(ClientCase):
    def test_nothing_is_begun_afterwards(self) -> None:
        self.successResultOf(self.client.close())
        for ask in (self.client.list, self.client.version, self.client.ls, self.client.connect):
            self.assert_fails(ask(), Interrupted, "the client was closed")
        self.assertEqual(self.endpoint.connections, [])

    def test_client_is_a_context(self) -> None:
        async def use() -> int:
            async with self.client as client:
                return await client.version()

        used = Deferred.fromCoroutine(use())
        connection = self.accept()
        self.assertNoResult(used)
        self.assertTrue(connection.wire.disconnecting)
        self.lose(connection)
        self.assertEqual(self.successResultOf(used), 2)
