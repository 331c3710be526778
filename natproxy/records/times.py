"""Times as people write and read them: ISO 8601, times of logs, ``-10min``, ``yesterday 17:00``.

The result of parsing is an interval as long as the resolution of the text: ``14:03`` is a minute.
"""

from __future__ import annotations

import contextlib
import re
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import NamedTuple

from natproxy.records.record import EPOCH, MICROSECOND

Zone = tzinfo | None
"""A time zone; ``None`` for the local time of the system."""

EXAMPLES = "14:03, -10min, 2026-11-26T14:03:07Z, 'yesterday 17:00'"
"""Times, for messages."""

LONGEST = 80
"""Characters of a time."""

FIRST_YEAR, LAST_YEAR = 1970, 9998

_RANGE = f"it is not between {FIRST_YEAR} and {LAST_YEAR}"

_END = (datetime(LAST_YEAR + 1, 1, 1, tzinfo=timezone.utc) - EPOCH) // MICROSECOND

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

UNITS = {
    "us": 1,
    "µs": 1,
    "ms": 1_000,
    "": SECOND,
    "s": SECOND,
    "sec": SECOND,
    "m": MINUTE,
    "min": MINUTE,
    "h": HOUR,
    "d": DAY,
    "w": 7 * DAY,
}
"""Microseconds of the units of durations."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_MONTH = f"(?P<month_name>{'|'.join(_MONTHS)})"
_WEEKDAY = "(?:(?:mon|tue|wed|thu|fri|sat|sun),? +)?"
_CLOCK = r"(?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?"
_ZONE = r"(?: *(?P<zone>z|utc|gmt|[+-]\d\d(?::?\d\d)?))?"

_FORMS = (
    # ISO 8601, and with slashes as in nginx's error log.
    rf"(?P<year>\d{{4}})([-/])(?P<month>\d\d)\2(?P<day>\d\d)(?:(?:t| +){_CLOCK}{_ZONE})?",
    # ISO 8601, its basic format.
    r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"
    r"(?:t(?P<hour>\d\d)(?P<minute>\d\d)(?:(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?"
    rf"{_ZONE})?",
    # Logs of Apache and nginx.
    rf"\[?(?P<day>\d\d)/{_MONTH}/(?P<year>\d{{4}}):{_CLOCK}{_ZONE}\]?",
    # RFC 5322: mail and HTTP.
    rf"{_WEEKDAY}(?P<day>\d\d?) +{_MONTH} +(?P<year>\d{{4}})(?: +{_CLOCK}{_ZONE})?",
    # syslog, and asctime.
    rf"{_WEEKDAY}{_MONTH} +(?P<day>\d\d?) +{_CLOCK}(?: +(?P<year>\d{{4}}))?{_ZONE}",
    rf"(?P<relative>today|yesterday)(?: +(?:at +)?{_CLOCK}{_ZONE})?",
    rf"{_CLOCK}{_ZONE}",
)
"""Regular expressions; the first use of each compiles it."""

_NAMED_ZONE = re.compile(r"(.*\d) *([A-Za-z]{1,5})", re.ASCII)
_EPOCH = re.compile(r"@(\d{1,12})(?:[.,](\d{1,9}))?", re.ASCII)
_QUANTITY = re.compile(r"(\d{1,19}(?:\.\d{1,9})?)([A-Za-zµ]*)", re.ASCII)


class TimeError(ValueError):
    """A text is no time. The text of the exception is a sentence with examples.

    :ivar reason: what is wrong, without the text and the examples.
    """

    def __init__(self, text: str, reason: str) -> None:
        shown = "".join(one if one.isprintable() else "?" for one in text[:LONGEST])
        super().__init__(f"'{shown}' is no time: {reason}; examples: {EXAMPLES}")
        self.reason = reason


class Moment(NamedTuple):
    """A time as long as its resolution, in microseconds since the epoch.

    :ivar since: its first microsecond.
    :ivar until: the end, not included.
    """

    since: int
    until: int


def parse_moment(text: str, now: int, zone: Zone = None) -> Moment:
    """Return the time that a text stands for; it may be in the future.

    A time of day without a date is today's. A time such as ``-10min`` and ``now`` are one
    microsecond long.

    :param now: microseconds since the epoch.
    :param zone: of texts without a zone; ``None`` for the local time of the system.
    :raises TimeError: if the text is no time, or if it is ambiguous or does not exist where the
        clocks change.
    """
    stripped = text.strip()
    if len(stripped) > LONGEST:
        raise TimeError(text, f"it has more than {LONGEST} characters")
    if stripped.lower() == "now":
        return Moment(now, now + 1)
    if stripped.startswith("-"):
        try:
            since = now - parse_duration(stripped[1:])
        except ValueError as error:
            raise TimeError(text, str(error)) from None
        return Moment(_checked(text, since), since + 1)
    match = _EPOCH.fullmatch(stripped)
    if match is not None:
        micro, length = _fraction(match[2])
        since = int(match[1]) * SECOND + micro
        return Moment(_checked(text, since), since + length)
    parts = _parts(stripped)
    if parts is not None:
        return _Reading(text, now, zone, parts).moment()
    if stripped.isascii() and stripped.isdigit():
        raise TimeError(text, "write seconds since 1970 with an @")
    if stripped.startswith("+"):
        raise TimeError(text, "it is in the future")
    named = _NAMED_ZONE.fullmatch(stripped)
    if named is not None and _parts(named[1]) is not None:
        raise TimeError(text, f"write the zone {named[2]} as an offset such as +01:00")
    raise TimeError(text, "it has none of the known forms")


def parse_duration(text: str) -> int:
    """Return the microseconds of a text such as ``10s``, ``250ms``, ``2h30min``, ``1.5h``, ``90``.

    :raises ValueError: if it is malformed; the message is a phrase.
    """
    total = 0
    place = 0
    for match in _QUANTITY.finditer(text):
        if match.start() != place:
            break
        unit = UNITS.get(match[2].lower())
        if unit is None:
            raise ValueError(f"the units are {', '.join(filter(None, UNITS))}")
        total += multiple(match[1], unit)
        place = match.end()
    if not place or place != len(text):
        raise ValueError("a number and a unit are needed, such as 10min")
    return total


def multiple(number: str, unit: int) -> int:
    """Return a decimal number such as ``1.5``, with at most nine decimals, times a unit."""
    whole, _, fraction = number.partition(".")
    return int(whole) * unit + int(fraction.ljust(9, "0") or 0) * unit // 1_000_000_000


def show_local(microseconds: int, zone: Zone = None) -> str:
    """Format a time for people: ``2026-11-26 14:03:07.123456 +01:00``.

    :param microseconds: since the epoch.
    :param zone: ``None`` for the local time of the system.
    """
    local = (EPOCH + timedelta(microseconds=microseconds)).astimezone(zone)
    shown = local.isoformat(" ", "microseconds")
    return f"{shown[:26]} {shown[26:]}"


def _parts(text: str) -> dict[str, str | None] | None:
    """Return the named groups of the form that a text has; ``None`` if it has none."""
    for form in _FORMS:
        match = re.fullmatch(form, text, re.IGNORECASE | re.ASCII)
        if match is not None:
            return match.groupdict()
    return None


class _Reading:
    """The parts of a text that has one of the forms."""

    def __init__(self, text: str, now: int, zone: Zone, parts: dict[str, str | None]) -> None:
        self._text = text
        self._now = now
        self._zone = zone
        self._parts = parts

    def moment(self) -> Moment:
        zone = self._own_zone()
        local = datetime.fromtimestamp(self._now // SECOND, timezone.utc).astimezone(zone)
        if self._parts.get("month_name") and not self._parts.get("year"):
            # syslog has no year: it is the last such day.
            for year in (local.year, local.year - 1):
                with contextlib.suppress(ValueError):
                    since, length = self._time(self._day(year), zone)
                    if since <= self._now + DAY:
                        return Moment(_checked(self._text, since), since + length)
            raise TimeError(self._text, "there is no such day")
        day = self._date(local.date())
        if self._parts.get("hour") is None:
            since, length = _begin(day, zone), 0
            until = _begin(day + timedelta(days=1), zone)
        else:
            since, length = self._time(day, zone)
            until = since + length
        return Moment(_checked(self._text, since), until)

    def _own_zone(self) -> Zone:
        """Return the zone that the text has, or else the default."""
        text = (self._parts.get("zone") or "").lower()
        if not text:
            return self._zone
        if text in ("z", "utc", "gmt"):
            return timezone.utc
        digits = text[1:].replace(":", "").ljust(4, "0")
        offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        if offset >= timedelta(days=1) or int(digits[2:]) > 59:
            raise TimeError(self._text, f"there is no zone {text}")
        return timezone(-offset if text[0] == "-" else offset)

    def _date(self, today: date) -> date:
        parts = self._parts
        if parts.get("day") is None:
            return today - timedelta(days=(parts.get("relative") or "").lower() == "yesterday")
        year = int(parts["year"] or 0)
        # West of Greenwich, 1970 begins in 1969.
        if not FIRST_YEAR - 1 <= year <= LAST_YEAR:
            raise TimeError(self._text, _RANGE)
        try:
            return self._day(year)
        except ValueError:
            raise TimeError(self._text, "there is no such day") from None

    def _day(self, year: int) -> date:
        """Return the day in a year.

        :raises ValueError: if it does not exist.
        """
        name = (self._parts.get("month_name") or "").lower()
        month = _MONTHS.index(name) + 1 if name else int(self._parts["month"] or 0)
        return date(year, month, int(self._parts["day"] or 0))

    def _time(self, day: date, zone: Zone) -> tuple[int, int]:
        """Return the begin of the time in microseconds since the epoch, and its length."""
        hour, minute, second = (
            int(self._parts[part] or 0) for part in ("hour", "minute", "second")
        )
        if hour > 23 or minute > 59 or second > 60:
            raise TimeError(self._text, "there is no such time of day")
        micro = 0
        length = HOUR
        if self._parts["minute"] is not None:
            length = MINUTE
        if self._parts["second"] is not None:
            micro, length = _fraction(self._parts["fraction"])
        # A leap second is the second that follows.
        leap = second // 60
        local = datetime(day.year, day.month, day.day, hour, minute, second - leap)
        before, after = _instants(local, zone)
        if before > after:
            raise TimeError(self._text, "the clocks are set forward then, and it does not exist")
        if before < after:
            raise TimeError(
                self._text,
                "the clocks are set back then, and it occurs twice: "
                f"add {_offset(local, before)} or {_offset(local, after)}",
            )
        return (before + leap) * SECOND + micro, length


def _instants(local: datetime, zone: Zone) -> tuple[int, int]:
    """Return the seconds since the epoch of a local time, before and after a change of clocks.

    They differ if the time occurs twice; if it does not exist, the first is the greater one.
    """
    first, second = (int(local.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1))
    return first, second


def _begin(day: date, zone: Zone) -> int:
    """Return the begin of a day in microseconds since the epoch."""
    return _instants(datetime(day.year, day.month, day.day), zone)[0] * SECOND


def _offset(local: datetime, instant: int) -> str:
    """Return the offset from UTC of a local time whose seconds since the epoch are known."""
    utc = datetime.fromtimestamp(instant, timezone.utc).replace(tzinfo=None)
    seconds = (local - utc) // timedelta(seconds=1)
    sign = "-" if seconds < 0 else "+"
    return f"{sign}{abs(seconds) // 3600:02}:{abs(seconds) // 60 % 60:02}"


def _fraction(digits: str | None) -> tuple[int, int]:
    """Return the microseconds of a fraction of a second, and those of its resolution."""
    if digits is None:
        return 0, SECOND
    digits = digits[:6]
    return int(digits.ljust(6, "0")), 10 ** (6 - len(digits))


def _checked(text: str, microseconds: int) -> int:
    if not 0 <= microseconds < _END:
        raise TimeError(text, _RANGE)
    return microseconds
