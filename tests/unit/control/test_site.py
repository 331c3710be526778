"""The server of HTTP: requests that come faster than they are replied to, or are not read."""

from __future__ import annotations

from natproxy.control.site import EARLY, TIMEOUT, TURN
from tests.support.control_resources import ControlCase, HTTPClient, run_turn

STATUS = b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n"
FOLLOW = b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: a\r\n\r\n"


class TurnTests(ControlCase):
    def setUp(self) -> None:
        super().setUp()
        self.replies = 0
        self.observed.status = self.status

    def status(self) -> dict[str, object]:
        """Reply in some of the time of a turn."""
        self.replies += 1
        self.clock.rightNow += TURN * 0.4
        return {}

    def test_turn_is_bounded_however_many_requests_come_at_once(self) -> None:
        client = self.connect()
        client.send(STATUS * 100)
        self.assertEqual(self.replies, 1)
        while self.replies < 100:
            before = self.replies
            run_turn(self.clock)
            self.assertIn(self.replies - before, range(1, 4))
        self.assertEqual(client.transport.value().count(b"HTTP/1.1 200 OK"), 100)

    def test_clients_are_replied_to_in_succession(self) -> None:
        first, second = self.connect(), self.connect()
        first.send(STATUS * 100)
        second.send(STATUS)
        run_turn(self.clock)
        self.assertTrue(second.received().complete)

    def test_client_that_is_gone_is_not_replied_to(self) -> None:
        client = self.connect()
        client.send(STATUS * 2)
        client.disconnect()
        self.turns()
        self.assertEqual(self.replies, 1)

    def test_single_request_is_replied_to_at_once(self) -> None:
        client = self.connect()
        client.send(STATUS)
        self.assertTrue(client.received().complete)


class UnreadTests(ControlCase):
    def assert_connected(self, client: HTTPClient, connected: bool = True) -> None:
        self.assertEqual(client.connected, connected)

    def test_requests_wait_until_the_responses_before_them_are_read(self) -> None:
        client = self.connect()
        client.send(STATUS * 10)
        client.pause()
        self.turns()
        held = client.transport.value().count(b"HTTP/1.1 200 OK")
        self.assertLessEqual(held, 2)
        client.resume()
        self.turns()
        self.assertEqual(client.transport.value().count(b"HTTP/1.1 200 OK"), 10)

    def test_client_that_never_reads_is_disconnected(self) -> None:
        client = self.connect()
        client.pause()
        client.send(STATUS * 2)
        self.turns()
        self.assertEqual(client.transport.value(), b"")
        self.clock.advance(TIMEOUT)
        self.assertTrue(client.transport.disconnecting)

    def test_time_out_ends_when_the_client_reads(self) -> None:
        client = self.connect()
        client.pause()
        client.send(FOLLOW)
        client.resume()
        self.turns()
        self.clock.advance(TIMEOUT * 2)
        self.assertFalse(client.transport.disconnecting)
        self.assert_connected(client)

    def test_bytes_behind_an_unread_response_are_limited(self) -> None:
        client = self.connect()
        client.send(FOLLOW)
        self.turns()
        client.pause()
        for _ in range(EARLY // 1024):
            client.send(b"x" * 1024)
        self.assert_connected(client)
        client.send(b"x")
        self.assert_connected(client, False)

    def test_limit_begins_anew_with_each_response(self) -> None:
        client = self.connect()
        for _ in range(5):
            # The next requests, of which no more than two are pending.
            client.send((STATUS + b"x: " + b"y" * 9000 + b"\r\n").replace(b"a\r\n\r\n", b"a\r\n"))
            client.send(b"\r\n")
            self.turns()
        self.assert_connected(client)
        self.assertEqual(client.transport.value().count(b"HTTP/1.1 200 OK"), 5)

    def test_nothing_behind_a_malformed_request_is_parsed(self) -> None:
        client = self.connect()
        client.send(b"GET / HTTP/1.1\r\nbad\r\n\r\n" + b"\r\n" * 100 + STATUS)
        self.turns()
        self.assertEqual(client.transport.value(), b"HTTP/1.1 400 Bad Request\r\n\r\n")
