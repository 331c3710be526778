"""How people say where a server is, and what on it they mean."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import Server, UsageError, parse_url
from natproxy.client.address import is_url


class ServerAddressTests(SynchronousTestCase):
    def test_forms_that_are_understood(self) -> None:
        for text, expected in (
            ("example.org:80", ("example.org", 80)),
            ("example.org", ("example.org", 9000)),
            ("[::1]:80", ("::1", 80)),
            ("[::1]", ("::1", 9000)),
            ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
            ("h:65535", ("h", 65535)),
        ):
            self.assertEqual(Server.parse(text), expected)

    def test_forms_that_are_refused(self) -> None:
        for text in (
            *("", ":80", "host:", "host:0", "host:65536", "host:x", "::1:80", "::1", "h:\u0665"),
            *("[]", "[]:80", "[::1", "::1]:80", "h:-1", "h:+1", "h: 1", "h:1 ", "h:" + "9" * 5000),
        ):
            error = self.assertRaises(UsageError, Server.parse, text)
            self.assertIn(text, str(error))

    @given(st.ip_addresses(v=6).map(str), st.integers(1, 65535))
    def test_text_reads_back_as_the_same_address(self, host: str, port: int) -> None:
        self.assertEqual(Server.parse(str(Server(host, port))), (host, port))

    @given(st.text())
    def test_any_text_is_an_address_or_wrong_usage(self, text: str) -> None:
        try:
            server = Server.parse(text)
        except UsageError:
            return
        self.assertTrue(server.host)
        self.assertTrue(0 < server.port < 65536)


class UrlTests(SynchronousTestCase):
    def test_server_and_path_are_told_apart(self) -> None:
        for text, expected in (
            ("natproxy://h:80/a/b c", (("h", 80), "a/b c")),
            ("natproxy://h/a", (("h", 9000), "a")),
            ("natproxy://[::1]:80/", (("::1", 80), "")),
            ("natproxy://h", (("h", 9000), "")),
            ("NatProxy://H:1/A", (("H", 1), "A")),
            ("natproxy://h//a/", (("h", 9000), "/a/")),
        ):
            self.assertTrue(is_url(text))
            self.assertEqual(parse_url(text), expected)

    def test_path_is_taken_as_it_stands(self) -> None:
        for path in ("%41", "a?b#c", "\udcff", "a%", "x:y@z", "natproxy://h/a"):
            self.assertEqual(parse_url(f"natproxy://h:1/{path}"), (("h", 1), path))

    def test_what_is_no_url_is_refused(self) -> None:
        for text in ("a", "http://h/a", "natproxy:/h/a", "natproxy://", "natproxy:///a"):
            self.assertRaises(UsageError, parse_url, text)
        for text in ("natproxy://h:0/a", "natproxy://::1/a", "natproxy://:80/a"):
            self.assertRaises(UsageError, parse_url, text)
        self.assertFalse(is_url("natproxy"))
