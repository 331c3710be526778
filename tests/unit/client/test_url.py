"""URLs of servers and of paths on them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import Address, Session, UsageError, parse_server, parse_url
from natproxy.client.url import is_url, parse_path


class UrlTests(SynchronousTestCase):
    def test_url_has_a_server_and_a_path(self) -> None:
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
            server, path = expected
            self.assertTrue(is_url(text))
            self.assertEqual(parse_url(text), ((server, False), path))

    def test_url_with_tls(self) -> None:
        for text, expected in (
            ("natproxys://h:80/a/b c", (("h", 80), "a/b c")),
            ("natproxys://h/a", (("h", 9443), "a")),
            ("NatProxys://[::1]/", (("::1", 9443), "")),
        ):
            server, path = expected
            self.assertTrue(is_url(text))
            self.assertEqual(parse_url(text), ((server, True), path))
            self.assertEqual(parse_path(text), ((server, True), path))

    def test_tls_of_a_setting_is_never_taken_back_by_a_scheme(self) -> None:
        self.assertEqual(parse_url("natproxy://h/a", tls=True), ((("h", 9443), True), "a"))
        self.assertEqual(parse_server("natproxy://h", tls=True), (("h", 9443), True))
        self.assertEqual(parse_server("h", tls=True), (("h", 9443), True))
        self.assertEqual(parse_server("h:80", tls=True), (("h", 80), True))
        self.assertEqual(parse_server("natproxys://h:80"), (("h", 80), True))

    def test_server_needs_a_tcp_port(self) -> None:
        for port in (-1, 0, 65_536, 70_000):
            error = self.assertRaises(UsageError, Session, Address("h", port))
            self.assertEqual(str(error), "server 'h': the port must be from 1 to 65535")
        for port in (1, 65_535):
            Session(Address("h", port))

    def test_path_is_literal(self) -> None:
        for path in ("%41", "a?b#c", "\udcff", "a%", "x:y@z", "natproxy://h/a"):
            self.assertEqual(parse_url(f"natproxy://h:1/{path}"), ((("h", 1), False), path))

    def test_malformed_url_is_a_usage_error(self) -> None:
        for text in ("a", "http://h/a", "natproxy:/h/a", "natproxy://", "natproxy:///a"):
            error = self.assertRaises(UsageError, parse_url, text)
            self.assertEqual(str(error), f"'{text}': natproxy://HOST:PORT/PATH is needed")
        for text in ("natproxy://h:0/a", "natproxy://::1/a", "natproxy://:80/a"):
            self.assertRaises(UsageError, parse_url, text)
        self.assertFalse(is_url("natproxy"))

    def test_path_or_a_url_with_this_scheme(self) -> None:
        for text, expected in (
            ("a/b", (None, "a/b")),
            ("a:/b", (None, "a:/b")),
            ("natproxy://h:1/a", ((("h", 1), False), "a")),
        ):
            self.assertEqual(parse_path(text), expected)
        for text in ("http://h:1/a", "HTTPS://h/a", "s3://b/a"):
            error = self.assertRaises(UsageError, parse_path, text)
            self.assertEqual(str(error), f"'{text}': natproxy://HOST:PORT/PATH is needed")

    def test_malformed_address_is_a_usage_error(self) -> None:
        self.assertEqual(parse_server("h:80"), (("h", 80), False))
        error = self.assertRaises(UsageError, parse_server, "h:x")
        self.assertEqual(str(error), "server 'h:x': HOST:PORT is needed")
