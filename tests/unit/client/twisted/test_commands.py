"""The commands of a Deferred session, and how their replies are parsed."""

from __future__ import annotations

import math

from twisted.internet.defer import Deferred

from natproxy.client import (
    Changed,
    ConnectionBroken,
    Interrupted,
    Limited,
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
from natproxy.client.version import Features, State
from natproxy.protocol import (
    DIRECTORY,
    Digest,
    Entry,
    format_metadata,
)
from tests.support.deferred_sessions import (
    FACTS,
    METADATA,
    DeferredCase,
    page_of,
)


class CommandTests(DeferredCase):
    def test_slow_header_fails_after_the_time_out(self) -> None:
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

    def test_slow_body_fails(self) -> None:
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

    def test_list_does_not_probe_the_version(self) -> None:
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

    def test_digest_is_requested_again_after_silence(self) -> None:
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

    def test_digest_fails_if_the_server_does_not_reply_to_stat_either(self) -> None:
        digest = self.client.hash("a")
        self.accept()
        for command in (b"HASH a\n", b"STAT a\n"):
            self.clock.advance(60)
            self.assertEqual(self.accept(of_version=None).wire.taken(), command)
        self.clock.advance(60)
        self.assert_fails(digest, ConnectionBroken, "files:9000 was silent for 60 s")

    def test_digest_that_the_server_has_given_up_fails(self) -> None:
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

    def test_pages_are_requested_on_demand(self) -> None:
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

    def test_command_that_cannot_be_formatted_is_not_sent(self) -> None:
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
        self.client._negotiation.record(Features(2, {}))
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


class ErrorTests(DeferredCase):
    def test_error_replies_have_kinds(self) -> None:
        self.client.version()
        connection = self.accept()
        self.client._negotiation.state = State.CONFIRMED
        for reply, kind, text in (
            (b"ERR 404 file not found", NotFound, "a: file not found"),
            (b"ERR 412 changed etag=f", Changed, "a: changed on the server"),
            (b"ERR 429 too many", Limited, "a: too many"),
            (b"ERR 503 not now", Unavailable, "a: not now"),
            (b"ERR 500 \x1b", ServerError, "a: \\x1b"),
            (b"ERR unknown command", Unsupported, "a: unknown command"),
            (b"ERR 502 broken", Unavailable, "a: broken"),
            (b"ERR 504 late", Unavailable, "a: late"),
            (b"ERR empty response from server", NoUpstreamReply, "a: empty response from server"),
            (b"ERR proxy error: broken", Unavailable, "a: proxy error: broken"),
        ):
            metadata = self.client.stat("a")
            connection.send(reply + b"\n")
            self.assert_fails(metadata, kind, text)
        # All of it went over the same connection, which is still good.
        self.assertEqual(len(self.endpoint.connections), 1)
        self.assertTrue(connection.wire.open)

    def test_malformed_reply_closes_the_connection(self) -> None:
        self.client._negotiation.record(Features(2, {}))
        of_get = b"OK 1 offset=%b size=9 " + FACTS + b"\n"
        for ask, reply, why in (
            (self.client.list, b"OK 5\n", "malformed reply header 'OK 5'"),
            (self.client.list, b"x" * 17_000, "reply header too long"),
            (lambda: self.client.stat("a"), b"OK size=1\n", "type: 'size=1'"),
            (lambda: self.client.hash("a"), b"OK sha256=0 size=1 etag=e\n", "sha256: 's"),
            (lambda: self.client.ls("a"), b"OK 2\nx\n", "type: ''"),
            (lambda: self.client.ls("a"), b"OK 1\nx", "a page that ends inside a line"),
            (
                lambda: self.client.ls("a"),
                page_of(more=True),
                "the next page would not begin after this one",
            ),
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
            connection.send(reply)
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

    def test_page_names_the_beginning_of_the_next_one(self) -> None:
        entries = self.client.ls()
        self.play((b"LS\n", b"OK 5 after=b\nmore\n"), (b"LS after=b\n", page_of(b"c")))
        self.assertEqual([entry.name for entry in self.successResultOf(entries)], [b"c"])


class ClosedTests(DeferredCase):
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
