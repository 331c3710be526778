"""Requests that the web endpoint refuses, and the headers of every response."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.web.guard import Directory, host_in, is_accepted
from natproxy.web.site import WebSite
from natproxy.web.static import File
from tests.support.http import Response, exchange, respond


class SiteCase(SynchronousTestCase):
    def setUp(self) -> None:
        root = Directory()
        root.putChild(b"", File("page.html", b"the page", "no-store"))
        root.putChild(b"v1", File("data.txt", b"data", "no-store"))
        self.site = WebSite(root, Clock(), ("natproxy.example", "Other.Example"))

    def assert_refused(self, response: Response, status: int, words: str) -> None:
        self.assertEqual(response.status, status)
        self.assertEqual(response.headers["content-type"], "application/json")
        self.assertIn(words, json.loads(response.body)["error"])


class HostTests(SiteCase):
    def test_addresses_localhost_and_declared_names_are_accepted(self) -> None:
        for host in (
            "127.0.0.1",
            "10.0.0.1:9080",
            "[::1]:9080",
            "[2001:db8::1]",
            "localhost:9080",
            "LocalHost",
            "natproxy.example",
            "NATPROXY.example:9080",
            "other.example",
        ):
            self.assertEqual(respond(self.site, host=host).status, 200, host)

    def test_name_that_was_not_declared_is_refused(self) -> None:
        for host in (
            "evil.example",
            "natproxy.example.evil.example",
            "evil.natproxy.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "0x7f000001",
        ):
            response = respond(self.site, host=host)
            self.assert_refused(response, 421, f"the host name {host} is not accepted")
            self.assertIn("--web-host", json.loads(response.body)["error"])

    def test_request_without_one_valid_host_is_refused(self) -> None:
        for host in ("", "a b", "user@127.0.0.1", "127.0.0.1/", "127.0.0.1:port", "[::1", "ü"):
            self.assert_refused(respond(self.site, host=host), 400, "Host header")
        twice = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n"
        self.assert_refused(exchange(self.site, twice), 400, "Host header")
        self.assert_refused(exchange(self.site, b"GET / HTTP/1.0\r\n\r\n"), 400, "Host header")

    @given(st.text(max_size=40))
    def test_only_what_looks_like_an_address_or_a_declared_name_is_accepted(
        self, header: str
    ) -> None:
        host = host_in(header)
        if host is not None and is_accepted(host, ("natproxy.example",)):
            self.assertRegex(host, r"^(localhost|natproxy\.example|[0-9.]+|[0-9a-f:.]+)$")


class OriginTests(SiteCase):
    def test_page_of_the_same_site_is_served(self) -> None:
        for origin in ("http://127.0.0.1:9080", "https://127.0.0.1:9080"):
            self.assertEqual(respond(self.site, "/v1", Origin=origin).status, 200)
        for site in ("same-origin", "none"):
            self.assertEqual(respond(self.site, "/v1", Sec_Fetch_Site=site).status, 200)

    def test_request_of_another_site_is_refused(self) -> None:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:9081", "http://127.0.0.1"):
            self.assert_refused(respond(self.site, "/v1", Origin=origin), 403, "other sites")
        for site in ("cross-site", "same-site", "anything"):
            self.assert_refused(respond(self.site, "/v1", Sec_Fetch_Site=site), 403, "other sites")

    def test_link_of_another_site_leads_to_the_page_only(self) -> None:
        link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "document"}
        self.assertEqual(respond(self.site, "/", **link).status, 200)
        self.assertEqual(respond(self.site, "/v1", **link).status, 403)
        frame = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "iframe"}
        self.assertEqual(respond(self.site, "/", **frame).status, 403)


class MethodTests(SiteCase):
    def test_only_get_and_head_are_served(self) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "NONSENSE"):
            response = respond(self.site, "/v1", method, Content_Length="0")
            self.assert_refused(response, 405, "read-only")
            self.assertEqual(response.headers["allow"], "GET, HEAD")

    def test_head_has_the_headers_of_get_and_no_body(self) -> None:
        response = respond(self.site, method="HEAD")
        self.assertEqual((response.status, response.body), (200, b""))
        self.assertEqual(response.headers["content-length"], "8")


class HeadersTests(SiteCase):
    def test_every_response_has_them(self) -> None:
        for response in (
            respond(self.site),
            respond(self.site, "/nothing"),
            respond(self.site, host="evil.example"),
        ):
            headers = response.headers
            policy = headers["content-security-policy"].split("; ")
            for directive in (
                "default-src 'none'",
                "script-src 'self'",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            ):
                self.assertIn(directive, policy)
            self.assertNotIn("unsafe", headers["content-security-policy"])
            self.assertEqual(headers["x-content-type-options"], "nosniff")
            self.assertEqual(headers["referrer-policy"], "no-referrer")
            self.assertEqual(headers["cross-origin-resource-policy"], "same-origin")
            self.assertEqual(headers["cross-origin-opener-policy"], "same-origin")
            self.assertEqual(headers["cache-control"], "no-store")
            self.assertEqual(headers["server"], "natproxy")
            self.assertNotIn("access-control-allow-origin", headers)

    def test_unknown_path_is_an_error_in_json(self) -> None:
        for path in ("/nothing", "//", "/v1/../etc", "/%2e%2e/%2e%2e/etc/passwd"):
            self.assert_refused(respond(self.site, path), 404, "no such page")
