from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.translations import query
from natproxy.cli.translations.query import (
    Interval,
    filter_text,
    interval_of,
    parse_port,
    query_of,
)
from natproxy.client.errors import UsageError

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND


class QueryCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(query, "now", lambda: NOW)


class PortTests(QueryCase):
    def test_forms(self) -> None:
        self.assertEqual(parse_port("40001"), (None, 40001))
        self.assertEqual(parse_port("a.example:40001"), ("a.example", 40001))
        self.assertEqual(parse_port("[fe80::1%eth0]:1"), ("fe80::1%eth0", 1))

    @given(text=st.text(alphabet="0123456789:[].a-+ ٣", max_size=12))
    def test_anything_else_is_a_usage_error(self, text: str) -> None:
        try:
            host, port = parse_port(text)
        except UsageError:
            return
        self.assertGreater(port, 0)
        shown = str(port) if host is None else f"{f'[{host}]' if ':' in host else host}:{port}"
        self.assertEqual(parse_port(shown), (host, port))

    def test_number_of_any_length_is_an_error_or_a_port(self) -> None:
        with self.assertRaises(UsageError):
            parse_port("9" * 5000)


class HostTests(QueryCase):
    def test_names_are_not_resolved(self) -> None:
        for place, upstream in (("localhost:1", None), ("1", "a.example"), ("1", "a.example:9001")):
            with self.assertRaisesRegex(UsageError, "an IP address is needed"):
                query_of(place, upstream=upstream)

    def test_addresses_and_unix_sockets(self) -> None:
        for upstream in ("10.0.0.9", "10.0.0.9:9001", "[::1]:9001", "::1", "unix/run/a.sock"):
            self.assertEqual(query_of("[fe80::1%eth0]:1", upstream=upstream).upstream, upstream)


class TimeTests(QueryCase):
    def test_time_is_as_long_as_its_last_unit(self) -> None:
        found = query_of("1", "2023-11-14T22:12Z")
        self.assertEqual((found.since, found.until), (NOW - 80 * SECOND, NOW - 20 * SECOND))

    def test_unit_that_has_not_passed_ends_now(self) -> None:
        found = query_of("1", "2023-11-14T22:13Z")
        self.assertEqual((found.since, found.until), (NOW - 20 * SECOND, NOW))

    def test_time_within_ends_now_at_most(self) -> None:
        found = query_of("1", "-10s", within=60.0)
        self.assertEqual((found.since, found.until), (NOW - 70 * SECOND, NOW))

    def test_future_is_a_usage_error(self) -> None:
        with self.assertRaisesRegex(UsageError, "in the future"):
            query_of("1", "2023-11-14T22:13:21Z", within=60.0)
        found = query_of("1", "now")
        self.assertEqual((found.since, found.until), (NOW, NOW))

    def test_time_of_day_that_has_not_come_yet_has_a_hint(self) -> None:
        with self.assertRaisesRegex(UsageError, "'23:59' is in the future; 'yesterday 23:59'"):
            query_of("1", "23:59")

    def test_interval(self) -> None:
        self.assertEqual(interval_of(None, None), Interval(None, None))
        self.assertEqual(interval_of("-1min", None), Interval(NOW - 60 * SECOND, None))
        found = interval_of("2023-11-14T22:12Z", "2023-11-14T22:12Z")
        self.assertEqual(found, Interval(NOW - 80 * SECOND, NOW - 20 * SECOND))
        with self.assertRaisesRegex(UsageError, "--since: .* is no time"):
            interval_of("then", None)
        with self.assertRaisesRegex(UsageError, "is before --since"):
            interval_of("-1min", "-2min")


class FilterTests(QueryCase):
    def test_words_are_joined(self) -> None:
        self.assertEqual(filter_text(["verb", "GET", "and name x"]), "verb GET and name x")
        self.assertEqual(filter_text([]), "")

    def test_error_points_at_the_word(self) -> None:
        with self.assertRaises(UsageError) as caught:
            filter_text(["verb", "GET", "or", "vreb", "LS"])
        _, text, caret = str(caught.exception).splitlines()
        self.assertEqual(caret.rstrip("^"), " " * text.index("vreb"))
