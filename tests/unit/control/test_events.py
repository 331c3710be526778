"""Watchers: where they begin, what they lose, and what they cost while they do not read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import succeed

from natproxy.control.events import EVENT_STREAM
from natproxy.control.site import control_site
from natproxy.control.watchers import HEARTBEAT, INTERVAL
from natproxy.records.event_rows import Row
from natproxy.records.queries import EventsQuery
from natproxy.records.record import Record
from tests.support.control_resources import ORIGIN, ControlCase, HTTPClient, Response

MINUTE = 60_000_000
BROWSER = f"Accept: {EVENT_STREAM}\r\n"


class EventsCase(ControlCase):
    size = 100

    def seqs(self, target: str) -> list[int]:
        return [line["seq"] for line in self.get(target).lines]

    def new(self, client: HTTPClient) -> list[Any]:
        """Return the lines that a watcher has received since the last call."""
        self.clock.advance(INTERVAL)
        self.turns()
        data = client.transport.value()
        client.transport.clear()
        lines: list[Any] = []
        if data:
            if not data.startswith(b"HTTP"):
                data = b"HTTP/1.1 200 OK\r\n\r\n" + data
            lines = Response(0, {}, b"", b"", False)._replace(body=_body(data)).lines
        return lines


def _body(data: bytes) -> bytes:
    from tests.support.control_resources import parse_response

    return parse_response(data).body


class ReadingTests(EventsCase):
    def test_all_events_of_the_ring(self) -> None:
        self.execute()
        self.assertEqual(self.seqs("/v1/events"), [1, 2, 3])
        events = [line["event"] for line in self.get("/v1/events").lines]
        self.assertEqual(events, ["registered", "relaying", "removed"])

    def test_empty_ring_ends_at_once(self) -> None:
        self.assertEqual(self.seqs("/v1/events"), [])

    def test_only_what_the_ring_had_at_the_request(self) -> None:
        for _ in range(30):
            self.execute()
        client = self.connect()
        client.send(b"GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n")
        client.pause()
        self.execute()
        client.resume()
        self.turns()
        self.assertEqual(client.received().lines[-1]["seq"], 90)

    def test_after_last_and_filter(self) -> None:
        for _ in range(5):
            self.execute(b"GET a")
            self.execute(b"LIST")
        self.assertEqual(self.seqs("/v1/events?after=0:28"), [29, 30])
        self.assertEqual(self.seqs("/v1/events?after=0:30"), [])
        self.assertEqual(self.seqs("/v1/events?last=2"), [29, 30])
        self.assertEqual(self.seqs("/v1/events?last=500"), list(range(1, 31)))
        self.assertEqual(self.seqs("/v1/events?last=4&filter=verb+GET"), [21, 25, 26, 27])
        self.assertEqual(self.seqs("/v1/events?after=0:21&filter=verb+GET"), [25, 26, 27])

    def test_interval_of_time(self) -> None:
        for _ in range(4):
            self.execute()
            self.clock.advance(1)
        target = "/v1/events?since=2023-11-14T22:13:21Z&until=2023-11-14T22:13:23Z"
        self.assertEqual(self.seqs(target), [4, 5, 6, 7, 8, 9])

    def test_what_the_ring_no_longer_has_is_lost(self) -> None:
        for _ in range(40):
            self.execute()
        lost = {"event": "lost", "proxy": "proxy-9000", "worker": 0, "boot": "0123abcd"}
        first, *rest = self.get("/v1/events?after=0:5").lines
        self.assertEqual(first, {**lost, "from": 6, "to": 20})
        self.assertEqual([line["seq"] for line in rest], list(range(21, 121)))
        first, *rest = self.get("/v1/events?since=2023-11-14T22:13:20Z").lines
        self.assertEqual(first, {**lost, "from": 1, "to": 20})
        # Without a beginning, nothing is missing.
        self.assertEqual(self.get("/v1/events").lines[0]["seq"], 21)

    def test_other_run_of_the_daemon_is_never_mixed_in(self) -> None:
        self.execute()
        for query, boot in (
            ("after=0:7&boot=ffff", "ffff"),
            ("after=0:7:ffff", "ffff"),
            ("after=0:7", None),
        ):
            lost, *rest = self.get(f"/v1/events?{query}").lines
            self.assertEqual((lost["event"], lost["boot"]), ("lost", boot))
            self.assertEqual((lost["from"], lost["to"]), (8, None))
            self.assertEqual([line["seq"] for line in rest], [1, 2, 3])
        self.assertEqual(self.seqs("/v1/events?after=0:2:0123abcd"), [3])


class FollowingTests(EventsCase):
    def test_follows_from_now(self) -> None:
        self.execute()
        client = self.request("/v1/events?follow=1")
        self.assertEqual(self.new(client), [])
        self.execute()
        self.assertEqual(client.transport.value(), b"")
        self.assertEqual([line["seq"] for line in self.new(client)], [4, 5, 6])
        self.execute()
        self.assertEqual([line["seq"] for line in self.new(client)], [7, 8, 9])

    def test_watchers_are_counted_while_they_are_connected(self) -> None:
        self.execute()
        clients = [self.request("/v1/events?follow=1") for _ in range(3)]
        self.new(clients[0])
        self.assertEqual(self.ring.watchers, 3)
        clients[0].disconnect()
        self.turns()
        self.get("/v1/events?last=1")
        self.assertEqual(self.ring.watchers, 2)

    def test_filter_and_last(self) -> None:
        self.execute()
        client = self.request("/v1/events?follow=1&last=1&filter=verb+GET")
        self.execute(b"LIST")
        self.execute()
        self.assertEqual([line["seq"] for line in self.new(client)], [3, 7, 8, 9])

    def test_slow_watcher_learns_once_what_it_lost(self) -> None:
        client = self.request("/v1/events?follow=1")
        client.pause()
        for _ in range(100):
            self.execute()
        self.assertEqual(self.new(client), [])
        client.resume()
        lost, *rest = self.new(client)
        self.assertEqual((lost["event"], lost["from"], lost["to"]), ("lost", 1, 200))
        self.assertEqual([line["seq"] for line in rest], list(range(201, 301)))
        self.execute()
        self.assertEqual([line["seq"] for line in self.new(client)], [301, 302, 303])

    def test_paused_watchers_cost_nothing(self) -> None:
        clients = [self.request("/v1/events?follow=1") for _ in range(50)]
        for client in clients:
            client.pause()
        self.execute()
        self.clock.advance(INTERVAL)
        self.turns()
        # They have noticed that they are paused; from now on nothing is scheduled for them.
        self.assertEqual((self.clock.calls, self.ring._waiting), ([], []))
        self.execute()
        self.assertEqual((self.clock.calls, self.ring._waiting), ([], []))

    def test_event_is_encoded_once_for_50_watchers(self) -> None:
        clients = [self.request("/v1/events?follow=1") for _ in range(50)]
        encoded: list[int] = []
        assert self.context.watchers is not None
        lines: Any = self.context.watchers.lines
        encode = lines._encoded

        def counted(row: Row) -> bytes:
            encoded.append(row[0])
            return bytes(encode(row))

        lines._encoded = counted
        self.execute()
        for client in clients:
            self.assertEqual([line["seq"] for line in self.new(client)], [1, 2, 3])
        self.assertEqual(encoded, [1, 2, 3])

    def due(self) -> list[Any]:
        """Return the calls that are due when watchers are woken."""
        end = self.clock.seconds() + INTERVAL
        return [call for call in self.clock.calls if call.getTime() <= end]

    def test_watchers_of_all_sites_wake_together(self) -> None:
        clients = [self.request("/v1/events?follow=1")]
        self.site = control_site(self.context)
        clients.append(self.request("/v1/events?follow=1"))
        self.execute()
        self.assertEqual(len(self.due()), 1)
        for client in clients:
            self.assertEqual([line["seq"] for line in self.new(client)], [1, 2, 3])

    def test_events_of_one_interval_wake_once(self) -> None:
        client = self.request("/v1/events?follow=1")
        for _ in range(20):
            self.execute()
        self.assertEqual(len(self.due()), 1)
        self.assertEqual(len(self.new(client)), 60)

    def test_watcher_that_is_gone_is_released(self) -> None:
        clients = [self.request("/v1/events?follow=1") for _ in range(3)]
        self.execute()
        clients[0].pause()
        for client in clients:
            client.disconnect()
        self.turns()
        self.assertEqual((self.clock.calls, self.ring._waiting), ([], []))
        self.assertEqual(self.context.jobs.streams, 0)

    def test_watchers_that_are_gone_before_an_event_are_released(self) -> None:
        for client in [self.request("/v1/events?follow=1") for _ in range(3)]:
            client.disconnect()
        self.turns()
        self.assertEqual((self.clock.calls, self.ring._waiting), ([], []))


class BrowserTests(EventsCase):
    def test_events_have_their_identity(self) -> None:
        self.execute()
        client = self.request("/v1/events?follow=1&last=1", headers=BROWSER)
        response = client.received()
        self.assertEqual(response.headers["content-type"], EVENT_STREAM)
        first, second, end = response.body.split(b"\n", 2)
        self.assertEqual((first, end), (b"id: 0:3:0123abcd", b"\n"))
        self.assertTrue(second.startswith(b'data: {"event":"removed"'))

    def test_browser_that_comes_back_resumes(self) -> None:
        for _ in range(2):
            self.execute()
        headers = BROWSER + "Last-Event-ID: 0:5:0123abcd\r\n"
        body = self.request("/v1/events?follow=1", headers=headers).received().body
        self.assertEqual(body.count(b"id: "), 1)
        self.assertIn(b"id: 0:6:", body)

    def test_browser_of_another_run_begins_anew(self) -> None:
        self.execute()
        headers = BROWSER + "Last-Event-ID: 0:2:ffff\r\n"
        body = self.request("/v1/events?follow=1", headers=headers).received().body
        self.assertIn(b'data: {"event":"lost"', body)
        self.assertEqual(body.count(b"id: "), 3)

    def test_malformed_identity_is_ignored(self) -> None:
        headers = BROWSER + "Last-Event-ID: <script>\r\n"
        response = self.request("/v1/events?follow=1", headers=headers).received()
        self.assertEqual((response.status, response.body), (200, b""))

    def test_heartbeat_shows_a_dead_peer(self) -> None:
        client = self.request("/v1/events?follow=1", headers=BROWSER)
        lines = self.request("/v1/events?follow=1")
        for _ in range(3):
            client.transport.clear()
            lines.transport.clear()
            self.clock.advance(HEARTBEAT)
            self.turns()
            self.assertEqual(client.transport.value(), b"3\r\n:\n\n\r\n")
            self.assertEqual(lines.transport.value(), b"")


class JournalTests(EventsCase):
    """What the ring no longer has comes from the history, if it is one of a journal."""

    def setUp(self) -> None:
        super().setUp()
        self.queries: list[EventsQuery] = []
        self.closed = 0
        self.meanwhile = 0
        self.observed.history = self  # type: ignore[assignment]

    def events(self, query: EventsQuery) -> Any:
        self.queries.append(query)
        first, last = (query.after or 0) + 1, query.before or 0
        try:
            for number in range(first, last, 10):
                if self.meanwhile:
                    self.meanwhile -= 1
                    self.execute()
                page = range(number, min(last, number + 10))
                yield succeed([Record("removed", 1, *ORIGIN, seq) for seq in page])
            yield succeed([])
        finally:
            self.closed += 1

    def test_nothing_is_missing_between_journal_and_ring(self) -> None:
        for _ in range(40):
            self.execute()
        self.assertEqual(self.seqs("/v1/events?after=0:5"), list(range(6, 121)))
        self.assertEqual(self.queries, [EventsQuery("", None, None, 5, 21, ORIGIN.boot)])
        self.assertEqual(self.closed, 1)

    def test_journal_is_not_read_if_the_ring_has_everything(self) -> None:
        for _ in range(40):
            self.execute()
        self.assertEqual(self.seqs("/v1/events?after=0:20"), list(range(21, 121)))
        self.assertEqual(self.seqs("/v1/events?last=3"), [118, 119, 120])
        self.assertEqual(self.queries, [])

    def test_ring_that_is_faster_is_caught_up_with(self) -> None:
        for _ in range(40):
            self.execute()
        self.meanwhile = 4
        client = self.request("/v1/events?after=0:0&follow=1")
        seqs = [line["seq"] for line in client.received().lines]
        self.assertEqual(seqs, list(range(1, len(seqs) + 1)))
        self.assertGreater(len(self.queries), 1)

    def test_gap_of_the_journal_is_lost(self) -> None:
        for _ in range(40):
            self.execute()
        gap = Record("lost", 1, *ORIGIN, 8, reason="events 3 to 8 are not in the journal")
        events = self.events

        def with_gap(query: EventsQuery) -> Any:
            yield succeed([Record("removed", 1, *ORIGIN, 2), gap])
            yield from events(replace(query, after=8))

        self.events = with_gap  # type: ignore[method-assign]
        first, lost, *rest = self.get("/v1/events?after=0:1").lines
        self.assertEqual((first["seq"], lost["from"], lost["to"]), (2, 3, 8))
        self.assertEqual([line["seq"] for line in rest], list(range(9, 121)))

    def test_gap_of_events_that_were_sent_is_not_turned_round(self) -> None:
        for _ in range(40):
            self.execute()
        gap = Record("lost", 1, *ORIGIN, 5)
        self.events = lambda query: iter_pages([gap])  # type: ignore[method-assign]
        lost = self.get("/v1/events?after=0:9").lines[0]
        self.assertEqual((lost["from"], lost["to"]), (5, 5))

    def test_events_of_an_earlier_run_have_no_identity_for_a_browser(self) -> None:
        for _ in range(40):
            self.execute()
        old = Record("removed", 1, "proxy-9000", 0, "ffff", 700)
        new = Record("removed", 1, *ORIGIN, 20)
        self.events = lambda query: iter_pages([old, new])  # type: ignore[method-assign]
        target = "/v1/events?since=2023-11-14T22:13:20Z"
        body = self.request(target, headers=BROWSER).received().body
        first, second, _ = body.split(b"\n\n", 2)
        self.assertTrue(first.startswith(b'data: {"event":"removed"'), first)
        self.assertTrue(second.startswith(b"id: 0:20:0123abcd\ndata: "), second)

    def test_filter_and_time_are_passed_on(self) -> None:
        for _ in range(40):
            self.execute()
        self.get("/v1/events?since=2023-11-14T22:13:20Z&filter=verb+GET")
        (query,) = self.queries
        self.assertEqual((query.filter, query.since), ("verb = GET", 1_700_000_000_000_000))
        self.assertEqual((query.after, query.before), (None, 21))

    def test_search_ends_with_its_client(self) -> None:
        for _ in range(40):
            self.execute()
        client = self.connect()
        client.send(b"GET /v1/events?after=0:0 HTTP/1.1\r\nHost: a\r\n\r\n")
        client.disconnect()
        self.turns()
        self.assertEqual(self.closed, len(self.queries))
        self.assertEqual(self.clock.calls, [])


def iter_pages(records: list[Record]) -> Any:
    """Yield the pages of a search that finds these records."""
    yield succeed(records)
    yield succeed([])


class NewestTests(EventsCase):
    """The newest events, if the ring has fewer than that, as after a start of the daemon."""

    def setUp(self) -> None:
        super().setUp()
        self.queries: list[EventsQuery] = []
        self.observed.history = self  # type: ignore[assignment]
        # Another run had an event each minute, until an hour before this one.
        now = 1_700_000_000_000_000
        self.past = [
            Record("removed", now - (160 - seq) * MINUTE, "proxy-9000", 0, "ffff", seq, client="a")
            for seq in range(1, 101)
        ]

    def events(self, query: EventsQuery) -> Any:
        self.queries.append(query)
        since, until = query.since or 0, query.until or 1 << 62
        found = [record for record in self.past if since <= (record.time or 0) < until]
        yield succeed(found[:7])
        yield succeed(found[7:])
        yield succeed([])

    def found(self, target: str) -> list[tuple[str, int]]:
        return [(line["boot"], line["seq"]) for line in self.get(target).lines]

    def test_older_ones_are_those_of_the_journal(self) -> None:
        self.execute()
        ours = [("0123abcd", seq) for seq in (1, 2, 3)]
        expected = [("ffff", 98), ("ffff", 99), ("ffff", 100), *ours]
        self.assertEqual(self.found("/v1/events?last=6"), expected)
        self.assertEqual(self.found("/v1/events?last=3"), expected[3:])
        self.assertEqual(len(self.found("/v1/events?last=1000")), 103)

    def test_end_of_an_interval_is_where_they_are_counted_from(self) -> None:
        self.execute()
        self.assertEqual(
            self.found("/v1/events?last=2&until=2023-11-14T20:00:00Z"), [("ffff", 25), ("ffff", 26)]
        )
        self.assertEqual(
            self.found("/v1/events?last=9&since=2023-11-14T19:58:00Z&until=2023-11-14T20:00:00Z"),
            [("ffff", 25), ("ffff", 26)],
        )

    def test_old_part_of_the_journal_is_not_read(self) -> None:
        self.get("/v1/events?last=5")
        self.assertGreater(min(query.since or 0 for query in self.queries), 1_690_000_000_000_000)

    def test_missing_events_of_the_journal_are_no_events(self) -> None:
        lost = Record("lost", self.past[98].time, "proxy-9000", 0, "ffff", 99, reason="gap")
        self.past[98] = lost
        self.assertEqual([seq for _, seq in self.found_events("/v1/events?last=2")], [98, 100])

    def found_events(self, target: str) -> list[tuple[str, int]]:
        lines = [line for line in self.get(target).lines if line["event"] != "lost"]
        return [(line["boot"], line["seq"]) for line in lines]

    def test_to_follow_the_journal_is_not_searched(self) -> None:
        self.execute()
        self.request("/v1/events?last=6&follow=1")
        self.assertEqual(self.queries, [])
