"""`Address`: the forms of HOST:PORT that are parsed, and how an address is formatted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import FIRST_STAND_IN_PORT, Address, AddressError


class AddressTests(SynchronousTestCase):
    def test_what_has_brackets_and_is_no_ipv6_address_is_refused(self) -> None:
        for text in ("[%2525:%25::%25:\x05]", "[host]", "[::1%2525a]", "[::1%a%b]", "[::1%]"):
            with self.assertRaises(AddressError):
                Address.parse(text)

    def test_valid_forms(self) -> None:
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
            self.assertEqual(Address.parse(text), expected)

    def test_malformed_forms(self) -> None:
        for text in (
            *("", ":80", "host:", "host:0", "host:65536", "host:x", "::1:80", "::1", "h:\u0665"),
            *("[[]]", "[[]]:80", "[a]b]:80", "[a b]:80", "[ ]:80"),
            *("[]", "[]:80", "[::1", "::1]:80", "h:-1", "h:+1", "h: 1", "h:1 ", "h:" + "9" * 5000),
        ):
            error = self.assertRaises(ValueError, Address.parse, text)
            self.assertIn(text, str(error))
        for text in ("tcp:127.0.0.1:80", "natproxy:h:80", " h:80", "\th", "h h:80"):
            error = self.assertRaises(ValueError, Address.parse, text)
            self.assertEqual(str(error), f"server {text!r}: HOST:PORT is needed")
        for text in ("::1", "fe80::1%eth0", "::ffff:10.0.0.1:80"):
            error = self.assertRaises(ValueError, Address.parse, text)
            self.assertIn("an IPv6 address is written [ADDRESS]:PORT", str(error))

    def test_url_with_a_path_or_another_scheme_is_an_error(self) -> None:
        error = self.assertRaises(ValueError, Address.parse, "natproxy://h:80/a/b")
        self.assertIn("names a path", str(error))
        for text in ("http://h:80", "https://h", "ftp://h/a"):
            error = self.assertRaises(ValueError, Address.parse, text)
            self.assertEqual(
                str(error), f"server '{text}': HOST:PORT or natproxy://HOST:PORT is needed"
            )
        for text in ("natproxy://", "natproxy:///", "natproxy:///a", "natproxy://h:0"):
            self.assertRaises(ValueError, Address.parse, text)

    @given(st.ip_addresses(v=6).map(str), st.integers(1, 65535))
    def test_formatted_address_parses_to_the_same_address(self, host: str, port: int) -> None:
        self.assertEqual(Address.parse(str(Address(host, port))), (host, port))

    @given(st.text())
    def test_any_text_is_an_address_or_a_value_error(self, text: str) -> None:
        try:
            address = Address.parse(text)
        except ValueError:
            return
        self.assertTrue(address.host)
        self.assertTrue(0 < address.port < 65536)

    def test_stand_in_port_is_not_formatted_as_a_port(self) -> None:
        self.assertEqual(str(Address("unix", FIRST_STAND_IN_PORT)), "unix#65536")
        self.assertEqual(str(Address("::1", 80)), "[::1]:80")
