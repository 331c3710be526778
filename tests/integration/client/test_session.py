"""Blocking sessions: commands, replies and connections."""

from __future__ import annotations

import hashlib
import math
import threading
from itertools import islice
from unittest import mock

from natproxy.client import (
    Address,
    CannotConnect,
    Changed,
    ClientError,
    ConnectionBroken,
    Interrupted,
    ListingIncomplete,
    NotFound,
    NotUnderstood,
    ServerError,
    Session,
    TooManyEntries,
    Unavailable,
    UsageError,
    connect,
    requests,
)
from natproxy.client.blocking import pool as pool_module
from natproxy.client.blocking import session as session_module
from natproxy.client.version import Features
from natproxy.protocol import DIRECTORY, UNREAD, Entry, Metadata, format_entry, format_metadata
from tests.support.answering_server import Version2, metadata_of
from tests.support.blocking_sessions import FILES, SessionCase


class ListTests(SessionCase):
    def test_names_are_listed_without_the_empty_line_of_old_servers(self) -> None:
        session = self.serve(lambda line: b"OK\n\na b\n\xff\nEND\n")
        self.assertEqual(list(session.list()), [b"a b", b"\xff"])
        self.assertEqual(self.server.lines, [b"LIST"])

    def test_listing_with_an_endless_line_is_not_understood(self) -> None:
        session = self.serve(lambda line: b"OK\n" + b"x" * 20_000)
        self.assertRaises(NotUnderstood, list, session.list())

    def test_listing_that_is_not_read_to_its_end_closes_the_connection(self) -> None:
        many = b"name\n" * 200_000
        session = self.serve(lambda line: b"OK\n" + many + b"END\n")
        for _ in range(2):
            self.assertEqual(next(session.list()), b"name")
        self.assertEqual(self.server.connections, 2)


class LsTests(SessionCase):
    def test_pages_are_requested_one_after_the_other(self) -> None:
        session = self.serve_files(page=1)
        entries = list(session.ls())
        self.assertEqual(
            entries,
            [Entry(name, metadata_of(content)) for name, content in FILES.items()],
        )
        self.assertEqual(self.server.lines, [b"FEAT", b"LS", b"LS after=a", b"LS after=b%20c"])
        self.assertEqual(self.server.connections, 1)

    def test_next_page_is_requested_on_demand(self) -> None:
        session = self.serve_files(page=1)
        entries = session.ls()
        self.assertEqual(next(entries).name, b"a")
        self.assertEqual(self.server.lines, [b"FEAT", b"LS"])
        self.assertEqual(session.stat("a").size, 5)

    def test_directory_and_depth_are_sent(self) -> None:
        session = self.serve_files()
        list(session.ls("/s t/=/"))
        list(session.ls(b"s", 3))
        list(session.walk())
        list(session.ls(".", math.inf))
        self.assertEqual(
            self.server.lines[1:],
            [b"LS s%20t/%3D", b"LS s depth=3", b"LS depth=inf", b"LS . depth=inf"],
        )

    def test_pages_that_lead_nowhere_are_no_endless_loop(self) -> None:
        line = format_metadata(metadata_of(b""))
        for page, reason in (
            (b"more\n", "the next page would not begin after this one"),
            (line + b" a\nmore\n", "'a' is listed out of order"),
            (line + b" b\n" + line + b" a\nmore\n", "'a' is listed out of order"),
            (line + b" a\n" + line + b" a\n", "'a' is listed out of order"),
        ):
            session = self.serve_replies({b"LS": b"OK %d\n%b" % (len(page), page)})
            error = self.assertRaises(NotUnderstood, list, session.ls())
            self.assertIn(reason, str(error))
            self.assertLessEqual(len(self.server.lines), 3)

    def test_page_names_the_beginning_of_the_next_one(self) -> None:
        metadata = format_metadata(metadata_of(b""))
        pages = iter(
            (
                b"OK 5 after=b\nmore\n",
                b"OK %d after=d\n" % (len(metadata) + 8) + metadata + b" c\nmore\n",
                b"OK %d\n" % (len(metadata) + 3) + metadata + b" e\n",
            )
        )
        session = self.serve(
            lambda line: next(pages) if line.startswith(b"LS") else Version2({})(line)
        )
        self.assertEqual([entry.name for entry in session.ls()], [b"c", b"e"])
        self.assertEqual(self.server.lines[1:], [b"LS", b"LS after=b", b"LS after=d"])

    def test_next_page_does_not_begin_before_the_end_of_this_one(self) -> None:
        line = format_metadata(metadata_of(b"")) + b" c\nmore\n"
        for after in (b"b", b"%00"):
            answer = b"OK %d after=%b\n%b" % (len(line), after, line)
            session = self.serve_replies({b"LS": answer})
            error = self.assertRaises(NotUnderstood, list, session.ls())
            self.assertIn("the next page would not begin after this one", str(error))

    def test_unread_entries_are_listed_as_such(self) -> None:
        page = b"type=unread size=0 mtime=0.0 etag=- a\n"
        page += format_entry(Entry(b"d", Metadata(DIRECTORY, 0, 0, "d"), unread=True))
        session = self.serve_replies({b"LS": b"OK %d unread=2\n%b" % (len(page), page)})
        unread, directory = session.ls()
        self.assertEqual((unread.metadata.type, unread.unread), (UNREAD, False))
        self.assertEqual((directory.metadata.type, directory.unread), (DIRECTORY, True))

    def test_listing_that_lacks_what_it_does_not_name_ends_with_an_error(self) -> None:
        page = b"type=unread size=0 mtime=0.0 etag=- a\n"
        session = self.serve_replies({b"LS": b"OK %d unread=2\n%b" % (len(page), page)})
        entries = session.ls()
        self.assertEqual(next(entries).name, b"a")
        error = self.assertRaises(ListingIncomplete, next, entries)
        self.assertIn("the server could not read 1 directory", str(error))
        self.assertEqual((error.count, error.exit_status), (1, 1))

    def test_endless_listing_ends_at_its_limit(self) -> None:
        def endless(line: bytes) -> bytes:
            if not line.startswith(b"LS"):
                return Version2({})(line)
            after = int(line.partition(b"after=")[2] or b"0")
            names = [b"%09d" % number for number in range(after + 1, after + 11)]
            metadata = format_metadata(metadata_of(b""))
            page = b"".join(metadata + b" " + name + b"\n" for name in names) + b"more\n"
            return b"OK %d\n%b" % (len(page), page)

        session = self.serve(endless)
        for listing in (session.ls(limit=95), session.walk(limit=95)):
            error = self.assertRaises(TooManyEntries, list, listing)
            self.assertIn("lists more than 95 entries", str(error))
        self.assertEqual(len([line for line in self.server.lines if line[:2] == b"LS"]), 20)
        # What is taken entry by entry need not have a limit.
        self.assertEqual(len(list(islice(session.ls(limit=None), 1000))), 1000)
        self.assertEqual(session.ls.__defaults__, (b"", 1, b"", 10_000_000))

    def test_endless_pages_without_entries_end(self) -> None:
        def endless(line: bytes) -> bytes:
            if not line.startswith(b"LS"):
                return Version2({})(line)
            after = int(line.partition(b"after=")[2] or b"0")
            return b"OK 5 after=%09d\nmore\n" % (after + 1)

        session = self.serve(endless)
        with mock.patch("natproxy.client.listing.MOST_EMPTY_PAGES", 50):
            error = self.assertRaises(TooManyEntries, list, session.ls(limit=None))
        self.assertIn("51 pages without an entry", str(error))

    def test_pages_that_are_malformed_are_not_understood(self) -> None:
        line = format_metadata(metadata_of(b"")) + b" a\n"
        for page in (b"\n", b"x\n", b"type=file a\n", line + b"x", b"more\n" + line, b"%zz\n"):
            session = self.serve_replies({b"LS": b"OK %d\n%b" % (len(page), page)})
            self.assertRaises(NotUnderstood, list, session.ls())
            self.assertEqual(session.stat("a").size, 5)

    def test_directory_that_is_not_there(self) -> None:
        session = self.serve_replies({b"LS": b"ERR 404 file not found\n"})
        error = self.assertRaises(NotFound, list, session.ls("x"))
        self.assertEqual(str(error), "x: file not found")


class StatAndHashTests(SessionCase):
    def test_status_of_a_file_and_of_the_served_directory(self) -> None:
        session = self.serve_files()
        self.assertEqual(session.stat(b"s/\xff\n"), metadata_of(FILES[b"s/\xff\n"]))
        self.assertEqual(session.stat("").type, "dir")
        self.assertEqual(self.server.lines[1:], [b"STAT s/%FF%0A", b"STAT ."])
        error = self.assertRaises(NotFound, session.stat, "none")
        self.assertEqual(str(error), "none: file not found")

    def test_statuses_that_are_malformed_are_not_understood(self) -> None:
        for words in (b"", b" type=file", b" type=file size=-1 mtime=0 etag=a", b" size=1 etag=a"):
            session = self.serve_replies({b"STAT": b"OK%b\n" % words})
            self.assertRaises(NotUnderstood, session.stat, "a")

    def test_unknown_keys_of_a_newer_server_are_ignored(self) -> None:
        reply = b"OK type=link new=1 size=2 mtime=3 etag=e more\n"
        session = self.serve_replies({b"STAT": reply})
        self.assertEqual(session.stat("a"), ("link", 2, 3 * 10**9, "e"))

    def test_digest_of_a_file_and_of_a_part_of_it(self) -> None:
        session = self.serve_files()
        whole = session.hash("a")
        self.assertEqual(whole.sha256, hashlib.sha256(b"the a").hexdigest())
        self.assertEqual(session.hash("a", 1, 2).sha256, hashlib.sha256(b"he").hexdigest())
        self.assertEqual(session.hash("a", 5).size, 5)
        self.assertEqual(
            self.server.lines[1:], [b"HASH a", b"HASH a offset=1 length=2", b"HASH a offset=5"]
        )

    def test_digests_that_are_malformed_are_not_understood(self) -> None:
        for words in (b"", b" sha256=abc size=1 etag=a", b" sha256=%b size=1" % (b"0" * 64)):
            session = self.serve_replies({b"HASH": b"OK%b\n" % words})
            self.assertRaises(NotUnderstood, session.hash, "a")

    def test_digest_is_requested_again_after_silence(self) -> None:
        computed = threading.Event()
        version2 = Version2(dict(FILES))

        def answer(line: bytes) -> bytes:
            if line.startswith(b"HASH") and self.server.lines.count(line) < 3:
                computed.wait(10)
                return b""
            return version2(line)

        session = self.serve(answer, timeout=0.1)
        self.addCleanup(computed.set)
        self.assertEqual(session.hash("a").size, 5)
        self.assertEqual(self.server.lines[1:], [b"HASH a", b"HASH a", b"STAT a", b"HASH a"])

    def test_digest_fails_if_the_server_does_not_reply_to_stat_either(self) -> None:
        ended = threading.Event()
        version2 = Version2(dict(FILES))

        def answer(line: bytes) -> bytes:
            if not line.startswith(b"FEAT"):
                ended.wait(10)
                return b""
            return version2(line)

        session = self.serve(answer, timeout=0.1)
        self.addCleanup(ended.set)
        error = self.assertRaises(ConnectionBroken, session.hash, "a")
        self.assertTrue(str(error).endswith("was silent for 0.1 s"), error)
        self.assertEqual(set(self.server.lines[1:]), {b"HASH a", b"STAT a"})

    def test_digest_that_the_server_has_given_up_is_not_requested_again(self) -> None:
        self.patch(requests, "SHORTEST_SILENCE", 0.0)
        for code in (b"502", b"503"):
            session = self.serve_replies({b"HASH": b"ERR %b the server refuses\n" % code})
            self.assertRaises(Unavailable, session.hash, "a")
            self.assertEqual(self.server.lines[1:], [b"HASH a"])

    def test_digest_is_not_waited_for_without_end(self) -> None:
        self.patch(requests, "LONGEST_DIGEST", 3600)
        self.patch(requests, "SHORTEST_SILENCE", 0.0)
        moments = iter(range(0, 10**6, 400))
        self.patch(session_module.time, "monotonic", lambda: next(moments))
        session = self.serve_replies({b"HASH": b"ERR proxy error: the server was silent for 1 s\n"})
        session._negotiation.record(Features(2, {}))
        self.assertRaises(Unavailable, session.hash, "a")
        self.assertEqual(set(self.server.lines), {b"HASH a", b"STAT a"})
        # The number of tries does not count: a short time-out must not end it sooner.
        self.assertGreater(len(self.server.lines), 2)

    def test_digest_that_fails_at_once_is_not_requested_again(self) -> None:
        session = self.serve_replies({b"HASH": b"ERR 503 the file is changing\n"})
        self.assertRaises(Unavailable, session.hash, "a")
        self.assertEqual(self.server.lines[1:], [b"HASH a"])

    def test_directory_has_no_digest_and_is_called_one(self) -> None:
        metadata = b"OK " + format_metadata(Metadata(DIRECTORY, 0, 0, "e")) + b"\n"
        missing = b"ERR 404 file not found\n"
        session = self.serve_replies({b"HASH": missing, b"STAT": metadata})
        for name, shown in (("s", "s"), (".", "."), ("", ".")):
            error = self.assertRaises(UsageError, session.hash, name)
            self.assertEqual(str(error), f"{shown}: is a directory")
        for other in (missing, b"ERR 503 busy\n", metadata.replace(b"dir", b"file")):
            session = self.serve_replies({b"HASH": missing, b"STAT": other})
            error = self.assertRaises(NotFound, session.hash, "a")
            self.assertEqual(str(error), "a: file not found")


class GetTests(SessionCase):
    def test_parts_of_a_file(self) -> None:
        session = self.serve_files()
        etag = session.stat("a").etag
        for offset, length in ((0, None), (1, None), (1, 2), (0, 0), (3, 100), (5, None), (5, 3)):
            end = None if length is None else offset + length
            self.assertEqual(session.read("a", offset, length), b"the a"[offset:end])
            self.assertEqual(session.read("a", offset, length, etag), b"the a"[offset:end])
        with session.get("a", 1, 2) as (reply, part):
            self.assertEqual((part.offset, part.length, part.metadata.size), (1, 2, 5))
            self.assertEqual(b"".join(reply), b"he")
        self.assertEqual(self.server.connections, 1)

    def test_file_that_has_changed_is_not_sent(self) -> None:
        session = self.serve_files()
        error = self.assertRaises(Changed, session.read, "a", 0, None, "other")
        self.assertEqual(str(error), "a: changed on the server")

    def test_offset_beyond_the_end_is_an_error_of_the_server(self) -> None:
        session = self.serve_files()
        error = self.assertRaises(ServerError, session.read, "a", 6)
        self.assertEqual(str(error), "a: range size=5")

    def test_another_part_than_the_requested_one_is_not_understood(self) -> None:
        metadata = b"size=9 mtime=1 etag=e"
        for header in (
            b"OK 2 offset=3 " + metadata,
            b"OK 3 offset=2 " + metadata,
            b"OK 1 offset=2 " + metadata,
            b"OK 2 offset=2 size=3 mtime=1 etag=e",
            b"OK 2 offset=2 size=9 mtime=1 etag=other",
            b"OK 2 offset=2 size=9 mtime=1",
            b"OK 2 offset=2 size=9 etag=e",
            b"OK 2 size=9 mtime=1 etag=e",
            b"OK 2",
        ):
            session = self.serve_replies({b"GET": header + b"\nhi"})
            self.assertRaises(NotUnderstood, session.read, "a", 2, 2, "e")
        session = self.serve_replies({b"GET": b"OK 2 offset=2 " + metadata + b"\nhi"})
        self.assertEqual(session.read("a", 2, 2, "e"), b"hi")
        # Without a length, it is all up to the end.
        self.assertRaises(NotUnderstood, session.read, "a", 2)

    def test_whole_file_as_version_1_sends_it(self) -> None:
        session = self.serve_files()
        with session.get_v1("b c") as reply:
            self.assertEqual((reply.header.size, list(reply)), (0, []))
        self.assertEqual(self.server.lines, [b"DOWNLOAD b c"])

    def test_reply_that_is_not_read_to_its_end_closes_the_connection(self) -> None:
        large = {b"a": bytes(1 << 20)}
        session = self.serve(Version2(large))
        with session.get("a") as (reply, _):
            self.assertGreater(reply.receive_into(memoryview(bytearray(10))), 0)
        self.assertRaises(ConnectionBroken, b"".join, reply)
        self.assertEqual(session.stat("a").size, 1 << 20)
        self.assertEqual(self.server.connections, 2)

    def test_directory_is_not_opened(self) -> None:
        session = self.serve_files()
        error = self.assertRaises(UsageError, session.open, "/")
        self.assertIn("is a directory", str(error))


class RefusedOptionsTests(SessionCase):
    def test_path_that_no_file_can_have(self) -> None:
        session = self.serve_files()
        for destination in ("a\0b", b"a\0b", "a\ud800", ""):
            self.assertRaises(UsageError, session.download, "a", destination)
        self.assertRaises(UsageError, session.download, b"a\0b")
        self.assertRaises(UsageError, session.download, "a", self.mktemp(), limit_rate=0)
        self.assertEqual(self.server.lines, [])

    def test_time_out_that_is_none(self) -> None:
        server = Address("127.0.0.1", 1)
        for seconds in (0, -1, math.nan, math.inf, 1e300):
            for options in ({"timeout": seconds}, {"connect_timeout": seconds}):
                self.assertRaises(UsageError, Session, server, **options)


class ConnectionsTests(SessionCase):
    def test_connection_is_used_again(self) -> None:
        session = self.serve_files()
        for _ in range(3):
            session.stat("a")
            self.assertRaises(NotFound, session.stat, "none")
        self.assertEqual(self.server.connections, 1)

    def test_connection_is_not_shared(self) -> None:
        session = self.serve_files()
        with session.connection() as first, session.connection() as second:
            self.assertIsNot(first, second)
            with session.get("a") as (one, _), session.get("s/\udcff\n") as (two, _):
                self.assertEqual((b"".join(two), b"".join(one)), (FILES[b"s/\xff\n"], b"the a"))
        with session.connection() as third:
            self.assertIn(third, (first, second))

    def test_many_threads_read_at_once(self) -> None:
        files = {b"%d" % number: b"%d" % number * 1000 for number in range(20)}
        session = self.serve(Version2(files))
        got: dict[bytes, bytes] = {}

        def read(name: bytes) -> None:
            for _ in range(5):
                got[name] = session.read(name)

        threads = [threading.Thread(target=read, args=(name,)) for name in files]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        self.assertEqual(got, files)
        self.assertLessEqual(self.server.connections, 20)

    def test_no_more_connections_are_kept_than_there_is_use_for(self) -> None:
        self.patch(pool_module, "MOST_IDLE", 1)
        session = self.serve_files()
        with session.get("a") as (one, _), session.get("a") as (two, _):
            self.assertEqual(b"".join(one), b"".join(two))
        for _ in range(3):
            session.stat("a")
        self.assertEqual(self.server.connections, 2)
        with session.get("a") as (one, _), session.get("a") as (two, _):
            self.assertEqual(b"".join(one), b"".join(two))
        self.assertEqual(self.server.connections, 3)

    def test_time_out_that_is_changed_holds_for_connections_that_are_kept(self) -> None:
        session = self.serve_files()
        session.connect()
        session.timeout = 5
        with session.connection() as connection:
            self.assertEqual(connection.timeout, 5)

    def test_closed_session_reconnects(self) -> None:
        session = self.serve_files()
        with session:
            session.stat("a")
        session.stat("a")
        self.assertEqual(self.server.connections, 2)

    def test_connection_in_use_is_closed_when_it_comes_back_to_a_closed_session(self) -> None:
        session = self.serve_files()
        with session.connection() as connection:
            session.close()
            # No byte of another reply is lost.
            self.assertEqual(b"".join(connection.request(b"LIST")), b"a\nb c\ns/\xff\n\nEND\n")
            self.assertIsNotNone(connection._socket)
        self.assertIsNone(connection._socket)
        with session.connection() as later:
            later.connect()
        self.assertIsNotNone(later._socket)

    def test_connect_fails_without_a_server(self) -> None:
        session = self.serve_files()
        with connect(self.server.server_address) as ours:
            self.assertEqual(ours.read("a"), b"the a")
        session.connect()
        self.server.close()
        self.assertRaises(CannotConnect, connect, self.server.server_address)
        self.assertRaises(UsageError, connect, "::1")

    def test_interrupt_ends_what_other_threads_wait_for_and_no_more(self) -> None:
        asked = threading.Event()
        released = threading.Event()
        version2 = Version2(dict(FILES))

        def answer(line: bytes) -> bytes:
            if line.startswith(b"HASH"):
                asked.set()
                released.wait(10)
                return b""
            return version2(line)

        session = self.serve(answer)
        self.addCleanup(released.set)
        raised: list[ClientError] = []

        def wait() -> None:
            try:
                session.hash("a")
            except ClientError as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        self.assertTrue(asked.wait(10))
        session.interrupt()
        thread.join(10)
        self.assertEqual([type(error) for error in raised], [Interrupted])
        self.assertEqual(session.read("a"), b"the a")
