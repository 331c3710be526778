"""The events of several workers as one stream."""

from __future__ import annotations

import json
from typing import Any

from natproxy.control.merged.follower import PATIENCE, place_of
from natproxy.control.merged.lines import SILENT as CHECKED
from natproxy.control.parameters import Place
from tests.support.control_resources import HTTPClient
from tests.support.merged import SILENT, FakeWorker, MergedCase, time_text


class EventsCase(MergedCase):
    def setUp(self) -> None:
        super().setUp()
        self.each("/v1/events", [], [])
        self.each(
            "/v1/status",
            *(
                {"boot": worker.boot, "ring": {"first": 1, "next": 5}, "worker": worker.number}
                for worker in self.workers
            ),
        )

    def seqs(self, client: HTTPClient) -> list[tuple[int, Any]]:
        """Return worker and number of each event that a client has received."""
        lines = client.received().lines
        return [(each["worker"], each.get("seq", each["event"])) for each in lines]

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.turns()

    def send(self, number: int, seconds: float, seq: int) -> None:
        worker = self.workers[number]
        worker.send(worker.streams["/v1/events"], worker.event(seconds, seq))
        self.turns()

    def targets(self, number: int) -> list[str]:
        calls = self.workers[number].calls
        return [each.target for each in calls if each.path == "/v1/events"]


class PastTests(EventsCase):
    def test_events_are_in_the_order_of_their_times(self) -> None:
        first, second = self.workers
        self.each(
            "/v1/events",
            [first.event(1, 1), first.event(4, 2)],
            [second.event(2, 1), second.event(3, 2)],
        )
        client = self.request("/v1/events?since=2001-01-01")
        self.assertEqual(self.seqs(client), [(0, 1), (1, 1), (1, 2), (0, 2)])
        self.assertEqual(self.targets(0), ["/v1/events?since=2001-01-01T00%3A00%3A00.000000Z"])

    def test_last_ones_of_all(self) -> None:
        first, second = self.workers
        self.each("/v1/events", [first.event(1, 1), first.event(4, 2)], [second.event(2, 1)])
        client = self.request("/v1/events?last=2")
        self.assertEqual(self.seqs(client), [(1, 1), (0, 2)])

    def test_places_of_several_workers(self) -> None:
        self.get("/v1/events?after=0:5,1:7:b")
        self.assertEqual(self.targets(0), ["/v1/events?after=0%3A5"])
        self.assertEqual(self.targets(1), ["/v1/events?after=1%3A7%3Ab"])
        for wrong in ("0:5,0:6", "0:5,", "0", "0:5;1:7"):
            self.assertEqual(self.get(f"/v1/events?after={wrong}").status, 400, wrong)

    def test_worker_that_does_not_reply_is_named(self) -> None:
        self.each("/v1/events", [self.workers[0].event(1, 1)], [])
        self.workers[1].hangs = True
        response = self.get("/v1/events")
        self.assertEqual(self.missing(response), [1])
        self.assertEqual(len(response.lines), 1)

    def test_parameters_that_exclude_each_other(self) -> None:
        for query in ("after=0:1&last=2", "follow=1&until=2099-01-01", "last=1000000"):
            self.assertEqual(self.get(f"/v1/events?{query}").status, 400, query)


class FollowTests(EventsCase):
    def follow(self, query: str = "", headers: str = "") -> HTTPClient:
        client = self.request(f"/v1/events?follow=1{query}", headers=headers)
        self.turns()
        return client

    def test_new_events_of_all_workers(self) -> None:
        client = self.follow("&filter=verb%20GET")
        self.assertEqual(self.targets(1), ["/v1/events?filter=verb%20%3D%20GET&follow=1"])
        self.send(0, 1, 1)
        # An earlier one of the other worker may follow.
        self.assertEqual(self.seqs(client), [])
        self.pass_(PATIENCE)
        self.assertEqual(self.seqs(client), [(0, 1)])
        self.send(1, 3, 1)
        self.send(0, 2, 2)
        self.assertEqual(self.seqs(client)[1:2], [(0, 2)])
        self.pass_(PATIENCE)
        self.assertEqual(self.seqs(client), [(0, 1), (0, 2), (1, 1)])

    def test_last_ones_then_new_ones(self) -> None:
        first, second = self.workers
        past = [first.event(-2, 3), first.event(-1, 4)], [second.event(-3, 4)]
        for worker, lines in zip(self.workers, past, strict=True):
            worker.replies["/v1/events"] = lambda call, lines=lines: (
                [] if "follow" in call.target else lines
            )
        client = self.follow("&last=2")
        self.assertEqual(self.seqs(client), [(0, 3), (0, 4)])
        self.assertEqual(self.targets(1)[-1], "/v1/events?after=1%3A4%3Aboot1&follow=1")
        self.send(1, 1, 5)
        self.pass_(PATIENCE)
        self.assertEqual(self.seqs(client)[2:], [(1, 5)])

    def test_worker_that_hangs_is_reported_once_and_continued(self) -> None:
        client = self.follow()
        self.send(1, 1, 8)
        self.pass_(PATIENCE)
        self.workers[1].hangs = True
        for _ in range(5):
            self.pass_(CHECKED)
        lines = client.received().lines
        self.assertEqual([each["event"] for each in lines], ["registered", "missing"])
        self.assertEqual((lines[1]["worker"], lines[1]["reason"]), (1, SILENT))
        self.send(0, 2, 1)
        self.pass_(PATIENCE)
        self.workers[1].hangs = False
        self.pass_(CHECKED)
        self.assertEqual(self.targets(1)[-1], "/v1/events?after=1%3A8%3Aboot1&follow=1")
        self.send(1, 30, 9)
        self.pass_(PATIENCE)
        self.assertEqual(self.seqs(client), [(1, 8), (1, "missing"), (0, 1), (1, 9)])

    def test_worker_that_was_not_there_at_first(self) -> None:
        self.workers[1].hangs = True
        client = self.follow()
        self.assertEqual(self.seqs(client), [(1, "missing")])
        self.workers[1].hangs = False
        self.pass_(CHECKED)
        since = time_text(0).replace(":", "%3A")
        self.assertEqual(self.targets(1)[-1], f"/v1/events?since={since}&follow=1")

    def test_all_events_of_a_new_process(self) -> None:
        self.follow()
        new = FakeWorker(self.clock, 1, "next")
        new.path = new.control = "/run/a.w1.1.sock"
        new.replies["/v1/events"] = []
        self.workers.append(new)
        self.pass_(1)
        self.assertEqual(self.targets(2), ["/v1/events?after=1%3A0&follow=1"])

    def test_process_that_has_ended_is_left(self) -> None:
        client = self.follow()
        gone = self.workers.pop()
        gone.streams["/v1/events"].connectionLost()
        self.pass_(1)
        self.send(0, 1, 1)
        self.pass_(PATIENCE)
        self.assertEqual(self.seqs(client)[-1], (0, 1))
        before = len(gone.calls)
        self.pass_(10)
        self.assertEqual(len(gone.calls), before)

    def test_browser_continues_with_all_places(self) -> None:
        client = self.follow(headers="Accept: text/event-stream\r\n")
        self.send(0, 1, 7)
        self.pass_(PATIENCE)
        self.send(1, 2, 9)
        self.pass_(PATIENCE)
        identifiers = [
            line for line in client.received().body.split(b"\n") if line.startswith(b"id: ")
        ]
        self.assertEqual(identifiers, [b"id: 0:7:boot0", b"id: 0:7:boot0,1:9:boot1"])
        again = "Accept: text/event-stream\r\nLast-Event-ID: 0:7:boot0,1:9:boot1\r\n"
        self.follow(headers=again)
        self.assertEqual(self.targets(1)[-1], "/v1/events?after=1%3A9%3Aboot1&follow=1")

    def test_unexpected_exception_is_logged(self) -> None:
        self.workers[1].replies["/v1/events"] = lambda call: 1 // 0
        client = self.follow()
        self.assertEqual(self.flush(ZeroDivisionError), 1)
        self.assertEqual(self.seqs(client), [(1, "missing")])

    def test_streams_of_the_workers_end_with_the_client(self) -> None:
        client = self.follow()
        client.disconnect()
        self.turns()
        for worker in self.workers:
            self.assertEqual(worker.streams["/v1/events"].state.value, "ended")
        self.pass_(60)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PlaceTests(EventsCase):
    def test_place_of_lines(self) -> None:
        worker = self.workers[1]
        lost = b'{"event":"lost","proxy":"p","worker":2,"boot":"b","from":3,"to":%b}'
        cases: tuple[tuple[bytes, Place | None], ...] = (
            (lost % b"9", Place(2, 9, "b")),
            (lost % b"null", None),
            (b"{}", None),
        )
        for line, place in cases:
            self.assertEqual(place_of(line), place)
        line = json.dumps(worker.event(1, 4), separators=(",", ":")).encode()
        self.assertEqual(place_of(line), Place(1, 4, "boot1"))
