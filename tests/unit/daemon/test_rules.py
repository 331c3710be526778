"""Rules of a daemon's settings: times, sizes, names."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.rules import (
    MOST_WORKERS,
    SIZES,
    SPANS,
    LocalAddresses,
    Name,
    Size,
    TimeSpan,
    WorkerNumber,
    worker_count,
)
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

    def test_numbers_of_workers(self) -> None:
        for text, number in (("1", 1), ("256", MOST_WORKERS), ("auto", "auto")):
            self.assertEqual(WorkerNumber().parse(text), number)
        for text in ("0", "257", "", "-1", "two", "٣", "9" * 30):
            self.assertRaises(ValueError, WorkerNumber().parse, text)
        message = f"must be a number from 1 to {MOST_WORKERS}, or auto"
        self.assert_invalid(WorkerNumber(), message, 0, MOST_WORKERS + 1, 1.0, True, None, "2")

    def test_number_of_workers_for_the_cores(self) -> None:
        self.assertEqual(worker_count(3), 3)
        for cores, expected in ((1, 1), (8, 8), (1000, MOST_WORKERS)):
            with mock.patch.object(os, "sched_getaffinity", return_value=range(cores), create=True):
                self.assertEqual(worker_count("auto"), expected)
        with (
            mock.patch.object(os, "sched_getaffinity", create=True),
            mock.patch.object(os, "cpu_count", return_value=6),
        ):
            del os.sched_getaffinity
            self.assertEqual(worker_count("auto"), 6)

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

    def test_local_addresses(self) -> None:
        rule = LocalAddresses()
        self.assertEqual(rule.parse("10.0.0.2 fd00::2"), ("10.0.0.2", "fd00::2"))
        self.assertEqual(rule.check("fe80::1%eth0"), ("fe80::1%eth0",))
        self.assertEqual(rule.check([]), ())
        for wrong in ("localhost", "0.0.0.0", "::", "10.0.0.2:0", "[fd00::2]", "10.0.0.0/8"):
            error = self.assertRaises(ValueError, rule.check, wrong)
            self.assertEqual(
                str(error), "must be addresses of this machine, such as 10.0.0.2 or fd00::2"
            )
        error = self.assertRaises(ValueError, rule.check, ["10.0.0.2", "10.0.0.2"])
        self.assertEqual(str(error), "must not name an address twice")

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
