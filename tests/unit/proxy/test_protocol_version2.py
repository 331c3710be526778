"""The proxy between two peers of version 2: the reply of every verb, framed by its row."""

from __future__ import annotations

import os
from typing import Any, ClassVar
from unittest import mock, skipUnless

from twisted.internet.testing import MemoryReactorClock

from natproxy.nat import EntryState
from natproxy.protocol import (
    FILE,
    MAX_LINE,
    CountedBody,
    Entry,
    ListingBody,
    Metadata,
    Range,
    format_entry,
    format_metadata,
    format_packed,
    format_range,
    format_refused,
    parse_command,
)
from natproxy.proxy.protocol import ProxyProtocol
from natproxy.relay import Relays, SocketJob, SocketRelay
from natproxy.relay.choice import SPLICE_FROM
from natproxy.relay.copy import CopyRelay
from natproxy.relay.splice import SpliceRelay
from tests.support.doubles import SocketWire, Wire
from tests.support.proxies import ProxyCase

STATUS = Metadata(FILE, 10, 1_500_000_000, "x-1")
WHOLE = format_range(Range(10, 0, STATUS))
PART = format_range(Range(3, 7, STATUS))
LINE = format_entry(Entry(b"END", STATUS))
PAGE = b"OK %d\n" % len(LINE * 2 + b"more\n") + LINE * 2 + b"more\n"

RECORDS = format_packed(Entry(b"a", STATUS)) + b"\nEND\nOK 1\n" + format_refused(404, b"b c")
PACKED = b"OK %d\n" % len(RECORDS) + RECORDS

REPLIES = (
    (b"STAT a\n", b"OK " + format_metadata(STATUS) + b"\n"),
    (b"GET a\n", WHOLE + b"\nEND\nOK 1\n"),
    (b"GET a offset=7\n", PART + b"END"),
    (b"GET a offset=10\n", format_range(Range(0, 10, STATUS))),
    (b"LS\n", PAGE),
    (b"LS docs depth=inf\n", b"OK 0\n"),
    (b"PACK a b%20c\n", PACKED),
    (b"HASH a\n", b"OK sha256=" + b"0" * 64 + b" size=10 etag=x-1\n"),
    (b"GET a if-match=y\n", b"ERR 412 changed etag=x-1\n"),
    (b"GET a offset=11\n", b"ERR 416 range size=10\n"),
    (b"STAT b\n", b"ERR 404 file not found\n"),
    (b"LS a=b\n", b"ERR 400 unknown argument 'a=b'\n"),
)


class RecordingRelays(Relays):
    """Relays that record their jobs, and the relays made for them."""

    def __init__(self, reactor: object = None) -> None:
        super().__init__(reactor)
        self.jobs: list[SocketJob] = []
        self.made: list[SocketRelay] = []

    def relay(self, job: SocketJob) -> SocketRelay:
        self.jobs.append(job)
        self.made.append(super().relay(job))
        return self.made[-1]


class ReplyTests(ProxyCase):
    def test_command_is_passed_on_unchanged(self) -> None:
        for command in (b"get a%20b  offset=1\tlength=2", b"LS", b"FEAT ", b"STAT %zz", b"HASH"):
            self.protocol.dataReceived(command + b"\r\n")
            upstream = self.endpoint.last
            upstream.accept()
            self.assertEqual(upstream.wire.taken(), command + b"\n")
            upstream.send(b"ERR 400 whatever\n")
            self.assertEqual(self.wire.taken(), b"ERR 400 whatever\n")

    def test_reply_is_relayed_to_its_end_and_no_further(self) -> None:
        for command, reply in REPLIES:
            upstream = self.travelling(command)
            upstream.send(reply + b"surplus\nEND\n")
            self.assertEqual(self.wire.taken(), reply)
            self.assertTrue(upstream.wire.aborted)
            self.assertEqual(len(self.table), 0)
        self.assertEqual(self.journal.ends, ["completed"] * len(REPLIES))
        self.assert_usable()

    def test_reply_may_come_in_pieces_of_one_byte(self) -> None:
        for command, reply in REPLIES:
            upstream = self.travelling(command)
            for position in range(len(reply)):
                self.assertFalse(upstream.wire.aborted, (command, position))
                upstream.send(reply[position : position + 1])
            self.assertTrue(upstream.wire.aborted)
            self.assertEqual(self.wire.taken(), reply)
        self.assert_usable()

    def test_replies_to_pipelined_commands_are_in_order(self) -> None:
        self.protocol.dataReceived(b"".join(command for command, _ in REPLIES))
        for _, reply in REPLIES:
            self.endpoint.last.accept()
            self.endpoint.last.send(reply)
            # The work of one turn is bounded.
            self.clock.advance(0)
        self.assertEqual(self.wire.taken(), b"".join(reply for _, reply in REPLIES))

    def test_error_of_a_server_of_version_1_is_passed_on(self) -> None:
        for command in (b"FEAT\n", b"STAT a\n", b"GET a\n", b"LS\n", b"HASH a\n"):
            self.travelling(command).send(b"ERR unknown command\n")
            self.assertEqual(self.wire.taken(), b"ERR unknown command\n")
        self.assert_usable()

    def test_client_is_usable_after_a_server_that_closes(self) -> None:
        self.travelling(b"FEAT\n").die()
        self.assertEqual(self.wire.taken(), b"ERR 502 empty response from server\n")
        self.assert_usable()

    def test_incomplete_body_aborts_the_client(self) -> None:
        for command, begun in (
            (b"GET a offset=7\n", PART + b"EN"),
            (b"LS\n", PAGE[:-1]),
            (b"PACK a b%20c\n", PACKED[:-1]),
            (b"LIST\n", b"OK\na\nEND"),
        ):
            self.protocol, self.wire = self.new_client(43_211)
            upstream = self.travelling(command)
            upstream.send(begun)
            upstream.die()
            self.assertEqual(self.wire.taken(), begun)
            self.assertTrue(self.wire.aborted)
            self.wire.lose(self.protocol)


class AbilitiesTests(ProxyCase):
    """``FEAT``: the proxy announces only verbs that it can frame."""

    options: ClassVar[dict[str, Any]] = {"reply_timeout": 60.0}
    NEWER = b"OK\nNATPROXY 2\nSTAT\nSEND depth\nGET offset zip\nPACK name\nVIA other/3.0\nEND\n"
    PASSED = b"OK\nNATPROXY 2\nSTAT\nGET offset\nPACK\nVIA other/3.0\nVIA natproxy/2.1\nEND\n"

    def test_verbs_that_it_cannot_frame_are_not_announced(self) -> None:
        self.travelling(b"feat\n").send(self.NEWER)
        self.assertEqual(self.wire.taken(), self.PASSED)
        self.assert_usable()

    def test_it_is_one_command_with_one_entry(self) -> None:
        upstream = self.travelling(b"FEAT\n")
        upstream.send(self.NEWER[:-1])
        (entry,) = self.table
        self.assertEqual((entry.verb, entry.state), (b"FEAT", EntryState.RELAYING))
        self.assertEqual(self.wire.taken(), b"")
        upstream.send(b"\nsurplus\nEND\n")
        self.assertEqual(self.wire.taken(), self.PASSED)
        self.assertEqual(entry.relayed, len(self.PASSED))
        self.assertEqual(len(self.table), 0)
        self.assertTrue(upstream.wire.aborted)
        (event,) = self.journal.outcomes
        self.assertEqual((event["outcome"], event["bytes"]), ("completed", len(self.PASSED)))

    def test_pieces_of_one_byte_and_pipelined_commands(self) -> None:
        self.protocol.dataReceived(b"FEAT\nSTAT a\n")
        self.endpoint.last.accept()
        for position in range(len(self.NEWER)):
            self.endpoint.last.send(self.NEWER[position : position + 1])
        self.endpoint.last.accept()
        self.endpoint.last.send(b"OK type=file\n")
        self.assertEqual(self.wire.taken(), self.PASSED + b"OK type=file\n")

    def test_list_without_an_end_is_bounded(self) -> None:
        for piece in (b"x" * 10_000, b"STAT\n" * 200):
            upstream = self.travelling(b"FEAT\n")
            upstream.send(b"OK\n" + piece)
            upstream.send(piece)
            self.assertTrue(upstream.wire.aborted)
            self.assertEqual(self.wire.taken(), b"ERR 502 proxy error: reply to FEAT too long\n")
        self.assertEqual(self.journal.ends, ["error"] * 2)
        self.assert_usable()

    def test_list_that_drips_has_no_more_time_than_silence(self) -> None:
        upstream = self.travelling(b"FEAT\n")
        upstream.send(b"OK\nNATPROXY 2\n")
        for _ in range(40):
            self.assertTrue(upstream.wire.open)
            upstream.send(b"x")
            self.clock.advance(1.5)
        self.assertTrue(upstream.wire.aborted)
        self.assertEqual(
            self.wire.taken(), b"ERR 504 proxy error: the server was silent for 60 s\n"
        )
        self.assertEqual(self.journal.ends, ["timeout"])
        self.assert_usable()

    def test_incomplete_list_is_not_an_empty_response(self) -> None:
        upstream = self.travelling(b"FEAT\n")
        upstream.send(self.NEWER[:-1])
        upstream.die()
        self.assertEqual(
            self.wire.taken(),
            b"ERR 502 proxy error: the server closed the connection inside its reply\n",
        )
        self.assertEqual(self.journal.ends, ["upstream-gone"])
        self.assert_usable()

    def test_entry_is_removed_with_its_client(self) -> None:
        upstream = self.travelling(b"FEAT\n")
        upstream.send(self.NEWER[:-1])
        self.wire.lose(self.protocol)
        self.assertEqual(len(self.table), 0)
        self.assertTrue(upstream.wire.aborted)
        self.protocol, self.wire = self.new_client(43_211)


class SecretTests(ProxyCase):
    """Only the proxy receives the argument of ``AUTH``, however it is written."""

    LINES = (
        *(b"AUTH s3cret", b"auth s3cret", b"AuTh\ts3cret more", b"  Auth  s3cret"),
        *(b"AUTH=s3cret", b"auth:s3cret", b"AUTHs3cret", b'"AUTH s3cret"', b"\0AUTH s3cret"),
    )

    def test_it_is_sent_to_no_server_and_in_no_event_and_no_log_line(self) -> None:
        events: list[object] = []
        self.table.subscribe(events.append)
        for line in self.LINES:
            for end in (b"\n", b"\r\n"):
                self.protocol.dataReceived(line + end)
                self.assertEqual(self.wire.taken(), b"ERR unknown command\n")
        self.assertEqual((self.endpoint.connections, events), ([], []))
        self.assertNotIn("s3cret", repr(self.journal.events).lower())

    def test_unexpected_error_does_not_show_it(self) -> None:
        self.assertNotIn("s3cret", repr(parse_command(b"auth s3cret")))
        self.assertIn("auth", repr(parse_command(b"auth")))


class MalformedHeaderTests(ProxyCase):
    def assert_refused(self, command: bytes, header: bytes) -> None:
        self.travelling(command).send(header + b"\nabc\nEND\n")
        self.assertEqual(
            self.wire.taken(), b"ERR 502 proxy error: malformed reply header '" + header + b"'\n"
        )
        self.assertEqual(self.journal.ends[-1], "error")
        self.assert_usable()

    def test_counted_header_without_a_proper_size(self) -> None:
        for command in (b"GET a\n", b"get a offset=1\n", b"LS\n", b"LS docs depth=2\n"):
            for header in (
                *(b"OK", b"OK abc", b"OK offset=0 size=5", b"OK -1 offset=0", b"OK 5,", b"3"),
                b"OK 9223372036854775808 offset=0",
            ):
                self.assert_refused(command, header)

    def test_listing_header_with_a_size(self) -> None:
        self.assert_refused(b"FEAT\n", b"OK 10")

    def test_header_without_an_end(self) -> None:
        self.travelling(b"GET a\n").send(b"OK 5 offset=".ljust(MAX_LINE + 1, b"0"))
        self.assertEqual(self.wire.taken(), b"ERR 502 proxy error: reply header too long\n")
        self.assert_usable()


class EntryTests(ProxyCase):
    def test_entry_has_the_verb_and_the_decoded_name(self) -> None:
        upstream = self.travelling(b"get a%20b offset=7 length=3\n")
        (entry,) = self.table.lookup(50_000)
        self.assertEqual((entry.verb, entry.name), (b"GET", b"a b"))
        self.assertIs(entry.state, EntryState.REGISTERED)
        upstream.send(PART + b"ab")
        self.assertIs(entry.state, EntryState.RELAYING)
        self.assertEqual(entry.relayed, len(PART) + 2)
        upstream.send(b"c")
        self.assertEqual(len(self.table), 0)

    def test_log_has_them_too(self) -> None:
        self.travelling(b"get a%20b offset=7 length=3\n").send(PART + b"abc")
        (event,) = self.journal.outcomes
        self.assertEqual((event["verb"], event["name"]), ("GET", "a b"))
        self.assertEqual(event["bytes"], len(PART) + 3)
        self.journal.line_with("GET a%20b offset=7 length=3: completed")

    def test_verb_without_a_name_has_an_entry_without_one(self) -> None:
        for word in (b"FEAT", b"LS"):
            upstream = self.travelling(word + b"\n")
            (entry,) = self.table
            self.assertEqual((entry.verb, entry.name), (word, b""))
            upstream.send(b"ERR unknown command\n")


class RelayingTests(ProxyCase):
    def setUp(self) -> None:
        self.relays = RecordingRelays()
        self.addCleanup(self.relays.close)
        self.options = {"relays": self.relays}
        super().setUp()

    def test_job_has_the_header_the_bytes_received_with_it_and_the_size(self) -> None:
        for command, reply, size in (
            (b"GET a\n", WHOLE, 10),
            (b"GET a offset=7\n", PART, 3),
            (b"LS\n", b"OK 7\nabc", 7),
        ):
            upstream = self.travelling(command)
            upstream.send(reply)
            job = self.relays.jobs[-1]
            self.assertEqual((job.header, job.size), (reply, size))
            self.assertIsInstance(job.body, CountedBody)
            upstream.send(b"x" * size)
            self.assertTrue(job.body.complete)
        self.assertEqual(len(self.relays.jobs), 3)

    def test_job_of_a_listing_has_no_size(self) -> None:
        self.travelling(b"LIST\n").send(b"OK\nNATPROXY 2\n")
        (job,) = self.relays.jobs
        self.assertEqual((job.header, job.size), (b"OK\nNATPROXY 2\n", 0))
        self.assertIsInstance(job.body, ListingBody)

    def test_body_that_is_complete_with_its_header_needs_no_relay(self) -> None:
        for command, reply in (
            (b"GET a offset=7\n", PART + b"END"),
            (b"LS\n", b"OK 7\nfile  a"),
            (b"LIST\n", b"OK\na\nEND\n"),
        ):
            upstream = self.travelling(command)
            with mock.patch.object(self.wire, "write", wraps=self.wire.write) as write:
                upstream.send(reply + b"surplus")
            write.assert_called_once_with(reply)
            self.assertEqual(self.wire.taken(), reply)
        self.assertEqual((self.relays.jobs, len(self.table)), ([], 0))
        self.assert_usable()

    def test_reply_without_a_body_needs_no_relay(self) -> None:
        for command, reply in (
            (b"STAT a\n", b"OK size=10\n"),
            (b"HASH a\n", b"OK size=10\n"),
            (b"GET a\n", b"ERR 412 changed etag=y\n"),
            (b"GET a offset=10\n", b"OK 0 offset=10\n"),
        ):
            self.travelling(command).send(reply)
            self.assertEqual(self.wire.taken(), reply)
        self.assertEqual(self.relays.jobs, [])


@skipUnless(hasattr(os, "splice"), "no splice on this system")
class FastPathTests(ProxyCase):
    """Both sides are plain TCP, so that the kernel can move a large body."""

    def setUp(self) -> None:
        self.relays = RecordingRelays(MemoryReactorClock())
        self.addCleanup(self.relays.close)
        self.options = {"relays": self.relays}
        super().setUp()

    def new_client(self, port: int) -> tuple[ProxyProtocol, Wire]:
        wire = self.socket_wire(9000, port)
        protocol = self.factory.buildProtocol(wire.getPeer())
        protocol.makeConnection(wire)
        return protocol, wire

    def socket_wire(self, host_port: int, peer_port: int) -> SocketWire:
        wire = SocketWire(host_port, peer_port)
        self.addCleanup(wire.socket.close)
        return wire

    def relay_of(self, command: bytes, header: bytes) -> SocketRelay:
        """Begin the reply to a command, and return the relay of its body."""
        self.protocol, self.wire = self.new_client(43_211)
        self.protocol.dataReceived(command)
        upstream = self.endpoint.last
        upstream.wire = self.socket_wire(50_000 + len(self.endpoint.connections), 9001)
        upstream.accept()
        upstream.send(header)
        self.assertEqual(self.wire.socket.taken(), header)
        return self.relays.made[-1]

    def test_large_range_takes_it(self) -> None:
        status = STATUS._replace(size=1 << 40)
        header = format_range(Range(SPLICE_FROM, 1 << 30, status))
        command = b"GET a offset=%d length=%d\n" % (1 << 30, SPLICE_FROM)
        self.assertIsInstance(self.relay_of(command, header), SpliceRelay)
        (entry,) = self.table
        self.assertEqual((entry.verb, entry.relayed), (b"GET", len(header)))

    def test_large_page_takes_it(self) -> None:
        header = b"OK %d\n" % SPLICE_FROM
        self.assertIsInstance(self.relay_of(b"LS depth=inf\n", header), SpliceRelay)

    def test_small_range_of_a_large_file_does_not(self) -> None:
        status = STATUS._replace(size=1 << 40)
        header = format_range(Range(SPLICE_FROM - 1, 0, status))
        command = b"GET a length=%d\n" % (SPLICE_FROM - 1)
        self.assertIsInstance(self.relay_of(command, header), CopyRelay)

    def test_listing_does_not(self) -> None:
        self.assertIsInstance(self.relay_of(b"LIST\n", b"OK\n"), CopyRelay)
