"""Filters in plain English."""

from __future__ import annotations

from datetime import timezone

from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.filter import parse
from natproxy.records.filter.explanation import show_duration
from tests.support.filters import NOW


class ExplainTests(SynchronousTestCase):
    def test_sentences(self) -> None:
        for text, expected in (
            ("", "Everything."),
            ("verb GET", "The verb is GET."),
            ("not verb GET", "The verb is not GET."),
            ("verb GET,LIST", "The verb is GET or LIST."),
            ("verb != GET", "The verb exists and is not GET."),
            ("outcome none", "The outcome does not exist."),
            ("not outcome none", "The outcome exists."),
            ("outcome != none", "The outcome exists."),
            ("outcome none,error", "The outcome is error or missing."),
            ("name '*.iso'", "The file name is like '*.iso'."),
            ("client 10.0.0.9/24", "The client is in 10.0.0.0/24."),
            ("client :5", "The client is at port 5."),
            ("nat-port 1-5", "The proxy's port to the upstream is from 1 to 5."),
            ("age > 90s", "The time since the start is more than 90 s."),
            ("not age > 90s", "The time since the start is not more than 90 s."),
            (
                "bytes > 1M and (verb GET or verb LS)",
                "The number of bytes passed to the client is more than 1,048,576,"
                " and (the verb is GET, or the verb is LS).",
            ),
            ("not (verb GET or verb LS)",
             "It is not true that (the verb is GET, or the verb is LS)."),
        ):  # fmt: skip
            self.assertEqual(parse(text, NOW, timezone.utc).explain(), expected)

    def test_characters_that_are_not_printable_are_replaced(self) -> None:
        for text in ("name 'a\x1b[2J\udcff\n'", "client fe80::1%\x1b[2J", "client 'unix \x07'"):
            self.assertTrue(parse(text).explain().isprintable(), text)

    def test_times_have_an_offset(self) -> None:
        self.assertRegex(
            parse("started > 2026-11-26T03:59Z").explain(),
            r"^The start is not before 2026-11-2\d \d\d:\d\d:00.000000 [+-]\d\d:\d\d\.$",
        )

    def test_durations(self) -> None:
        for microseconds, text in (
            (0, "0 s"),
            (5, "5 us"),
            (1500, "1500 us"),
            (2000, "2 ms"),
            (90_000_000, "90 s"),
            (120_000_000, "2 min"),
            (3_600_000_000, "1 h"),
            (172_800_000_000, "2 d"),
        ):
            self.assertEqual(show_duration(microseconds), text)
