from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.control.daemon import Daemon, LostEvents
from natproxy.client.errors import (
    ClientError,
    ConnectionBroken,
    InvalidQuery,
    NotUnderstood,
    ServerError,
    Unavailable,
    Unsupported,
)
from natproxy.records.record import Record
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, Gap, WhoisQuery, WhoisReply
from tests.support.control_server import ControlServer, Request, chunked, document, lines, whole

SECOND = 1_000_000
ENTRY = Record(
    proxy="proxy-9000",
    serial=7,
    started=1_764_000_000 * SECOND + 5,
    client="10.0.0.1",
    nat_port=40123,
    verb="GET",
    name="a%20b",
    state="relaying",
)


class DaemonTests(SynchronousTestCase):
    def serve(self, reply: Callable[[Request], Iterable[bytes]]) -> Daemon:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.server = ControlServer(Path(os.path.relpath(directory / "a.sock")), reply)
        self.addCleanup(self.server.close)
        return Daemon(self.server.path)

    def replies(self, pieces: Iterable[bytes]) -> Daemon:
        pieces = list(pieces)
        return self.serve(lambda _: pieces)

    def sent(self) -> Request:
        (request,) = self.server.requests
        return request

    def test_table_is_yielded_as_it_arrives(self) -> None:
        text = json.dumps([ENTRY.json(), ENTRY._replace(serial=8).json()]).encode()
        daemon = self.replies(chunked([text[:100], text[100:]]))
        found = list(daemon.table("verb GET and name 'a b'", limit=5))
        self.assertEqual(found, [ENTRY, ENTRY._replace(serial=8)])
        expected = {"filter": "verb GET and name 'a b'", "limit": "5"}
        self.assertEqual(self.sent(), Request("GET", "/v1/table", expected, b""))

    def test_table_that_ends_too_early_is_an_error(self) -> None:
        for text in (b"", b"[", b'[{"serial": 1}', b'[{"serial": 1},', b"[1]", b'[{"started": 5}]'):
            with self.assertRaises(NotUnderstood, msg=text):
                list(self.replies(whole(text)).table())
        with self.assertRaises(ConnectionBroken):
            list(self.replies(list(chunked([b"["]))[:-1]).table())

    def test_events_have_what_was_lost(self) -> None:
        lost = {"event": "lost", "worker": 0, "boot": "b", "from": 3, "to": 9}
        event = ENTRY._replace(event="registered", time=ENTRY.started, seq=10)
        daemon = self.replies(lines([lost, event.json()]))
        found = list(daemon.events(after="0:2", last=9, follow=True))
        self.assertEqual(found, [LostEvents(0, "b", 3, 9), event])
        self.assertEqual(self.sent().query, {"after": "0:2", "last": "9", "follow": "1"})

    def test_history_has_times_in_iso(self) -> None:
        daemon = self.replies(lines([ENTRY.json()]))
        self.assertEqual(list(daemon.history(since=0, until=SECOND)), [ENTRY])
        expected = {
            "since": "1970-01-01T00:00:00.000000Z",
            "until": "1970-01-01T00:00:01.000000Z",
        }
        self.assertEqual(self.sent().query, expected)

    def test_whois_returns_what_was_sent(self) -> None:
        for expected in (
            WhoisReply(FOUND, (ENTRY, ENTRY)),
            WhoisReply(NOBODY, last=ENTRY),
            WhoisReply(UNKNOWN, gap=Gap(SECOND, None, "the daemon was killed")),
            WhoisReply(UNKNOWN, gap=Gap(None, SECOND, "no journal")),
        ):
            daemon = self.replies(document(expected.json()))
            found = daemon.whois(WhoisQuery(40123, None, "10.1.1.1:9001", 0, SECOND))
            self.assertEqual(found, expected)
            self.assertEqual(self.sent().query["upstream"], "10.1.1.1:9001")

    def test_several_ports_are_one_request(self) -> None:
        expected = [WhoisReply(FOUND, (ENTRY,)), WhoisReply(NOBODY)]
        daemon = self.replies(lines(each.json() for each in expected))
        self.assertEqual(list(daemon.whois_each([WhoisQuery(1), WhoisQuery(2, since=0)])), expected)
        request = self.sent()
        self.assertEqual((request.method, request.path), ("POST", "/v1/whois"))
        self.assertEqual(
            list(map(json.loads, request.body.splitlines())),
            [{"port": 1}, {"port": 2, "since": "1970-01-01T00:00:00.000000Z"}],
        )

    def test_kill_returns_what_existed(self) -> None:
        daemon = self.replies(document({"translations": [ENTRY.json()]}))
        self.assertEqual(daemon.kill(serial=7), [ENTRY])
        self.assertEqual(json.loads(self.sent().body), {"serial": 7})
        daemon = self.replies(document({"translations": []}))
        self.assertEqual(daemon.kill(filter="verb GET", dry_run=True), [])
        self.assertEqual(json.loads(self.sent().body), {"filter": "verb GET", "dry_run": True})

    def test_drain_is_a_request_with_a_body(self) -> None:
        daemon = self.replies(document({"draining": True}))
        self.assertEqual(daemon.drain(), {"draining": True})
        self.assertEqual(self.sent(), Request("POST", "/v1/drain", {}, b"{}"))

    def test_reload_returns_what_has_changed_or_is_wrong(self) -> None:
        for status in ("200 OK", "422 Unprocessable Content"):
            daemon = self.replies(document({"errors": []}, status))
            self.assertEqual(daemon.reload(), {"errors": []})
            self.assertEqual(self.sent(), Request("POST", "/v1/reload", {}, b'{"dry_run": false}'))
        daemon = self.replies(document({"errors": []}))
        daemon.reload(dry_run=True)
        self.assertEqual(json.loads(self.sent().body), {"dry_run": True})
        daemon = self.replies(document({"error": "x"}, "404 Not Found"))
        self.assertIn("has no /v1/reload", str(self.assertRaises(Unsupported, daemon.reload)))

    def test_status_of_an_error_selects_the_kind(self) -> None:
        cases: list[tuple[str, type[ClientError]]] = [
            ("404 Not Found", Unsupported),
            ("405 Method Not Allowed", Unsupported),
            ("409 Conflict", ServerError),
            ("503 Service Unavailable", Unavailable),
        ]
        for status, kind in cases:
            daemon = self.replies(document({"error": "one sentence"}, status))
            reason = "has no /v1/status" if kind is Unsupported else "^one sentence$"
            with self.assertRaisesRegex(kind, reason) as caught:
                daemon.status()
            self.assertEqual(getattr(caught.exception, "code", None), int(status[:3]))

    def test_invalid_filter_has_its_position(self) -> None:
        for position in (4, None):
            error = {"error": "no such member", "position": position}
            daemon = self.replies(document(error, "400 Bad Request"))
            with self.assertRaises(InvalidQuery) as caught:
                list(daemon.history("x"))
            self.assertEqual(caught.exception.position, position)

    def test_error_that_is_not_json_names_the_status(self) -> None:
        for body in (b"<html>", b"[]", b"{}", b"\xff"):
            with self.assertRaisesRegex(ServerError, "replied with the status 500"):
                self.replies(whole(body, "500 Internal Server Error")).status()

    def test_text_of_an_error_is_printable(self) -> None:
        error = {"error": "a\x1b[2J\nb"}
        with self.assertRaisesRegex(ServerError, r"^a\\x1b\[2J\\x0ab$"):
            self.replies(document(error, "409 Conflict")).status()

    def test_too_many_levels_are_an_error(self) -> None:
        deep = b"[" * 100_000
        for call in (Daemon.status, lambda daemon: list(daemon.table())):
            with self.assertRaises(NotUnderstood):
                call(self.replies(whole(b'[{"a":' + deep)))
        with self.assertRaisesRegex(ServerError, "status 500"):
            self.replies(whole(deep[:50_000], "500 X")).status()

    def test_numbers_of_lost_events_are_numbers(self) -> None:
        for first, last in (("1", 2), (1, "2"), (None, None), (True, 1), (2, 1)):
            lost = {"event": "lost", "worker": 0, "boot": "b", "from": first, "to": last}
            with self.assertRaises(NotUnderstood):
                list(self.replies(lines([lost])).events())

    def test_malformed_documents_are_an_error(self) -> None:
        for body in (b"", b"[]", b"{", b"\xff"):
            with self.assertRaises(NotUnderstood, msg=body):
                self.replies(whole(body)).whois(WhoisQuery(1))
        for members in ({}, {"result": "found", "translations": None}, {"translations": []}):
            with self.assertRaises(NotUnderstood):
                self.replies(document(members)).whois(WhoisQuery(1))
        for found in ({}, {"translations": 5}, {"translations": [5]}):
            with self.assertRaises(NotUnderstood):
                self.replies(document(found)).kill(1)
