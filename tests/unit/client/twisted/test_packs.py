"""Several small files in one reply, requested by a Deferred session."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from natproxy.client import ConnectionBroken, Unavailable, Unsupported
from natproxy.protocol import (
    FILE,
    LARGEST_PACK,
    MAX_NAMES,
    Entry,
    Metadata,
    PackRecord,
    format_packed,
    format_refused,
)
from tests.support.deferred_sessions import DeferredCase

FEATURES = b"OK\nNATPROXY 2\nSTAT\nPACK\nVIA natproxy/2.1\nEND\n"
METADATA = Metadata(FILE, 3, 7 * 10**9, "e")


def record(name: bytes, data: bytes = b"abc") -> bytes:
    return format_packed(Entry(name, METADATA._replace(size=len(data)))) + data


def reply_of(*records: bytes) -> bytes:
    body = b"".join(records)
    return b"OK %d\n%b" % (len(body), body)


class PackTests(DeferredCase):
    def test_files_are_requested_until_all_have_been_received(self) -> None:
        records = self.client.pack(["a b", b"c", "/d/", "e"])
        self.play(
            (b"FEAT\n", FEATURES),
            (b"PACK a%20b c d e\n", reply_of(record(b"a b"), format_refused(404, b"c"))),
            (b"PACK d e\n", reply_of(record(b"d", b""))),
            (b"PACK e\n", reply_of(record(b"e"))),
            of_version=None,
        )
        packed = self.successResultOf(records)
        self.assertEqual(
            packed,
            [
                PackRecord(b"a b", METADATA, b"abc"),
                PackRecord(b"c", None, b"", 404),
                PackRecord(b"d", METADATA._replace(size=0), b""),
                PackRecord(b"e", METADATA, b"abc"),
            ],
        )
        # A view would keep the whole reply in memory.
        self.assertEqual({type(each.data) for each in packed}, {bytes})

    def test_no_command_has_too_many_names(self) -> None:
        names = [b"%d" % number for number in range(MAX_NAMES + 1)]
        records = self.client.pack(names)
        connection = self.play((b"FEAT\n", FEATURES), of_version=None)
        lines = []
        while connection.wire.value():
            words = connection.wire.taken().split()[1:]
            lines.append(len(words))
            connection.send(reply_of(*[format_refused(404, each) for each in words]))
        self.assertEqual(lines, [MAX_NAMES, 1])
        self.assertEqual([each.name for each in self.successResultOf(records)], names)

    def test_nothing_is_sent_for_no_names(self) -> None:
        self.assertEqual(self.successResultOf(self.client.pack([])), [])
        self.assertEqual(self.endpoint.connections, [])

    def test_server_or_proxy_that_lacks_it_is_not_asked(self) -> None:
        for features in (
            b"OK\nNATPROXY 2\nSTAT\nEND\n",
            FEATURES.replace(b"2.1", b"2.0"),
            FEATURES.replace(b"END", b"VIA other/3.0\nEND"),
            b"ERR unknown command\n",
        ):
            self.client = self.new_client()
            records, offers = self.client.pack(["a"]), self.client.offers(b"PACK")
            connection = self.play((b"FEAT\n", features), of_version=None)
            self.failureResultOf(records, Unsupported)
            self.assertFalse(self.successResultOf(offers))
            self.assertEqual(connection.wire.taken(), b"")

    def assert_withdrawn(self, *replies: bytes, last: bytes) -> None:
        """Check that the last reply turns the verb off.

        :param replies: before that, in order.
        """
        self.client = self.new_client()
        self.assertTrue(self.successResultOf(self.offered()))
        for reply in replies:
            done = self.client.pack(["a"])
            self.endpoint.last.send(reply)
            self.successResultOf(done)
        records = self.client.pack(["a"])
        self.endpoint.last.send(last)
        self.failureResultOf(records, Unsupported)
        self.assertFalse(self.successResultOf(self.client.offers(b"PACK")))
        count = len(self.endpoint.connections)
        self.failureResultOf(self.client.pack(["a"]), Unsupported)
        self.assertEqual(len(self.endpoint.connections), count)

    def offered(self) -> Deferred[bool]:
        offers = self.client.offers(b"PACK")
        self.play((b"FEAT\n", FEATURES), of_version=None)
        return offers

    def test_reply_that_is_not_understood_turns_it_off_and_ends_the_connection(self) -> None:
        for last in (
            b"what?\n",
            b"OK\n",
            b"OK 0\n",
            reply_of(record(b"b")),
            reply_of(record(b"a"), record(b"a")),
            reply_of(record(b"a")[:-1]),
            b"OK %d\n" % (LARGEST_PACK + 1),
        ):
            for before in ([], [reply_of(record(b"a"))]):
                self.assert_withdrawn(*before, last=last)
                self.assertTrue(self.endpoint.last.wire.aborted, last)

    def test_proxy_that_cannot_frame_it_turns_it_off_and_stays_usable(self) -> None:
        self.assert_withdrawn(last=b"ERR unknown command\n")
        connection = self.endpoint.last
        self.assertFalse(connection.wire.aborted)
        connection.wire.taken()
        metadata = self.client.stat("a")
        self.assertEqual(connection.wire.taken(), b"STAT a\n")
        connection.send(b"OK type=file size=3 mtime=7.000000000 etag=e\n")
        self.assertEqual(self.successResultOf(metadata), METADATA)

    def test_first_reply_that_is_cut_off_turns_it_off(self) -> None:
        self.client = self.new_client()
        self.successResultOf(self.offered())
        records = self.client.pack(["a"])
        connection = self.endpoint.last
        connection.send(b"OK 100\n")
        self.lose(connection)
        self.failureResultOf(records, Unsupported)

    def test_silence_in_place_of_the_first_reply_turns_it_off(self) -> None:
        self.successResultOf(self.offered())
        records = self.client.pack(["a"])
        self.clock.advance(60)
        # On another connection, once more: a NAT in between may have dropped this one.
        self.accept(of_version=None)
        self.clock.advance(60)
        self.failureResultOf(records, Unsupported)
        self.assertFalse(self.successResultOf(self.client.offers(b"PACK")))

    def test_later_failure_does_not(self) -> None:
        self.successResultOf(self.offered())
        first = self.client.pack(["a"])
        self.endpoint.last.send(reply_of(record(b"a")))
        self.successResultOf(first)
        second = self.client.pack(["a"])
        self.endpoint.last.send(b"ERR 429 too many packs at once\n")
        self.failureResultOf(second, Unavailable)
        third = self.client.pack(["a"])
        self.endpoint.last.send(b"OK 100\n")
        self.lose(self.endpoint.last)
        self.failureResultOf(third, ConnectionBroken)
        self.assertTrue(self.successResultOf(self.client.offers(b"PACK")))
