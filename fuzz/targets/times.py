"""Times as people write them, ``--at`` and ``--since``, and durations."""

from __future__ import annotations

from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

from fuzz.oracles import is_safe
from natproxy.records.record import format_time, parse_time
from natproxy.records.times import (
    DAY,
    FIRST_YEAR,
    LAST_YEAR,
    LONGEST,
    UNITS,
    TimeError,
    parse_duration,
    parse_moment,
    show_local,
)

NOW = 1_795_665_600_000_000
"""2026-11-26T04:00:00Z."""

END = (LAST_YEAR + 1 - FIRST_YEAR) * 366 * DAY

ZONES = (timezone.utc, timezone(timedelta(hours=-11)), ZoneInfo("Europe/Berlin"))

WORDS = (*UNITS, "today", "yesterday", "now", "at ", "nov", "thu, ", "utc", "+01:00", "2026-11-26T")


def check(data: bytes) -> None:
    """Check a text as a time in several zones, and as a duration."""
    text = data.decode("utf-8", "surrogateescape")
    for zone in ZONES:
        try:
            moment = parse_moment(text, NOW, zone)
        except TimeError as error:
            assert is_safe(str(error))
            assert len(str(error)) < 3 * LONGEST + 200
            assert error.reason
            continue
        assert 0 <= moment.since < moment.until <= END
        assert moment.until - moment.since <= DAY + DAY // 8
        # What is shown of a time is that microsecond.
        shown = show_local(moment.since, zone)
        again = parse_moment(shown, NOW, timezone.utc)
        assert (again.since, again.until) == (moment.since, moment.since + 1)
        assert parse_time(format_time(moment.since)) == moment.since
    try:
        duration = parse_duration(text)
    except ValueError as error:
        assert is_safe(str(error))
    else:
        assert duration >= 0
        assert parse_duration(f"{duration}us") == duration or duration >= 10**19
