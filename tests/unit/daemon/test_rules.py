"""Rules of a daemon's settings: times, sizes, names."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.rules import SIZES, SPANS, Name, Size, TimeSpan
from natproxy.settings import Rule


class RuleTests(SynchronousTestCase):
    def assert_invalid(self, rule: Rule[Any], message: str, *values: object) -> None:
        for value in values:
            error = self.assertRaises(ValueError, rule.check, value)
            self.assertEqual(str(error), message, value)

    def test_time_spans(self) -> None:
        for value, seconds in (
            (90, 90),
            (1.5, 1.5),
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("12h", 43_200),
            ("0.5h", 1800),
            ("90d", 7_776_000),
            ("2w", 1_209_600),
        ):
            self.assertEqual(TimeSpan().check(value), seconds)
        message = "must be a time of at least 1 seconds, such as 90d or 12h"
        wrong = ("", "d", "9 d", "90D", "9y", "-1", "1e3", "٣d", "inf", "0", "9" * 30, 0, True)
        self.assert_invalid(TimeSpan(), message, *wrong, None, [1], float("nan"), 10**400)

    def test_sizes(self) -> None:
        for value, size in ((5, 5), ("5", 5), ("4K", 4096), ("1.5M", 3 << 19), ("10G", 10 << 30)):
            self.assertEqual(Size().check(value), size)
        message = "must be a size of at least 1M bytes, such as 10G or 512M"
        wrong = ("", "G", "10g", "10GB", "-1", "1e9", "1023K", 5, True, 2e6, None, "9" * 18 + "T")
        self.assert_invalid(Size(1 << 20), message, *wrong)

    @given(st.integers(1, 50_000), st.sampled_from(sorted(SPANS)))
    def test_shown_time_spans_are_read_again(self, number: int, unit: str) -> None:
        seconds = float(number * SPANS[unit])
        self.assertEqual(TimeSpan().check(TimeSpan().show(seconds).strip('"')), seconds)

    @given(st.integers(1, 10**6), st.sampled_from(sorted(SIZES)))
    def test_shown_sizes_are_read_again(self, number: int, unit: str) -> None:
        size = number * SIZES[unit]
        self.assertEqual(Size().check(Size().show(size).strip('"')), size)

    def test_values_without_a_whole_unit(self) -> None:
        self.assertEqual(TimeSpan().show(1.5), "1.5")
        self.assertEqual(Size().show(1025), "1025")

    def test_names(self) -> None:
        for name in ("proxy-9000", "a", "_b.c", "A" * 64):
            self.assertEqual(Name().check(name), name)
        message = (
            "must be at most 64 letters of ASCII, digits, _, . and -, not begin with . or -, and"
            " not end with .w0 or the like, as the sockets of workers do"
        )
        self.assertEqual(Name().check("a.w"), "a.w")
        wrong = (
            "",
            "a.w0",
            "a.w12",
            "a.w1.2",
            ".",
            "..",
            "-a",
            ".a",
            "a/b",
            "a b",
            "a\n",
            "ä",
            "A" * 65,
            "a\0",
            1,
            None,
        )
        self.assert_invalid(Name(), message, *wrong)
