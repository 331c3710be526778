"""The log line of a proxied command: a subscriber of the table."""

from __future__ import annotations

from twisted.internet import error

from natproxy.nat import Event, Failed, Registered, Relaying, Removed
from tests.support.proxies import ProxyCase


class CommandLogTests(ProxyCase):
    def setUp(self) -> None:
        super().setUp()
        self.events: list[Event] = []
        self.factory.table.subscribe(self.events.append)

    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self.events]

    def test_reply_is_three_events_and_one_line(self) -> None:
        self.clock.advance(7)
        upstream = self.travelling(b"GET a%20b offset=3\n")
        self.clock.advance(2)
        upstream.send(b"OK 3 offset=3 size=6 etag=e mtime=1.0\nabc")
        self.assertEqual(self.kinds(), [Registered, Relaying, Removed])
        removed = self.events[-1]
        assert isinstance(removed, Removed)
        sent = len(self.wire.value())
        self.assertEqual((removed.promised, removed.sent), (3, sent))
        self.assertEqual((removed.started_at, removed.monotonic), (7, 9))
        self.assertEqual(
            self.journal.lines(),
            [
                f"127.0.0.1:43210 GET a%20b offset=3: completed, {sent} bytes in 2.000 s"
                ", from port 50000 to 127.0.0.1:9001"
            ],
        )
        (event,) = self.journal.outcomes
        self.assertEqual((event["name"], event["nat_port"]), ("a b", 50_000))
        self.assertEqual(event["upstream"], "127.0.0.1:9001")
        self.assertEqual(event["log_namespace"], "natproxy.proxy.command_log")

    def test_listing_promises_no_size(self) -> None:
        self.travelling().send(b"OK\nEND\n")
        removed = self.events[-1]
        assert isinstance(removed, Removed)
        self.assertIsNone(removed.promised)

    def test_error_in_the_replys_place_counts_as_sent(self) -> None:
        self.travelling(b"STAT a\n").die()
        removed = self.events[-1]
        assert isinstance(removed, Removed)
        self.assertEqual(removed.sent, len(b"ERR 502 empty response from server\n"))
        self.assertEqual(self.journal.ends, ["upstream-gone"])

    def test_command_without_a_connection_is_logged_without_a_route(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.endpoint.last.refuse(error.ConnectionRefusedError())
        self.assertEqual(self.kinds(), [Failed])
        line = self.journal.line_with("LIST: error, ")
        self.assertNotIn("from port", line)
        (event,) = self.journal.outcomes
        self.assertEqual((event["nat_port"], event["upstream"]), (None, None))
        self.assertEqual(event["bytes"], len(self.wire.value()))

    def test_client_that_closes_while_the_proxy_connects(self) -> None:
        self.protocol.dataReceived(b"LIST\n")
        self.wire.lose(self.protocol)
        self.assertTrue(self.endpoint.last.cancelled)
        self.assertEqual(self.kinds(), [Failed])
        self.assertEqual(self.journal.ends, ["client-gone"])

    def test_entry_that_is_cancelled_is_logged_once(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 10\nabc")
        self.wire.lose(self.protocol)
        self.assertTrue(upstream.wire.aborted)
        self.assertEqual(self.kinds(), [Registered, Relaying, Removed])
        self.assertEqual(self.journal.ends, ["client-gone"])

    def test_log_can_be_switched_off(self) -> None:
        self.factory.stop_logging()
        self.travelling().send(b"OK\nEND\n")
        self.assertEqual(self.journal.outcomes, [])
