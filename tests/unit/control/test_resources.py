"""The resources: their replies, their refusals, and HTTP itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest import mock
from urllib.parse import quote_from_bytes

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.web.resource import Resource

from natproxy.control import site as sites
from natproxy.control.jobs import ENTRIES
from natproxy.control.json_resource import MOST_OBJECT
from natproxy.control.resources import resources_of
from natproxy.control.stream import STALLED
from natproxy.nat import Outcome
from natproxy.records.record import Record
from natproxy.server.threads import Overloaded
from tests.support.control_resources import ControlCase, HTTPClient, parse_response, run_turn


class TableTests(ControlCase):
    def test_entries_are_a_list_oldest_first(self) -> None:
        first, second = self.register(b"GET a%20b"), self.register(b"LIST")
        self.table.relaying(first, 10)
        first.count(4)
        self.clock.advance(2)
        response = self.get("/v1/table")
        self.assertEqual(response.headers["content-type"], "application/json")
        one, two = response.json
        self.assertEqual((one["serial"], one["state"], one["bytes"]), (1, "relaying", 4))
        self.assertEqual((one["promised"], one["name"], one["duration"]), (10, "a%20b", 2.0))
        self.assertEqual(one["started"], "2023-11-14T22:13:20.000000Z")
        self.assertEqual((two["serial"], two["verb"], two["seq"]), (2, "LIST", 2))
        self.assertEqual(Record.from_json(one).json(), one)
        self.table.remove(second, Outcome.COMPLETED)
        self.assertEqual([entry["serial"] for entry in self.get("/v1/table").json], [1])

    def test_empty_table_is_an_empty_list(self) -> None:
        self.assertEqual(self.get("/v1/table").json, [])
        self.assertEqual(self.get("/v1/table?filter=verb+GET").json, [])

    def test_filter_and_limit(self) -> None:
        for number in range(10):
            self.register(b"GET a" if number % 2 else b"LIST")
        found = self.get("/v1/table?filter=verb%20LIST&limit=3").json
        self.assertEqual([entry["serial"] for entry in found], [1, 3, 5])

    def test_entry_from_before_the_ring_is_shown(self) -> None:
        self.ring.close()
        self.register()
        self.clock.advance(5)
        self.setUp_again()
        (entry,) = self.get("/v1/table").json
        self.assertEqual((entry["seq"], entry["started"][:19]), (None, "2023-11-14T22:13:20"))

    def setUp_again(self) -> None:
        """Make a ring and a site for the table as it is."""
        from natproxy.control.table import LocalTable
        from natproxy.nat.ring import EventRing

        self.ring = EventRing(self.table, self.ring.origin, wall_clock=self.wall)
        self.observed.table = LocalTable(self.table, self.ring, self.clock.seconds, self.wall)

    def test_no_turn_walks_more_than_its_share_of_10000_entries(self) -> None:
        for number in range(10_000):
            self.register(b"GET a", port=number + 1)
        walked: list[int] = []
        count = 0
        records = self.source.records

        def counted() -> Any:
            nonlocal count
            for record in records():
                count += 1
                yield record

        self.source.records = counted  # type: ignore[method-assign]
        client = self.connect()
        client.send(b"GET /v1/table HTTP/1.1\r\nHost: a\r\n\r\n")
        while run_turn(self.clock):
            walked.append(count)
            count = 0
        self.assertEqual(sum(walked), 10_000)
        self.assertLessEqual(max(walked), ENTRIES)
        self.assertEqual(len(client.received().json), 10_000)

    def test_nothing_is_produced_while_the_client_does_not_read(self) -> None:
        for number in range(1000):
            self.register(b"GET a", port=number + 1)
        client = self.connect()
        client.send(b"GET /v1/table HTTP/1.1\r\nHost: a\r\n\r\n")
        client.pause()
        self.turns()
        self.assertEqual(client.transport.value(), b"")
        client.resume()
        run_turn(self.clock)
        client.pause()
        held = len(client.transport.value())
        self.turns()
        self.assertEqual(len(client.transport.value()), held)
        # Entries that end meanwhile are left out.
        for entry in list(self.table)[500:]:
            self.table.remove(entry, Outcome.COMPLETED)
        client.resume()
        self.turns()
        self.assertEqual(len(client.received().json), 500)

    def test_client_that_never_reads_is_disconnected(self) -> None:
        for number in range(1000):
            self.register(b"GET a", port=number + 1)
        client = self.connect()
        client.send(b"GET /v1/table HTTP/1.1\r\nHost: a\r\n\r\n")
        client.pause()
        self.clock.advance(STALLED - 1)
        self.assertTrue(client.connected)
        self.clock.advance(1)
        self.assertFalse(client.connected)
        self.assertEqual(self.clock.calls, [])


class StateTests(ControlCase):
    def test_status_is_what_the_daemon_reports(self) -> None:
        self.register()
        self.assertEqual(self.get("/v1/status").json, {"name": "proxy-9000", "table": 1})

    def test_health_and_readiness(self) -> None:
        self.assertEqual(self.get("/healthz").status, 200)
        self.assertEqual(self.get("/readyz").json, {"ready": True})
        self.unready = "the daemon is draining"
        self.assert_refused(self.get("/readyz"), 503, "the daemon is draining")
        self.assertEqual(self.get("/healthz").status, 200)

    def test_metrics_are_those_of_the_daemon(self) -> None:
        class Metrics(Resource):
            def render_GET(self, request: object) -> bytes:
                return b"commands_total 3\n"

        self.assert_refused(self.get("/metrics"), 404, "pip install 'natproxy[metrics]'")
        self.observed.metrics = Metrics()
        self.assertEqual(self.get("/metrics").body, b"commands_total 3\n")
        self.assert_refused(self.post("/metrics", {}), 405, "GET only")

    def test_reconciliation(self) -> None:
        self.assert_refused(self.get("/v1/reconcile"), 404, "/v1/")
        result: Deferred[dict[str, Any]] = Deferred()
        self.observed.reconcile = lambda: result
        self.site = sites.control_site(self.make_context())
        client = self.request("/v1/reconcile")
        self.assertEqual(client.transport.value(), b"")
        result.callback({"rows": []})
        self.assertEqual(client.received().json, {"rows": []})

    def test_client_that_is_gone_waits_for_nothing(self) -> None:
        cancelled: list[object] = []
        result: Deferred[dict[str, Any]] = Deferred(cancelled.append)
        self.observed.reconcile = lambda: result
        self.site = sites.control_site(self.make_context())
        client = self.request("/v1/reconcile")
        client.disconnect()
        self.assertEqual(cancelled, [result])

    def test_failure_is_logged_and_a_sentence(self) -> None:
        self.observed.status = lambda: {"x": 1 // 0}
        self.assert_refused(self.get("/v1/status"), 500, "which the daemon has logged")
        self.assertEqual(self.flush(ZeroDivisionError), 1)

    def test_search_that_is_refused_can_be_repeated_later(self) -> None:
        self.observed.status = mock.Mock(side_effect=Overloaded("too many searches"))
        self.assert_refused(self.get("/v1/status"), 503, "too many searches")

    def test_file_server_has_no_table(self) -> None:
        self.observed.table = self.observed.ring = self.observed.history = None
        self.site = sites.control_site(self.make_context())
        paths = {each["path"] for each in self.get("/").json["paths"]}
        self.assertEqual(
            paths,
            {
                "/v1/status",
                "/healthz",
                "/readyz",
                "/metrics",
                "/v1/openapi.json",
                "/v1/drain",
                "/v1/reload",
            },
        )
        self.assert_refused(self.get("/v1/table"), 404, "/v1/")
        self.assertEqual(self.post("/v1/drain", b"").status, 202)
        self.assertEqual(self.drained, 1)


class ReloadTests(ControlCase):
    def test_result_of_the_daemon_is_the_reply(self) -> None:
        response = self.post("/v1/reload", {})
        self.assertEqual((response.status, response.json), (200, self.reloaded))
        self.assertEqual(self.reloads, [("reload by an administrator", False)])
        (event,) = self.get("/v1/events?filter=event+reload").lines
        self.assertEqual((event["event"], event["reason"]), ("reload", None))

    def test_dry_run_is_no_event(self) -> None:
        self.assertEqual(self.post("/v1/reload", {"dry_run": True}).status, 200)
        self.assertEqual(self.reloads, [("reload by an administrator", True)])
        self.assertEqual(self.get("/v1/events?filter=event+reload").body, b"")

    def test_errors_have_a_status_of_their_own(self) -> None:
        self.reloaded |= {"errors": ["x: must be", "y"], "reloaded": False}
        response = self.post("/v1/reload", {})
        self.assertEqual((response.status, response.json["error"]), (422, "x: must be"))
        self.assertEqual(response.json["errors"], ["x: must be", "y"])

    def test_client_that_is_gone_does_not_stop_it(self) -> None:
        cancelled: list[object] = []
        result: Deferred[dict[str, Any]] = Deferred(cancelled.append)
        self.observed.reload = lambda cause, dry_run: result
        self.site = sites.control_site(self.make_context())
        client = self.request("/v1/reload", "POST", b"{}")
        client.disconnect()
        self.assertEqual(cancelled, [])
        result.callback(self.reloaded)

    def test_unknown_members_and_daemons_without_settings(self) -> None:
        self.assert_refused(self.post("/v1/reload", {"force": True}), 400, "force")
        self.assertEqual(self.reloads, [])
        self.observed.reload = None
        self.site = sites.control_site(self.make_context())
        self.assert_refused(self.post("/v1/reload", {}), 404, "there is no such path")


class PathsTests(ControlCase):
    def test_list_of_paths(self) -> None:
        for target in ("/", "/v1", "/v1/"):
            listed = self.get(target).json["paths"]
            found = {each["path"]: each for each in listed}
            self.assertEqual(found["/v1/kill"]["methods"], ["POST"])
            self.assertEqual(found["/v1/table"]["parameters"], ["filter", "limit"])

    def test_web_endpoint_has_no_actions(self) -> None:
        context = self.make_context()
        paths = {each.path for each in resources_of(context, actions=False)}
        self.assertNotIn("/v1/kill", paths)
        self.assertNotIn("/v1/drain", paths)
        self.assertNotIn("/v1/reload", paths)
        methods = {
            method for each in resources_of(context, actions=False) for method in each.parameters
        }
        self.assertEqual(methods, {"GET", "POST"})

    def test_unknown_paths(self) -> None:
        for target in ("/x", "/v1/x", "/v1/table/x", "/v2/", "/v1/kill/%00", "/%3Cscript%3E"):
            self.assert_refused(self.get(target), 404, "there is no such path")

    def test_wrong_methods(self) -> None:
        for method, target, allowed in (
            ("POST", "/v1/table", "GET"),
            ("GET", "/v1/kill", "POST"),
            ("DELETE", "/v1/whois", "GET, POST"),
            ("OPTIONS", "/", "GET"),
            ("get", "/v1/table", "GET"),
        ):
            response = self.request(target, method).received()
            self.assert_refused(response, 405, f"allows {allowed} only")
            self.assertEqual(response.headers["allow"], allowed)

    def test_head_has_the_header_alone(self) -> None:
        self.register()
        for target in ("/v1/table", "/v1/status", "/v1/history", "/v1/events?follow=1", "/"):
            client = self.request(target, "HEAD")
            response = client.received(head=True)
            self.assertEqual((response.status, response.rest), (200, b""), target)
            client.transport.clear()
            client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertEqual(client.received().json, {"healthy": True})
        self.assertEqual(self.request("/x", "HEAD").received(head=True).status, 404)

    def test_responses_are_neither_cached_nor_sniffed(self) -> None:
        for target in ("/", "/v1/table", "/x"):
            headers = self.get(target).headers
            self.assertEqual(headers["cache-control"], "no-store")
            self.assertEqual(headers["x-content-type-options"], "nosniff")


class QueryTests(ControlCase):
    def test_refusals(self) -> None:
        for target, reason in (
            ("/v1/table?filtr=x", "unknown parameter 'filtr'; there are filter, limit"),
            ("/v1/status?x=1", "unknown parameter 'x'; there are none here"),
            ("/v1/table?limit=1&limit=2", "the parameter limit is repeated"),
            ("/v1/table?limit=0", "limit: a whole number from 1 is needed"),
            ("/v1/table?limit=-1", "limit: a whole number from 1 is needed"),
            ("/v1/table?limit=9999999999999999999", "limit: a whole number"),
            ("/v1/table?limit=%C3%A9", "limit: a whole number"),
            ("/v1/table?filter=%FF", "not UTF-8"),
            ("/v1/history?since=soon", "since: "),
            (
                "/v1/history?since=2023-11-14T22:13:20Z&until=2023-11-14T22:13:19Z",
                "until is before",
            ),
            ("/v1/history?since=2099-01-01", "since is in the future"),
            ("/v1/events?follow=maybe", "follow: neither true nor false"),
            ("/v1/events?after=1", "after: WORKER:SEQ is needed"),
            ("/v1/events?after=7:1", "after: there is no worker 7"),
            ("/v1/events?after=0:1&last=2", "exclude each other"),
            ("/v1/events?follow=1&until=2023-11-14T22:13:20Z", "exclude each other"),
            ("/v1/events?boot=a%20b", "boot: "),
            ("/v1/whois", "the port is missing"),
            ("/v1/whois?port=0", "port: "),
            ("/v1/whois?port=1&nat=localhost", "nat: an IP address is needed"),
            ("/v1/whois?port=1&upstream=files:9001", "upstream: an IP address is needed"),
            ("/v1/whois?port=1&until=2023-11-14T22:13:20Z", "until needs since"),
            ("/v1/whois?port=1&since=2099-01-01", "since is in the future"),
        ):
            self.assert_refused(self.get(target), 400, reason)

    def test_wrong_word_of_a_filter_has_its_position(self) -> None:
        response = self.get("/v1/table?filter=verb+GET+and+clint+x")
        self.assert_refused(response, 400, "clint")
        self.assertEqual(response.json["position"], 13)

    def test_empty_parameter_is_absent(self) -> None:
        self.assertEqual(self.get("/v1/table?filter=&limit=").json, [])

    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from(["/v1/table", "/v1/events", "/v1/whois", "/v1/history", "/v1/status"]),
        st.lists(
            st.tuples(
                st.sampled_from(["filter", "limit", "port", "since", "after", "last", "x"]),
                st.binary(max_size=12) | st.sampled_from([b"1", b"0:1", b"verb GET", b"-1s"]),
            ),
            max_size=3,
        ),
    )
    def test_no_query_causes_more_than_a_sentence(self, path: str, parts: Any) -> None:
        query = "&".join(f"{name}={quote_from_bytes(value)}" for name, value in parts)
        response = self.get(f"{path}?{query}")
        if response.status != 200:
            self.assert_refused(response, 400, "")

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=40))
    def test_no_raw_query_causes_more_than_a_sentence(self, raw: bytes) -> None:
        for byte in b"\r\n\x00 \t\x0b\x0c\x1c\x1d\x1e\x1f\x85":
            raw = raw.replace(bytes([byte]), b"")
        client = self.connect()
        client.send(b"GET /v1/table?" + raw + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        self.turns()
        response = client.received()
        self.assertIn(response.status, (200, 400))
        self.assertNotIn(b"Traceback", response.body)


class HTTPTests(ControlCase):
    def test_connection_is_kept_and_requests_are_pipelined(self) -> None:
        self.register()
        client = self.connect()
        client.send(
            b"GET /v1/table HTTP/1.1\r\nHost: a\r\n\r\n"
            b"POST /v1/whois HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\n\r\n"
            + b'{"port":50001}'
            + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        self.turns()
        first = client.received()
        second = parse_response(first.rest)
        third = parse_response(second.rest)
        self.assertEqual(len(first.json), 1)
        self.assertEqual(second.json["result"], "found")
        self.assertEqual((third.json, third.rest), ({"healthy": True}, b""))
        self.assertTrue(client.transport.disconnecting)

    def test_malformed_requests_end_the_connection_without_a_page(self) -> None:
        for data in (
            b"\x16\x03\x01\x02\x00\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /v1/table HTTP/1.1\r\nbad header\r\n\r\n",
            b"GET /v1/table HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"<script> / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 600 + b"\r\n",
        ):
            client = self.connect()
            client.send(data)
            self.assertTrue(client.transport.value().startswith(b"HTTP/1.1 400 "), data[:40])
            self.assertTrue(client.transport.disconnecting)
            self.assertNotIn(b"Traceback", client.transport.value())

    def test_long_line_is_refused(self) -> None:
        for data in (b"GET /" + b"x" * 20_000, b"GET / HTTP/1.1\r\na: " + b"b" * 20_000):
            for end in (b"", b" HTTP/1.1\r\n\r\n"):
                client = self.connect()
                client.send(data + end)
                self.assert_refused(client.received(), 431, "exceeds 16384 bytes")
                self.assertTrue(client.transport.disconnecting)

    def test_long_body_is_refused_before_it_is_received(self) -> None:
        for header, status, reason in (
            (b"Content-Length: 9000000", 413, "exceeds"),
            (b"Transfer-Encoding: chunked", 411, "needs a Content-Length"),
        ):
            client = self.connect()
            client.send(b"POST /v1/whois HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n\r\n")
            for _ in range(5):
                client.send(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
            self.assert_refused(client.received(), status, reason)
            self.assertTrue(client.transport.disconnecting)

    def test_long_object_is_refused(self) -> None:
        for target in ("/v1/kill", "/v1/drain", "/v1/reload"):
            body = b'{"filter":"' + b" " * MOST_OBJECT + b'"}'
            self.assert_refused(self.post(target, body), 413, "exceeds 65536 bytes")

    def test_connections_have_a_limit(self) -> None:
        clients = [self.connect() for _ in range(sites.CONNECTIONS)]
        self.assertIsNone(self.site.buildProtocol(None))  # type: ignore[arg-type]
        clients[0].disconnect()
        self.assertEqual(self.get("/healthz").status, 200)

    def test_idle_client_is_disconnected(self) -> None:
        client = self.connect()
        client.send(b"GET /v1/table HTTP/1.1\r\n")
        self.clock.advance(sites.TIMEOUT)
        self.assertTrue(client.transport.disconnecting)

    def test_stop_closes_the_connections(self) -> None:
        client = self.request("/v1/events?follow=1")
        self.site.doStart()
        self.site.doStop()
        self.assertTrue(client.transport.disconnecting)

    def test_idle_site_has_no_timer(self) -> None:
        self.site.doStart()
        self.assertEqual(self.clock.calls, [])
        self.site.doStop()


class WhoisPostTests(ControlCase):
    def test_lookups_are_replied_to_in_their_order(self) -> None:
        for number in range(3000):
            self.register(b"GET %d" % number, port=number + 1)
        body = b"".join(b'{"port":%d}\n' % number for number in range(3000, 0, -1))
        lines = self.post("/v1/whois", body).lines
        self.assertEqual(
            [line["translations"][0]["nat_port"] for line in lines], list(range(3000, 0, -1))
        )

    def test_error_is_in_the_place_of_its_line(self) -> None:
        self.register(port=5)
        body = (
            b'{"port":5}\n\nnonsense\n{"port":"5","until":null}\n[1]\n'
            b'{"port":5,"x":1}\n{"port":true}'
        )
        lines = self.post("/v1/whois", body).lines
        self.assertEqual(
            [line.get("result") or line["error"][:6] for line in lines],
            ["found", "line 3", "found", "line 5", "line 6", "line 7"],
        )

    def test_empty_body_has_no_replies(self) -> None:
        self.assertEqual(self.post("/v1/whois", b"").body, b"")

    @settings(max_examples=40, deadline=None)
    @given(st.binary(max_size=60))
    def test_any_body_has_replies_of_one_line(self, body: bytes) -> None:
        lines = self.post("/v1/whois", body).lines
        self.assertEqual(len(lines), sum(bool(line.strip()) for line in body.split(b"\n")))
        for line in lines:
            self.assertTrue("error" in line or "result" in line)


def cut(client: HTTPClient) -> bytes:
    """Return what a server has sent since the last call."""
    data = client.transport.value()
    client.transport.clear()
    return data


class HistoryTests(ControlCase):
    def test_pages_are_streamed(self) -> None:
        for _ in range(1200):
            self.execute()
        self.register(b"LIST")
        serials = [line["serial"] for line in self.get("/v1/history").lines]
        self.assertEqual(serials, list(range(1, 1202)))
        self.assertEqual(
            [line["serial"] for line in self.get("/v1/history?limit=2").lines], [1200, 1201]
        )

    def test_search_ends_with_its_client(self) -> None:
        for _ in range(1200):
            self.execute()
        client = self.connect()
        client.send(b"GET /v1/history HTTP/1.1\r\nHost: a\r\n\r\n")
        run_turn(self.clock)
        client.disconnect()
        self.turns()
        self.assertEqual(self.clock.calls, [])

    def test_search_is_closed_at_its_end_and_with_its_client(self) -> None:
        history = Searches()
        self.observed.history = history  # type: ignore[assignment]
        self.assertEqual(len(self.get("/v1/history").lines), 1)
        self.assertEqual(history.closed, 1)
        history.last = Deferred()
        client = self.request("/v1/history")
        self.assertEqual(history.closed, 1)
        client.disconnect()
        self.assertEqual(history.closed, 2)
        self.assertEqual(self.context.jobs.streams, 0)

    def test_client_that_is_gone_while_it_does_not_read_leaves_no_timer(self) -> None:
        for _ in range(1200):
            self.execute()
        client = self.connect()
        client.send(b"GET /v1/history HTTP/1.1\r\nHost: a\r\n\r\n")
        run_turn(self.clock)
        client.pause()
        self.turns()
        self.assertGreaterEqual(len(self.clock.calls), 1)
        client.disconnect()
        self.turns()
        self.assertEqual(self.clock.calls, [])

    def test_failed_search_is_an_error_or_cuts_the_response(self) -> None:
        class Failing:
            def __init__(self, records: list[Record]) -> None:
                self.records = records

            def pages(self, query: object) -> Any:
                if self.records:
                    yield defer_of(self.records)
                yield defer_of(ZeroDivisionError())

        self.observed.history = Failing([])  # type: ignore[assignment]
        self.assert_refused(self.get("/v1/history"), 500, "logged")
        self.observed.history = Failing([Record()])  # type: ignore[assignment]
        client = self.request("/v1/history")
        self.assertFalse(client.connected)
        self.assertFalse(client.received().complete)
        self.assertEqual(self.flush(ZeroDivisionError), 2)


class Searches:
    """A history whose searches find one record; they are no generators, which close themselves.

    :ivar last: what the next search yields last; by default, an empty page.
    :ivar closed: searches that were closed.
    """

    def __init__(self) -> None:
        self.last: Deferred[list[Record]] = succeed([])
        self.closed = 0

    def pages(self, query: object) -> Searches:
        return self

    def __iter__(self) -> Iterator[Deferred[list[Record]]]:
        return iter([succeed([Record()]), self.last])

    def close(self) -> None:
        self.closed += 1


def defer_of(result: Any) -> Deferred[Any]:
    deferred: Deferred[Any] = Deferred()
    if isinstance(result, Exception):
        deferred.errback(result)
    else:
        deferred.callback(result)
    return deferred


class KillTests(ControlCase):
    def test_serial(self) -> None:
        self.register()
        self.register()
        (killed,) = self.post("/v1/kill", {"serial": 2}).json["translations"]
        self.assertEqual(
            (killed["serial"], killed["outcome"], killed["state"]), (2, "killed", "removed")
        )
        self.assertEqual(self.cancelled, [50_002])
        self.assertEqual([entry.serial for entry in self.table], [1])
        rows, _ = self.ring.read(2, 10)
        self.assertEqual(
            [(row[1], row[2], row[8]) for row in rows],
            [("kill", 2, None), ("removed", 2, "killed")],
        )
        self.assertEqual(rows[1][9], "killed by an administrator")

    def test_filter(self) -> None:
        for number in range(1200):
            self.register(b"GET a" if number % 2 else b"LIST")
        reply = self.post("/v1/kill", {"filter": "verb LIST"}).json
        self.assertEqual((len(reply["translations"]), len(self.table)), (600, 600))
        (event,) = [row for row in self.ring.read(0, 5000)[0] if row[1] == "kill"]
        self.assertEqual(event[9], "verb LIST")

    def test_dry_run_changes_nothing(self) -> None:
        self.register()
        reply = self.post("/v1/kill", {"all": True, "dry_run": True}).json
        self.assertEqual((len(reply["translations"]), reply["dry_run"]), (1, True))
        self.assertEqual((len(self.table), self.ring.next), (1, 2))

    def test_filter_of_the_event_is_printable_and_cut(self) -> None:
        for text, shown in (
            ("verb in (GET, 'a\n\x1b[31m')", r"verb in (GET, 'a\x0a\x1b[31m')"),
            ("verb GET" + " " * 4000, "verb GET" + " " * 1013 + "..."),
        ):
            self.register()
            self.assertEqual(self.post("/v1/kill", {"filter": text}).status, 200)
            reasons = [row[9] for row in self.ring.read(0, 5000)[0] if row[1] == "kill"]
            self.assertEqual(reasons[-1], shown)

    def test_nothing_that_matches_is_no_event(self) -> None:
        self.register()
        self.assertEqual(self.post("/v1/kill", {"serial": 99}).json["translations"], [])
        self.assertEqual(self.ring.next, 2)

    def test_refusals(self) -> None:
        self.register()
        members: Any
        for members, status, reason in (
            ({}, 400, "one of serial, filter and all"),
            (b"", 400, "one of serial, filter and all"),
            ({"all": False}, 400, "one of serial, filter and all"),
            ({"filter": ""}, 400, "the filter is empty"),
            ({"filter": "  "}, 400, "the filter is empty"),
            ({"serial": 1, "all": True}, 400, "one of serial, filter and all"),
            ({"serial": True}, 400, "serial: a whole number"),
            ({"serial": 1.5}, 400, "serial: a whole number"),
            ({"filter": "clint x"}, 400, "clint"),
            ({"filter": 5}, 400, "filter: a text is needed"),
            ({"filter": "\ud800"}, 400, "filter: "),
            ({"serial": 1, "x": 1}, 400, "unknown member 'x'"),
            (b"[]", 400, "not a JSON object"),
            (b"{", 400, "not JSON"),
            (b"[" * 60_000, 400, "not JSON"),
            ({"serial": 1, "boot": "other"}, 409, "the daemon has restarted"),
        ):
            self.assert_refused(self.post("/v1/kill", members), status, reason)
        self.assertEqual(len(self.table), 1)

    def test_client_that_is_gone_does_not_stop_it(self) -> None:
        for _ in range(200):
            self.register()
        client = self.connect()
        body = json.dumps({"all": True, "boot": "0123abcd"}).encode()
        client.send(
            b"POST /v1/kill HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        run_turn(self.clock)
        self.assertGreater(len(self.table), 0)
        client.disconnect()
        self.turns()
        self.assertEqual(len(self.table), 0)

    def test_turn_ends_few_commands(self) -> None:
        for _ in range(200):
            self.register()
        client = self.connect()
        client.send(b'POST /v1/kill HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{"all":true}')
        before = len(self.cancelled)
        while run_turn(self.clock):
            self.assertLessEqual(len(self.cancelled) - before, ENTRIES // 10 + 1)
            before = len(self.cancelled)
        self.assertEqual(len(self.cancelled), 200)


class DrainTests(ControlCase):
    def test_drains_once_after_the_response(self) -> None:
        client = self.connect()
        client.send(b"POST /v1/drain HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual((client.received().status, self.drained), (202, 0))
        self.turns()
        self.assertEqual(self.drained, 1)
        self.assert_refused(self.post("/v1/drain", {}), 409, "draining already")
        self.assertEqual(self.drained, 1)
        self.assertEqual([row[1] for row in self.ring.read(0, 9)[0]], ["drain"])

    def test_failure_to_drain_is_logged_and_can_be_repeated(self) -> None:
        self.observed.drain = lambda: 1 // 0
        self.post("/v1/drain", {})
        self.assertEqual(self.flush(ZeroDivisionError), 1)
        self.observed.drain = self.drain
        self.assertEqual(self.post("/v1/drain", {}).status, 202)
        self.assertEqual(self.drained, 1)
