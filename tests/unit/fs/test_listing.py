"""Times and depths of listings."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from natproxy.fs.listing import datetime_of


@pytest.mark.parametrize(
    ("nanoseconds", "time"),
    [
        (0, datetime(1970, 1, 1)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, 999_999)),
        (-62_135_596_800 * 10**9, datetime.min),
        (-62_135_596_801 * 10**9, datetime.min),
        (253_402_300_799_999_999_999, datetime.max),
        (253_402_300_800 * 10**9, datetime.max),
        (10**28, datetime.max),
        (-(10**28), datetime.min),
    ],
)
def test_far_times_are_clamped(nanoseconds: int, time: datetime) -> None:
    assert datetime_of(nanoseconds) == time.replace(tzinfo=timezone.utc)
