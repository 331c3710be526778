"""Backpressure in the proxy: a client that reads slowly, a file server that sends slowly."""

from __future__ import annotations

from twisted.internet.error import ConnectionAborted

from tests.support.doubles import Upstream
from tests.support.proxies import ProxyCase


class SlowReaderTests(ProxyCase):
    def relaying(self) -> Upstream:
        upstream = self.travelling(b"DOWNLOAD a\nLIST\n")
        upstream.send(b"OK 10\nabc")
        return upstream

    def test_pauses_the_upstream_until_it_reads_again(self) -> None:
        upstream = self.relaying()
        self.wire.fill()
        self.assertFalse(upstream.wire.read_from)
        self.wire.empty()
        self.assertTrue(upstream.wire.read_from)
        upstream.send(b"defghij")
        self.assertEqual(self.wire.taken(), b"OK 10\nabcdefghij")

    def test_of_a_listing_pauses_the_upstream_too(self) -> None:
        upstream = self.travelling(b"LIST\n")
        upstream.send(b"OK\na\n")
        self.wire.fill()
        self.assertFalse(upstream.wire.read_from)

    def test_does_not_pause_the_upstream_of_another(self) -> None:
        self.relaying()
        self.wire.fill()
        self.protocol, self.wire = self.new_client(43211)
        upstream = self.travelling(b"LIST\n")
        upstream.send(b"OK\na\n")
        self.assertTrue(upstream.wire.read_from)
        upstream.send(b"END\n")
        self.assertEqual(self.wire.taken(), b"OK\na\nEND\n")

    def test_buffer_that_fills_with_the_header_loses_nothing(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        self.wire.fill_when_written_to()
        upstream.send(b"OK 10\nabcdefghij and surplus")
        self.assertEqual(self.wire.taken(), b"OK 10\nabcdefghij")
        self.assertEqual(self.journal.ends, ["completed"])

    def test_next_command_begins_when_the_last_reply_has_been_read(self) -> None:
        upstream = self.relaying()
        self.wire.fill_when_written_to()
        upstream.send(b"defghij")
        self.assertEqual(self.journal.ends, ["completed"])
        self.assertEqual(len(self.endpoint.connections), 1)
        self.wire.empty()
        self.assertEqual(len(self.endpoint.connections), 2)

    def test_is_aborted_after_the_idle_time(self) -> None:
        upstream = self.relaying()
        self.clock.advance(59)
        self.wire.fill()
        self.clock.advance(599.9)
        self.assertTrue(self.wire.open)
        self.clock.advance(0.1)
        self.assertTrue(self.wire.aborted)
        self.assertTrue(upstream.wire.aborted)
        self.assertEqual(len(self.table), 0)
        self.assertEqual(self.journal.ends, ["timeout"])
        self.wire.lose(self.protocol, ConnectionAborted())
        self.assertEqual(self.journal.ends, ["timeout"])

    def test_that_reads_from_time_to_time_is_not_aborted(self) -> None:
        upstream = self.relaying()
        for letter in b"defghij":
            self.wire.fill()
            self.clock.advance(599)
            self.wire.empty()
            upstream.send(bytes([letter]))
        self.assertEqual(self.journal.ends, ["completed"])
        self.assertEqual(self.wire.taken(), b"OK 10\nabcdefghij")

    def test_that_reads_none_of_its_replies_is_aborted(self) -> None:
        self.travelling(b"LIST\n").send(b"OK\nEND\n")
        self.wire.fill()
        self.clock.advance(600)
        self.assertTrue(self.wire.aborted)

    def test_does_not_time_out_the_upstream(self) -> None:
        upstream = self.relaying()
        self.wire.fill()
        for _ in range(9):
            self.clock.advance(60)
        self.assertTrue(upstream.wire.open)
        self.wire.empty()
        self.clock.advance(59.9)
        self.assertTrue(upstream.wire.open)
        upstream.send(b"defghij")
        self.assertEqual(self.journal.ends, ["completed"])

    def test_upstream_that_is_silent_when_it_may_send_again_is_given_up(self) -> None:
        upstream = self.relaying()
        self.wire.fill()
        self.clock.advance(90)
        self.wire.empty()
        self.clock.advance(60)
        self.assertTrue(upstream.wire.aborted)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.journal.ends, ["timeout"])


class IdleTests(ProxyCase):
    def test_silent_client_is_closed_after_600_seconds(self) -> None:
        self.clock.advance(599.9)
        self.assertTrue(self.wire.open)
        self.clock.advance(0.1)
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)
        self.assertEqual(self.wire.taken(), b"")
        self.assertEqual(self.journal.ends, [])

    def test_time_out_restarts_after_each_reply(self) -> None:
        for _ in range(3):
            self.clock.advance(599)
            self.assert_usable()
        self.clock.advance(599.9)
        self.assertTrue(self.wire.open)
        self.clock.advance(0.1)
        self.assertFalse(self.wire.open)


class SlowUpstreamTests(ProxyCase):
    options = {"idle_timeout": 10.0}

    def test_slow_server_does_not_make_the_client_idle(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        for piece in (b"OK 4\n", b"a", b"b", b"c"):
            self.clock.pump([9] * 6)
            upstream.send(piece)
        self.assertTrue(self.wire.open)
        self.clock.pump([9] * 6)
        upstream.send(b"d")
        self.assertEqual(self.wire.taken(), b"OK 4\nabcd")
        self.clock.advance(9.9)
        self.assertTrue(self.wire.open)
        self.clock.advance(0.1)
        self.assertFalse(self.wire.open)

    def test_server_that_hangs_does_not_make_the_client_idle(self) -> None:
        self.travelling()
        self.clock.pump([1] * 60)
        self.assertIn(b"silent for 60 s", self.wire.taken())
        self.assertTrue(self.wire.open)
