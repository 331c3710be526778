"""The resources of the web endpoint."""

from __future__ import annotations

import json

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.control.interfaces import Observed
from natproxy.control.json_resource import Context
from natproxy.control.recent import RingHistory
from natproxy.control.table import LocalTable
from natproxy.nat import NATTable
from natproxy.nat.ring import EventRing
from natproxy.records.record import Origin
from natproxy.web.site import web_site
from tests.support.http import respond


class ProxySiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        table = NATTable(self.clock.seconds, lambda: 1.8e9)
        origin = Origin("proxy-9000", 0, "b1")
        ring = EventRing(table, origin, size=16)
        entries = LocalTable(table, ring, self.clock.seconds)
        self.drained: list[None] = []
        observed = Observed(
            "proxy",
            origin,
            lambda: {"name": "proxy-9000"},
            lambda: None,
            lambda: self.drained.append(None),
            entries,
            ring,
            RingHistory(self.clock, ring, entries),
        )
        self.site = web_site(Context(observed, self.clock), ("natproxy.example",))
        self.site.startFactory()

    def tearDown(self) -> None:
        self.site.stopFactory()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_root_is_the_page_with_the_digest_of_its_files(self) -> None:
        response = respond(self.site, host="natproxy.example")
        self.assertEqual(response.status, 200)
        self.assertEqual(response.headers["content-type"], "text/html; charset=utf-8")
        self.assertNotIn(b"@version@", response.body)
        self.assertIn(b"page.js", response.body)

    def test_resources_of_the_control_socket_are_there_with_the_headers_of_the_page(self) -> None:
        for path in ("/v1/status", "/healthz", "/readyz"):
            response = respond(self.site, path)
            self.assertEqual(response.status, 200, path)
            self.assertEqual(response.headers["cache-control"], "no-store")
            self.assertIn("default-src 'none'", response.headers["content-security-policy"])

    def test_nothing_can_be_changed(self) -> None:
        for path in ("/v1/kill", "/v1/drain"):
            self.assertEqual(respond(self.site, path, "POST", Content_Length="0").status, 405)
            self.assertEqual(respond(self.site, path).status, 404)
        self.assertEqual(self.drained, [])

    def test_resources_are_refused_to_other_sites_and_names(self) -> None:
        for path in ("/v1/table", "/v1/events", "/v1/whois?port=1", "/page/rates", "/metrics"):
            self.assertEqual(respond(self.site, path, host="evil.example").status, 421, path)
            self.assertEqual(respond(self.site, path, Origin="http://evil.example").status, 403)

    def test_rates_are_those_since_the_endpoint_listens(self) -> None:
        self.clock.advance(1)
        self.clock.advance(1)
        response = respond(self.site, "/page/rates?after=1")
        self.assertEqual(response.headers["content-type"], "application/json")
        rates = json.loads(response.body)
        self.assertEqual(rates["boot"], "b1")
        self.assertEqual([second[0] for second in rates["seconds"]], [2])

    def test_malformed_number_is_refused(self) -> None:
        for text in ("x", "-1", "", "1" * 16, "%FF"):
            for name in ("after", "error"):
                response = respond(self.site, f"/page/rates?{name}={text}")
                self.assertEqual(response.status, 400, text)


class FileServerSiteTests(SynchronousTestCase):
    def test_file_server_has_a_page_of_its_status_and_no_table(self) -> None:
        observed = Observed(
            "fileserver",
            Origin("files-9001", 0, "b1"),
            lambda: {"name": "files-9001"},
            lambda: "draining",
            lambda: None,
        )
        site = web_site(Context(observed, Clock()))
        self.assertIn(b"status.js", respond(site).body)
        self.assertEqual(respond(site, "/v1/status").status, 200)
        self.assertEqual(respond(site, "/readyz").status, 503)
        for path in ("/v1/table", "/v1/events", "/v1/whois?port=1", "/page/rates"):
            self.assertEqual(respond(site, path).status, 404, path)
