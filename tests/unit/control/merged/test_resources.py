"""The merged resources: the table, lookups, the past, kills, the status and the metrics."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, succeed

from natproxy.control.merged.errors import Missing, NoReply
from natproxy.control.merged.lines import BUFFERED
from natproxy.control.merged.resources import merged_comparison
from natproxy.control.merged.status import merged_journal
from natproxy.control.peer import Peer
from natproxy.metrics.families import Kind, counter, gauge
from natproxy.metrics.merged import families_json
from tests.support.control_resources import HTTPClient
from tests.support.merged import SILENT, Call, MergedCase

NONE = {"result": "nobody", "translations": [], "gap": None, "last": None}


class TableTests(MergedCase):
    def test_entries_are_in_the_order_of_their_registrations(self) -> None:
        first, second = self.workers
        self.each(
            "/v1/table",
            [first.record(1, 1), first.record(4, 2)],
            [second.record(2, 1), second.record(3, 2), second.record(5, 3)],
        )
        found = [(each["worker"], each["serial"]) for each in self.get("/v1/table").json]
        self.assertEqual(found, [(0, 1), (1, 1), (1, 2), (0, 2), (1, 3)])
        found = [each["serial"] for each in self.get("/v1/table?limit=2&filter=verb%20GET").json]
        self.assertEqual(found, [1, 1])
        self.assertEqual(first.calls[-1].target, "/v1/table?filter=verb%20%3D%20GET&limit=2")

    def test_empty_table(self) -> None:
        self.each("/v1/table", [], [])
        self.assertEqual(self.get("/v1/table").body, b"[]\n")

    def test_worker_that_does_not_reply_is_named(self) -> None:
        self.each("/v1/table", [self.workers[0].record(1)], [])
        self.workers[1].hangs = True
        response = self.get("/v1/table")
        self.assertEqual([each["worker"] for each in response.json], [0])
        self.assertEqual(
            json.loads(response.headers["natproxy-missing"]), [{"worker": 1, "reason": SILENT}]
        )

    def test_worker_that_hangs_within_its_reply_ends_the_connection(self) -> None:
        self.each("/v1/table", [self.workers[0].record(1)], [])
        worker = self.workers[1]

        async def begun(target: str) -> Any:
            stream = await type(worker).lines(worker, f"{target}?follow=1")
            worker.hangs = True
            return stream

        worker.lines = begun  # type: ignore[method-assign]
        client = self.request("/v1/table")
        self.assertTrue(client.connected)
        self.clock.advance(2)
        self.turns()
        response = client.received()
        self.assertEqual(response.status, 503)
        self.assertIn("worker 1", response.json["error"])

    def test_wrong_filter_is_refused_at_once(self) -> None:
        response = self.get("/v1/table?filter=x%20y")
        self.assertEqual(response.status, 400)
        self.assertEqual(self.workers[0].calls, [])

    def test_lines_are_not_received_faster_than_they_are_sent(self) -> None:
        worker = self.workers[0]
        worker.replies["/v1/table"] = [worker.record(1)] * 2000
        stream = self.successResultOf(Deferred.fromCoroutine(worker.lines("/v1/table?follow=1")))
        self.assertTrue(stream.transport.paused)
        used = 0
        while stream.transport.paused:
            used += len(stream.take())
        self.assertGreaterEqual(used, BUFFERED // 2)
        self.assertTrue(stream.lines)


class PastTests(MergedCase):
    def test_recent_translations_of_all_workers(self) -> None:
        first, second = self.workers
        self.each(
            "/v1/history",
            [first.record(1, 1), first.record(3, 2)],
            [second.record(2, 1), second.record(4, 2)],
        )
        found = [(each["worker"], each["serial"]) for each in self.get("/v1/history").lines]
        self.assertEqual(found, [(0, 1), (1, 1), (0, 2), (1, 2)])
        found = [(e["worker"], e["serial"]) for e in self.get("/v1/history?limit=3").lines]
        self.assertEqual(found, [(1, 1), (0, 2), (1, 2)])

    def test_lookup_is_found_by_any_worker(self) -> None:
        second = self.workers[1]
        found = {**NONE, "result": "found", "translations": [second.record(-1)]}
        self.each("/v1/whois", [NONE], [found])
        response = self.get("/v1/whois?port=50001")
        self.assertEqual(response.json["result"], "found")
        self.assertEqual(response.json["translations"][0]["worker"], 1)

    def test_lookup_is_unknown_while_a_worker_does_not_reply(self) -> None:
        self.each("/v1/whois", [NONE], [NONE])
        self.assertEqual(self.get("/v1/whois?port=7").json["result"], "nobody")
        self.workers[1].hangs = True
        response = self.get("/v1/whois?port=7")
        self.assertEqual(response.json["result"], "unknown")
        self.assertEqual(response.json["gap"]["cause"], f"worker 1: {SILENT}")
        self.assertEqual(self.missing(response), [1])

    def test_each_reply_names_the_workers_that_are_missing_in_it(self) -> None:
        self.each("/v1/whois", [NONE], [NONE])
        worker = self.workers[1]
        waiting: list[Deferred[None]] = []

        async def later(target: str, body: bytes, timeout: float = 2) -> bytes:
            waiting.append(Deferred())
            await waiting[-1]
            return await type(worker).post(worker, target, body)

        worker.post = later  # type: ignore[method-assign]
        first, second = self.request("/v1/whois?port=1"), self.request("/v1/whois?port=2")
        waiting[0].callback(None)
        # The first one is complete, and waits for the next turn.
        waiting[1].errback(NoReply(SILENT))
        self.turns()
        replies = [client.received() for client in (first, second)]
        self.assertEqual([each.json["result"] for each in replies], ["nobody", "unknown"])
        self.assertEqual([self.missing(each) for each in replies], [[], [1]])

    def test_several_lookups(self) -> None:
        self.each("/v1/whois", [NONE, NONE], [NONE, {**NONE, "result": "unknown"}])
        body = b'{"port":1}\n{"port":2}\n'
        found = self.request("/v1/whois", "POST", body).received().lines
        self.assertEqual([each["result"] for each in found], ["nobody", "unknown"])
        self.assertEqual(len(self.workers[0].calls), 1)


class KillTests(MergedCase):
    def setUp(self) -> None:
        super().setUp()
        for worker in self.workers:
            worker.replies["/v1/kill"] = self.killed(worker)

    @staticmethod
    def killed(worker: Any) -> Any:
        """Return a worker's reply: it has the translations 1 and 2."""

        def reply(call: Call) -> dict[str, Any]:
            members = call.members or {}
            serials = [members["serial"]] if "serial" in members else [1, 2 + worker.number]
            found = [each for each in serials if each in (1, 2 + worker.number)]
            return {
                "dry_run": members.get("dry_run", False),
                "translations": [worker.record(0, each) for each in found],
            }

        return reply

    def kills(self, number: int) -> list[dict[str, Any] | None]:
        """Return the members of the kills of a worker that were no trial."""
        calls = [each for each in self.workers[number].calls if each.path == "/v1/kill"]
        return [each.members for each in calls if not (each.members or {}).get("dry_run")]

    def test_filter_ends_commands_of_all_workers(self) -> None:
        response = self.post("/v1/kill", {"filter": "verb = GET"})
        found = [(each["worker"], each["serial"]) for each in response.json["translations"]]
        self.assertEqual(found, [(0, 1), (0, 2), (1, 1), (1, 3)])
        self.assertEqual(response.json["missing"], [])
        self.assertEqual(self.kills(1), [{"filter": "verb = GET"}])

    def test_serial_of_one_worker(self) -> None:
        response = self.post("/v1/kill", {"serial": 3})
        self.assertEqual([each["worker"] for each in response.json["translations"]], [1])
        self.assertEqual(self.kills(0), [])
        self.assertEqual(self.kills(1), [{"serial": 3}])

    def test_serial_of_several_workers_is_refused(self) -> None:
        response = self.post("/v1/kill", {"serial": 1})
        self.assertEqual(response.status, 409)
        self.assertIn("write 0:1", response.json["error"])
        self.assertEqual(self.kills(0) + self.kills(1), [])
        response = self.post("/v1/kill", {"serial": 1, "worker": 1})
        self.assertEqual([each["worker"] for each in response.json["translations"]], [1])

    def test_serial_is_refused_while_another_worker_might_have_it(self) -> None:
        self.workers[1].hangs = True
        response = self.post("/v1/kill", {"serial": 2})
        self.assertEqual(response.status, 503)
        self.assertEqual(self.kills(0), [])
        response = self.post("/v1/kill", {"serial": 2, "worker": 0})
        self.assertEqual(len(response.json["translations"]), 1)

    def test_worker_that_does_not_reply_is_named(self) -> None:
        self.workers[1].hangs = True
        response = self.post("/v1/kill", {"all": True})
        self.assertEqual(response.json["missing"], [{"worker": 1, "reason": SILENT}])
        self.workers[0].hangs = True
        self.assertEqual(self.post("/v1/kill", {"all": True}).status, 503)

    def test_unknown_worker_and_wrong_selections(self) -> None:
        self.assertEqual(self.post("/v1/kill", {"serial": 1, "worker": 7}).status, 400)
        for members in ({}, {"serial": 1, "all": True}, {"filter": ""}, {"worker": -1}):
            self.assertEqual(self.post("/v1/kill", members).status, 400, members)

    def test_administrator_is_passed_on(self) -> None:
        self.post("/v1/kill", {"all": True})
        self.assertEqual(self.workers[0].calls[-1].peer, Peer(None, None))


class StatusTests(MergedCase):
    def status_of(self, number: int, **members: Any) -> dict[str, Any]:
        return {
            "worker": number,
            "boot": self.workers[number].boot,
            "pid": 100 + number,
            "clients": 2,
            "table": 3,
            "position": f"{number}:9:boot{number}",
            "commands": {"total": 10, "sent": 100, "verbs": {"GET": {"completed": 10}}},
            "counters": {"clients": {"now": 2, "total": 5}},
            "journal": {"directory": "/j", "complete_to": f"2026-0{number + 1}", "rows": 5},
            **members,
        }

    def test_sums_and_processes(self) -> None:
        self.each("/v1/status", self.status_of(0), self.status_of(1))
        found = self.get("/v1/status").json
        self.assertEqual((found["boot"], found["clients"], found["table"]), ("master", 4, 6))
        self.assertEqual(found["commands"]["total"], 20)
        self.assertEqual(found["counters"]["clients"], {"now": 4, "total": 10})
        self.assertEqual(found["position"], "0:9:boot0,1:9:boot1")
        self.assertEqual([each["pid"] for each in found["workers"]], [100, 101])
        self.assertEqual(found["missing"], [])
        self.assertEqual(
            (found["journal"]["complete_to"], found["journal"]["rows"]), ("2026-01", 10)
        )

    def test_counters_do_not_go_down_with_a_worker(self) -> None:
        self.each("/v1/status", self.status_of(0), self.status_of(1))
        self.get("/v1/status")
        self.workers[1].hangs = True
        found = self.get("/v1/status").json
        self.assertEqual(found["commands"]["total"], 20)
        self.assertEqual(found["counters"]["clients"], {"now": 2, "total": 10})
        self.assertEqual((found["clients"], [e["worker"] for e in found["missing"]]), (2, [1]))
        self.workers[1].hangs = False
        self.each(
            "/v1/status",
            self.status_of(0),
            self.status_of(1, boot="next", commands={"total": 1}),
        )
        self.assertEqual(self.get("/v1/status").json["commands"]["total"], 21)
        del self.workers[1]
        self.assertEqual(self.get("/v1/status").json["commands"]["total"], 21)

    def test_journal_of_workers_without_one(self) -> None:
        self.assertIsNone(merged_journal([None, None]))
        one: dict[str, Any] = {"complete_to": "a", "error": "full", "lag": 2.5}
        found = merged_journal([one, None])
        assert found is not None
        self.assertEqual((found["error"], found["lag"]), ("full", 2.5))

    def test_ready_if_one_worker_is(self) -> None:
        self.each("/readyz", {"ready": True}, {"ready": True})
        self.assertEqual(self.get("/readyz").json, {"ready": True})
        self.workers[1].hangs = True
        self.assertEqual(self.get("/readyz").status, 200)
        self.workers[0].hangs = True
        response = self.get("/readyz")
        self.assertEqual(response.status, 503)
        self.assertIn("worker 0", response.json["error"])
        self.unready = "the daemon is draining"
        self.assertEqual(self.get("/readyz").json["error"], "the daemon is draining")


class MetricsTests(MergedCase):
    def families_of(self, number: int, commands: int, boot: str | None = None) -> dict[str, Any]:
        families = [
            counter("natproxy_events", "Events", commands),
            gauge("natproxy_table_entries", "Entries", 3),
            gauge("natproxy_journal_segments", "Segments", 7 + number),
        ]
        boot = boot or self.workers[number].boot
        return {"boot": boot, "families": families_json(families), "counters": None}

    def text(self) -> str:
        return self.get("/metrics").body.decode()

    def test_sums_and_workers(self) -> None:
        self.each("/v1/families", self.families_of(0, 10), self.families_of(1, 20))
        text = self.text()
        for line in (
            "natproxy_events_total 30.0",
            "natproxy_table_entries 6.0",
            "natproxy_journal_segments 8.0",
            'natproxy_worker_up{worker="1"} 1.0',
            'natproxy_worker_table_entries{worker="1"} 3.0',
        ):
            self.assertIn(line + "\n", text)

    def test_counter_does_not_go_down_with_a_worker(self) -> None:
        self.each("/v1/families", self.families_of(0, 10), self.families_of(1, 20))
        self.text()
        self.workers[1].hangs = True
        text = self.text()
        self.assertIn("natproxy_events_total 30.0\n", text)
        self.assertIn("natproxy_table_entries 3.0\n", text)
        self.assertIn('natproxy_worker_up{worker="1"} 0.0\n', text)
        self.workers[1].hangs = False
        self.each("/v1/families", self.families_of(0, 11), self.families_of(1, 2, "next"))
        text = self.text()
        self.assertIn("natproxy_events_total 33.0\n", text)
        self.assertIn('natproxy_worker_starts_total{worker="1"} 2.0\n', text)

    def test_interval_keeps_what_a_process_has_counted(self) -> None:
        self.each("/v1/families", self.families_of(0, 10), self.families_of(1, 20))
        self.tally.startService()
        self.addCleanup(self.tally.stopService)
        self.clock.advance(5)
        self.workers[1].hangs = True
        self.assertIn("natproxy_events_total 30.0\n", self.text())

    def test_malformed_metrics_of_a_worker_are_left_out(self) -> None:
        self.each(
            "/v1/families",
            self.families_of(0, 10),
            {"boot": "b", "families": [["a", Kind.GAUGE.value]]},
        )
        self.assertIn("natproxy_events_total 10.0\n", self.text())


class ReconcileTests(MergedCase):
    SAME = {
        "result": "same",
        "reason": None,
        "rows": 2,
        "sockets": 2,
        "left_out": 0,
        "differences": 0,
        "rows_without_socket": [],
        "sockets_without_row": [],
    }

    def test_sums(self) -> None:
        self.each("/v1/reconcile", self.SAME, self.SAME)
        found = self.get("/v1/reconcile").json
        self.assertEqual((found["result"], found["rows"]), ("same", 4))

    def test_unknown_while_a_worker_does_not_reply(self) -> None:
        self.each("/v1/reconcile", self.SAME, self.SAME)
        self.workers[0].hangs = True
        found = self.get("/v1/reconcile").json
        self.assertEqual((found["result"], found["reason"]), ("unknown", f"worker 0: {SILENT}"))

    def test_differences_have_their_worker(self) -> None:
        differs = {
            **self.SAME,
            "result": "differs",
            "differences": 1,
            "rows_without_socket": [{"serial": 5}],
        }
        found = merged_comparison([(0, self.SAME), (1, differs)], [Missing(2, SILENT)])
        self.assertEqual(found["result"], "differs")
        self.assertEqual(found["rows_without_socket"], [{"worker": 1, "serial": 5}])


class ActionTests(MergedCase):
    def test_drain_and_reload_are_noted(self) -> None:
        noted: list[tuple[str, int | None, int | None]] = []
        self.observed.note = lambda *action: noted.append(action)
        self.observed.reload = lambda cause, dry_run: succeed({"errors": []})
        self.make_site()
        self.post("/v1/reload", {"dry_run": True})
        self.assertEqual(noted, [])
        self.post("/v1/reload", {})
        self.post("/v1/drain", {})
        self.assertEqual(noted, [("reload", None, None), ("drain", None, None)])


class GoneTests(MergedCase):
    def test_streams_of_the_workers_end_with_a_client_that_is_gone(self) -> None:
        lines = [self.workers[0].record(1)] * 3
        self.each("/v1/table", lines, lines)
        self.each("/v1/history", lines, lines)
        self.each("/v1/events", lines, lines)
        for path in ("/v1/table", "/v1/history", "/v1/events"):
            for worker in self.workers:
                worker.streams.clear()
            client = HTTPClient(self.site)
            client.send(f"GET {path} HTTP/1.1\r\nHost: natproxy\r\n\r\n".encode())
            client.disconnect()
            self.turns()
            for worker in self.workers:
                self.assertEqual(list(worker.streams[path].lines), [], path)
