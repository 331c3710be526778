"""Times as people write and read them."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.record import format_time, parse_time
from natproxy.records.times import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Moment,
    TimeError,
    parse_duration,
    parse_moment,
    show_local,
)

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
"""The rule of a local time with changes on the last Sundays of March and October."""

NOW = parse_time("2026-11-26T14:30:00Z")
CET = timezone(timedelta(hours=1))


def moment(text: str, now: int = NOW, zone: timezone | None = CET) -> tuple[str, int]:
    """Return the begin in UTC without a needless fraction, and the length."""
    since, until = parse_moment(text, now, zone)
    return format_time(since).replace(".000000Z", "Z"), until - since


class MomentTests(SynchronousTestCase):
    def test_iso(self) -> None:
        for text, since, length in (
            ("2026-11-26", "2026-11-25T23:00:00Z", DAY),
            ("2026-11-26T14", "2026-11-26T13:00:00Z", HOUR),
            ("2026-11-26 14:03", "2026-11-26T13:03:00Z", MINUTE),
            ("2026-11-26T14:03:07", "2026-11-26T13:03:07Z", SECOND),
            ("2026-11-26T14:03:07.5", "2026-11-26T13:03:07.500000Z", SECOND // 10),
            ("2026-11-26T14:03:07,123", "2026-11-26T13:03:07.123000Z", 1000),
            ("2026-11-26T14:03:07.123456Z", "2026-11-26T14:03:07.123456Z", 1),
            ("2026-11-26T14:03:07.123456789Z", "2026-11-26T14:03:07.123456Z", 1),
            ("2026-11-26t14:03z", "2026-11-26T14:03:00Z", MINUTE),
            ("2026-11-26T14:03+02:00", "2026-11-26T12:03:00Z", MINUTE),
            ("2026-11-26T14:03-0330", "2026-11-26T17:33:00Z", MINUTE),
            ("2026-11-26 14:03:07 +02", "2026-11-26T12:03:07Z", SECOND),
            ("2026/11/26 14:03:07", "2026-11-26T13:03:07Z", SECOND),
            ("20261126T140307Z", "2026-11-26T14:03:07Z", SECOND),
            ("2026-12-31T23:59:60Z", "2027-01-01T00:00:00Z", SECOND),
        ):
            self.assertEqual(moment(text), (since, length), text)

    def test_times_of_logs(self) -> None:
        for text, since, length in (
            ("26/Nov/2026:14:03:07 +0100", "2026-11-26T13:03:07Z", SECOND),
            ("[26/Nov/2026:14:03:07 +0000]", "2026-11-26T14:03:07Z", SECOND),
            ("Nov 26 14:03:07", "2026-11-26T13:03:07Z", SECOND),
            ("Nov  6 14:03:07.25", "2026-11-06T13:03:07.250000Z", 10_000),
            ("Thu Nov 26 14:03:07 2026", "2026-11-26T13:03:07Z", SECOND),
            ("Thu, 26 Nov 2026 14:03:07 +0100", "2026-11-26T13:03:07Z", SECOND),
            ("Thu, 26 Nov 2026 14:03:07 GMT", "2026-11-26T14:03:07Z", SECOND),
            ("26 nov 2026", "2026-11-25T23:00:00Z", DAY),
            ("@1764165787.5", "2025-11-26T14:03:07.500000Z", SECOND // 10),
            ("@1764165787", "2025-11-26T14:03:07Z", SECOND),
        ):
            self.assertEqual(moment(text), (since, length), text)

    def test_syslog_without_a_year_is_the_last_such_day(self) -> None:
        self.assertEqual(moment("Dec 31 23:59:59")[0], "2025-12-31T22:59:59Z")
        early = parse_time("2029-01-02T00:00:00Z")
        self.assertEqual(moment("Feb 29 12:00:00", early)[0], "2028-02-29T11:00:00Z")
        with self.assertRaisesRegex(TimeError, "no such day"):
            moment("Feb 29 12:00:00")

    def test_relative(self) -> None:
        for text, since, length in (
            ("14:03", "2026-11-26T13:03:00Z", MINUTE),
            ("14:03:07.5", "2026-11-26T13:03:07.500000Z", SECOND // 10),
            ("14:03Z", "2026-11-26T14:03:00Z", MINUTE),
            ("-10min", "2026-11-26T14:20:00Z", 1),
            ("-2h30min", "2026-11-26T12:00:00Z", 1),
            ("-1.5h", "2026-11-26T13:00:00Z", 1),
            (" -90 ", "2026-11-26T14:28:30Z", 1),
            ("now", "2026-11-26T14:30:00Z", 1),
            ("today", "2026-11-25T23:00:00Z", DAY),
            ("yesterday", "2026-11-24T23:00:00Z", DAY),
            ("Yesterday 17:00", "2026-11-25T16:00:00Z", MINUTE),
            ("yesterday at 17:00Z", "2026-11-25T17:00:00Z", MINUTE),
        ):
            self.assertEqual(moment(text), (since, length), text)

    def test_day_is_that_of_the_zone(self) -> None:
        late = parse_time("2026-11-26T23:30:00Z")
        self.assertEqual(moment("00:10", late)[0], "2026-11-26T23:10:00Z")
        self.assertEqual(moment("00:10Z", late)[0], "2026-11-26T00:10:00Z")
        self.assertEqual(moment("yesterday", late)[0], "2026-11-25T23:00:00Z")

    def test_future_is_returned(self) -> None:
        self.assertEqual(moment("23:59")[0], "2026-11-26T22:59:00Z")

    def test_errors_name_what_is_wrong(self) -> None:
        for text, reason in (
            ("", "none of the known forms"),
            ("soon", "none of the known forms"),
            ("25:00", "no such time of day"),
            ("14:60", "no such time of day"),
            ("2026-02-30", "no such day"),
            ("2026-13-01 10:00", "no such day"),
            ("1969-01-01", "between 1970 and 9998"),
            ("9999-12-31", "between 1970 and 9998"),
            ("-9999999999h", "between 1970 and 9998"),
            ("@999999999999", "between 1970 and 9998"),
            ("1970-01-01T00:00+14:00", "between 1970 and 9998"),
            ("14:03+25:00", "there is no zone"),
            ("14:03+01:75", "there is no zone"),
            ("14:03 CEST", r"write the zone CEST as an offset such as \+01:00"),
            ("1764165787", "with an @"),
            ("+10min", "in the future"),
            ("-10parsec", "the units are us"),
            ("-", "a number and a unit"),
            ("x" * 100, "more than 80 characters"),
        ):
            with self.assertRaisesRegex(TimeError, f"(?s).*{reason}.*examples: 14:03"):
                moment(text)

    def test_unprintable_text_is_not_shown(self) -> None:
        with self.assertRaises(TimeError) as caught:
            moment("\x1b[2J\n")
        self.assertTrue(str(caught.exception).isprintable())

    @given(st.text(max_size=90) | st.from_regex(r"-?[0-9:TZ+@. ]{0,30}[a-z]{0,5}", fullmatch=True))
    def test_any_text_is_a_time_or_raises(self, text: str) -> None:
        try:
            since, until = parse_moment(text, NOW, CET)
        except TimeError:
            return
        self.assertLess(since, until)

    def test_recorded_time_has_a_zone(self) -> None:
        for text in ("2026-11-26", "2026-11-26T14:03:07"):
            with self.assertRaisesRegex(ValueError, "no zone"):
                parse_time(text)

    @given(st.integers(0, parse_time("2200-01-01T00:00:00Z")))
    def test_shown_time_is_parsed(self, microseconds: int) -> None:
        for zone in (CET, timezone.utc, timezone(-timedelta(hours=3, minutes=30))):
            shown = show_local(microseconds, zone)
            self.assertEqual(parse_moment(shown, NOW, None), Moment(microseconds, microseconds + 1))
        self.assertEqual(
            parse_moment(format_time(microseconds), NOW), Moment(microseconds, microseconds + 1)
        )


class LocalTimeTests(SynchronousTestCase):
    """The local time of the system, where clocks are changed in March and October."""

    def setUp(self) -> None:
        before = os.environ.get("TZ")
        self.addCleanup(self.set_zone, before)
        self.set_zone(BERLIN)

    @staticmethod
    def set_zone(rule: str | None) -> None:
        if rule is None:
            os.environ.pop("TZ", None)
        else:
            os.environ["TZ"] = rule
        time.tzset()

    def test_offset_is_that_of_the_day(self) -> None:
        self.assertEqual(moment("2026-11-26 14:03", zone=None)[0], "2026-11-26T13:03:00Z")
        self.assertEqual(moment("2026-07-26 14:03", zone=None)[0], "2026-07-26T12:03:00Z")
        self.assertEqual(
            show_local(parse_time("2026-07-26T12:03:00.500000Z")),
            "2026-07-26 14:03:00.500000 +02:00",
        )

    def test_time_that_occurs_twice_needs_an_offset(self) -> None:
        with self.assertRaisesRegex(TimeError, r"occurs twice: add \+02:00 or \+01:00"):
            moment("2026-10-25 02:30:10", zone=None)
        self.assertEqual(moment("2026-10-25 02:30+02:00", zone=None)[0], "2026-10-25T00:30:00Z")
        self.assertEqual(moment("2026-10-25 02:30+01:00", zone=None)[0], "2026-10-25T01:30:00Z")
        self.assertEqual(moment("2026-10-25 03:00", zone=None)[0], "2026-10-25T02:00:00Z")

    def test_time_that_does_not_exist(self) -> None:
        with self.assertRaisesRegex(TimeError, "set forward then, and it does not exist"):
            moment("2026-03-29 02:30", zone=None)
        self.assertEqual(moment("2026-03-29 03:00", zone=None)[0], "2026-03-29T01:00:00Z")

    def test_length_of_a_day(self) -> None:
        self.assertEqual(moment("2026-03-29", zone=None)[1], 23 * HOUR)
        self.assertEqual(moment("2026-10-25", zone=None)[1], 25 * HOUR)

    def test_day_begins_after_a_gap_at_midnight(self) -> None:
        self.set_zone("XXX-2YYY,M3.5.0/0,M10.5.0/0")
        self.assertEqual(moment("2026-03-29", zone=None), ("2026-03-28T22:00:00Z", 23 * HOUR))

    def test_own_zone_of_python(self) -> None:
        now = datetime.now().astimezone()
        since, _ = parse_moment("now", round(now.timestamp() * 1e6))
        self.assertTrue(show_local(since).startswith(f"{now:%Y-%m-%d %H:%M:%S}"))


class DurationTests(SynchronousTestCase):
    def test_units(self) -> None:
        for text, microseconds in (
            ("10", 10 * SECOND),
            ("10s", 10 * SECOND),
            ("250ms", 250_000),
            ("7us", 7),
            ("5min", 5 * MINUTE),
            ("5m", 5 * MINUTE),
            ("2h30min", 150 * MINUTE),
            ("1.5H", 90 * MINUTE),
            ("1d", DAY),
            ("2w", 14 * DAY),
        ):
            self.assertEqual(parse_duration(text), microseconds, text)

    def test_errors(self) -> None:
        for text in ("", "s", "1 s", "1x", "-1s", "1..5s", "\u0661s", "1e5s"):
            with self.assertRaises(ValueError, msg=text):
                parse_duration(text)
