"""An upstream that is silent, ends, or sends malformed replies: the client's reply and the log."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionLost

from natproxy.protocol import MAX_LINE
from natproxy.relay import PeerGone
from tests.support.proxies import ProxyCase


class MalformedHeaderTests(ProxyCase):
    def assert_refused(self, command: bytes, reply: bytes, reason: bytes) -> None:
        upstream = self.travelling(command)
        upstream.send(reply)
        self.assertEqual(self.wire.taken(), b"ERR proxy error: " + reason + b"\n")
        self.assertTrue(upstream.wire.aborted)
        self.assertEqual(len(self.table), 0)
        upstream.send(b"OK 1\na")
        self.assertEqual(self.wire.taken(), b"")
        self.assertEqual(self.journal.ends, ["error"])
        self.journal.line_with(f"the upstream 127.0.0.1:9001 is not understood: {reason.decode()}")
        self.assert_usable()

    def test_size_that_is_not_a_number(self) -> None:
        self.assert_refused(b"DOWNLOAD a\n", b"OK abc\n", b"malformed reply header 'OK abc'")

    def test_size_that_is_missing(self) -> None:
        self.assert_refused(b"DOWNLOAD a\n", b"OK\nabc", b"malformed reply header 'OK'")

    def test_negative_size(self) -> None:
        self.assert_refused(b"DOWNLOAD a\n", b"OK -1\nabc", b"malformed reply header 'OK -1'")

    def test_signed_size(self) -> None:
        self.assert_refused(b"DOWNLOAD a\n", b"OK +1\nabc", b"malformed reply header 'OK +1'")

    def test_size_with_an_underscore(self) -> None:
        self.assert_refused(b"DOWNLOAD a\n", b"OK 1_0\nabc", b"malformed reply header 'OK 1_0'")

    def test_size_beyond_any_file(self) -> None:
        header = b"OK 9223372036854775808"
        self.assert_refused(
            b"DOWNLOAD a\n", header + b"\n", b"malformed reply header '" + header + b"'"
        )

    def test_size_of_thirty_digits(self) -> None:
        header = b"OK " + b"9" * 30
        self.assert_refused(
            b"DOWNLOAD a\n", header + b"\n", b"malformed reply header '" + header + b"'"
        )

    def test_listing_with_a_size(self) -> None:
        self.assert_refused(b"LIST\n", b"OK extra\na\nEND\n", b"malformed reply header 'OK extra'")

    def test_garbage(self) -> None:
        self.assert_refused(
            b"LIST\n",
            b"HTTP/1.1 400 \x1b[2J\xff\n",
            b"malformed reply header 'HTTP/1.1 400 \\x1b[2J\\xff'",
        )

    def test_blank_line(self) -> None:
        self.assert_refused(b"LIST\n", b"\nOK\nEND\n", b"malformed reply header ''")

    def test_word_that_only_begins_like_an_error(self) -> None:
        self.assert_refused(b"LIST\n", b"ERROR\n", b"malformed reply header 'ERROR'")

    def test_header_without_an_end(self) -> None:
        self.assert_refused(b"DOWNLOAD a\n", b"OK 1 " + b"x" * MAX_LINE, b"reply header too long")

    def test_header_one_byte_too_long(self) -> None:
        header = b"ERR " + b"x" * (MAX_LINE - 3)
        self.assert_refused(b"LIST\n", header + b"\n", b"reply header too long")

    def test_longest_header(self) -> None:
        header = b"ERR " + b"x" * (MAX_LINE - 4) + b"\n"
        self.travelling().send(header)
        self.assertEqual(self.wire.taken(), header)
        self.assertEqual(self.journal.ends, ["completed"])


class NoReplyTests(ProxyCase):
    EMPTY = b"ERR empty response from server\n"

    def test_upstream_closes_without_a_word(self) -> None:
        upstream = self.travelling()
        upstream.die()
        self.assertEqual(self.wire.taken(), self.EMPTY)
        self.assertEqual(self.journal.ends, ["upstream-gone"])
        self.assert_usable()

    def test_upstream_resets_without_a_word(self) -> None:
        self.travelling().die(ConnectionLost())
        self.assertEqual(self.wire.taken(), self.EMPTY)
        self.assert_usable()

    def test_upstream_closes_inside_the_header(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 12")
        upstream.die()
        # Not an "empty response": that counts as a sign of a server of version 1.
        self.assertEqual(
            self.wire.taken(),
            b"ERR proxy error: the server closed the connection inside its reply\n",
        )
        self.assert_usable()

    def test_waiting_commands_use_other_connections(self) -> None:
        self.travelling(b"LIST\nDOWNLOAD a\n").die()
        self.endpoint.last.accept()
        self.endpoint.last.send(b"OK 1\na")
        self.assertEqual(self.wire.taken(), self.EMPTY + b"OK 1\na")


class SilenceTests(ProxyCase):
    def test_silence_before_the_header(self) -> None:
        upstream = self.travelling()
        self.clock.advance(59.9)
        self.assertEqual(self.wire.taken(), b"")
        self.clock.advance(0.1)
        self.assertEqual(self.wire.taken(), b"ERR proxy error: the server was silent for 60 s\n")
        self.assertTrue(upstream.wire.aborted)
        self.assertEqual(self.journal.ends, ["timeout"])
        self.assert_usable()

    def test_silence_inside_the_header(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        self.clock.advance(30)
        upstream.send(b"OK 1")
        self.clock.advance(29.9)
        self.assertEqual(self.wire.taken(), b"")
        self.clock.advance(0.1)
        self.assertIn(b"silent", self.wire.taken())
        self.assert_usable()

    def test_header_that_drips_has_no_more_time_than_one_that_never_begins(self) -> None:
        for command, header in (
            (b"DOWNLOAD a\n", b"OK 1"),
            (b"GET a\n", b"OK 1 offset"),
            (b"STAT a\n", b"OK type=file"),
            (b"WHO\n", b"OK, so far"),
        ):
            upstream = self.travelling(command)
            for position in range(40):
                self.assertTrue(upstream.wire.open, (command, position))
                upstream.send(header[position : position + 1] or b"0")
                self.clock.advance(1.5)
            self.assertTrue(upstream.wire.aborted)
            self.assertIn(b"silent for 60 s", self.wire.taken())
        self.assert_usable()

    def test_time_for_the_body_begins_when_the_header_is_complete(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        self.clock.advance(59)
        upstream.send(b"OK 2\n")
        self.clock.advance(59)
        upstream.send(b"a")
        self.clock.advance(59)
        upstream.send(b"b")
        self.assertEqual(self.wire.taken(), b"OK 2\nab")

    def test_each_command_has_a_time_out_of_its_own(self) -> None:
        other, other_wire = self.new_client(43_211)
        self.travelling(b"LIST\n" * 5)
        self.clock.advance(30)
        other.dataReceived(b"LIST\n")
        self.endpoint.last.accept()
        self.clock.advance(30)
        # The next of the first client's commands begins within the timer's own callback.
        self.assertIn(b"silent", self.wire.taken())
        self.endpoint.last.accept()
        self.clock.advance(30)
        self.assertIn(b"silent", other_wire.taken())

    def test_silence_inside_a_body(self) -> None:
        self.assert_cut_off(b"DOWNLOAD a\n", b"OK 10\nabc")

    def test_silence_inside_a_listing(self) -> None:
        self.assert_cut_off(b"LIST\n", b"OK\nabc\n")

    def assert_cut_off(self, command: bytes, begun: bytes) -> None:
        upstream = self.travelling(command)
        upstream.send(begun)
        self.clock.advance(59.9)
        self.assertTrue(self.wire.open)
        self.clock.advance(0.1)
        self.assertTrue(self.wire.aborted)
        self.assertTrue(upstream.wire.aborted)
        self.assertEqual(len(self.table), 0)
        self.assertEqual(self.wire.taken(), begun)
        self.assertEqual(self.journal.ends, ["timeout"])
        self.journal.line_with("127.0.0.1:9001 timed out")

    def test_each_piece_gives_another_60_seconds(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 5\n")
        for letter in b"hello":
            self.clock.advance(59)
            upstream.send(bytes([letter]))
        self.assertEqual(self.wire.taken(), b"OK 5\nhello")
        self.assertEqual(self.journal.outcomes[0]["duration"], 295)
        self.assert_usable()

    def test_waiting_commands_of_an_aborted_client_are_not_sent(self) -> None:
        self.travelling(b"DOWNLOAD a\nLIST\n").send(b"OK 10\n")
        self.clock.advance(60)
        self.assertEqual(len(self.endpoint.connections), 1)


class EndInsideAReplyTests(ProxyCase):
    def assert_aborted(self, command: bytes, begun: bytes, missing: str) -> None:
        for error in (ConnectionDone(), ConnectionLost()):
            self.protocol, self.wire = self.new_client(43211)
            self.journal.events.clear()
            upstream = self.travelling(command + b"LIST\n")
            upstream.send(begun)
            upstream.die(error)
            self.assertTrue(self.wire.aborted)
            self.assertEqual(self.wire.taken(), begun)
            self.assertEqual(len(self.table), 0)
            self.wire.lose(self.protocol)
            self.assertEqual(self.journal.ends, ["upstream-gone"])
            line = self.journal.line_with("failed inside a reply")
            self.assertIn("127.0.0.1:43211", line)
            self.assertIn("127.0.0.1:9001", line)
            self.assertIn(missing, line)

    def test_end_of_the_body_is_missing(self) -> None:
        self.assert_aborted(b"DOWNLOAD a\n", b"OK 10\nabc", "7 bytes missing")

    def test_whole_body_is_missing(self) -> None:
        self.assert_aborted(b"DOWNLOAD a\n", b"OK 10\n", "10 bytes missing")

    def test_end_of_the_listing_is_missing(self) -> None:
        self.assert_aborted(b"LIST\n", b"OK\na\nEND", "the rest up to END missing")

    def test_end_of_the_upstream_after_the_reply_is_ignored(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 1\na")
        upstream.die(ConnectionLost())
        self.assertEqual(self.wire.taken(), b"OK 1\na")
        self.assertEqual(self.journal.ends, ["completed"])
        self.assert_usable()


class HealthTests(ProxyCase):
    """What counts as a failure of the upstream."""

    def test_client_that_is_gone_is_none(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 9\nabc")
        (member,) = self.factory.resources.upstreams
        upstream.protocol.relay_ended(PeerGone())
        self.assertEqual((member.failures, member.failed_commands, member.active), (0, 0, 0))

    def test_connection_that_is_lost_is_one(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 9\nabc")
        (member,) = self.factory.resources.upstreams
        upstream.die()
        self.assertEqual((member.failures, member.failed_commands, member.active), (1, 1, 0))
