"""How people say where a server is, and what on it they mean."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import Server, UsageError, parse_url
from natproxy.client.address import is_url, parse_path


class ServerAddressTests(SynchronousTestCase):
    def test_forms_that_are_understood(self) -> None:
        for text, expected in (
            ("example.org:80", ("example.org", 80)),
            ("example.org", ("example.org", 9000)),
            ("[::1]:80", ("::1", 80)),
            ("[::1]", ("::1", 9000)),
            ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
            ("[fe80::1%25eth0]:1", ("fe80::1%eth0", 1)),
            ("[fe80::1%2525]", ("fe80::1%25", 9000)),
            ("[fe80::1%25]", ("fe80::1%25", 9000)),
            ("h:65535", ("h", 65535)),
            ("natproxy://h:80", ("h", 80)),
            ("NatProxy://h/", ("h", 9000)),
            ("natproxy://[::1]:80/", ("::1", 80)),
        ):
            self.assertEqual(Server.parse(text), expected)

    def test_forms_that_are_refused(self) -> None:
        for text in (
            *("", ":80", "host:", "host:0", "host:65536", "host:x", "::1:80", "::1", "h:\u0665"),
            *("[]", "[]:80", "[::1", "::1]:80", "h:-1", "h:+1", "h: 1", "h:1 ", "h:" + "9" * 5000),
        ):
            error = self.assertRaises(UsageError, Server.parse, text)
            self.assertIn(text, str(error))
        for text in ("tcp:127.0.0.1:80", "natproxy:h:80", " h:80", "\th", "h h:80"):
            error = self.assertRaises(UsageError, Server.parse, text)
            self.assertEqual(str(error), f"server '{text}': HOST:PORT is needed")
        for text in ("::1", "fe80::1%eth0", "::ffff:10.0.0.1:80"):
            error = self.assertRaises(UsageError, Server.parse, text)
            self.assertIn("an IPv6 address is written [ADDRESS]:PORT", str(error))

    def test_url_in_the_place_of_a_server_names_no_path_and_no_other_scheme(self) -> None:
        error = self.assertRaises(UsageError, Server.parse, "natproxy://h:80/a/b")
        self.assertIn("names a path", str(error))
        for text in ("http://h:80", "https://h", "ftp://h/a"):
            error = self.assertRaises(UsageError, Server.parse, text)
            self.assertEqual(
                str(error), f"server '{text}': HOST:PORT or natproxy://HOST:PORT is needed"
            )
        for text in ("natproxy://", "natproxy:///", "natproxy:///a", "natproxy://h:0"):
            self.assertRaises(UsageError, Server.parse, text)

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
            ("natproxy://[fe80::1%25eth0]/a%25", (("fe80::1%eth0", 9000), "a%25")),
            ("natproxy://[fe80::1%eth0]/a", (("fe80::1%eth0", 9000), "a")),
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
            error = self.assertRaises(UsageError, parse_url, text)
            self.assertEqual(str(error), f"'{text}': natproxy://HOST:PORT/PATH is needed")
        for text in ("natproxy://h:0/a", "natproxy://::1/a", "natproxy://:80/a"):
            self.assertRaises(UsageError, parse_url, text)
        self.assertFalse(is_url("natproxy"))

    def test_path_may_be_a_url_and_no_other_than_ours(self) -> None:
        for text, expected in (
            ("a/b", (None, "a/b")),
            ("a:/b", (None, "a:/b")),
            ("natproxy://h:1/a", (("h", 1), "a")),
        ):
            self.assertEqual(parse_path(text), expected)
        for text in ("http://h:1/a", "HTTPS://h/a", "s3://b/a"):
            error = self.assertRaises(UsageError, parse_path, text)
            self.assertEqual(str(error), f"'{text}': natproxy://HOST:PORT/PATH is needed")
