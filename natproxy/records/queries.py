"""Which translations and events of the past are searched for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

WINDOW = 60_000_000
"""Microseconds of the first interval in which the newest events are searched."""


def windows(since: int | None, until: int) -> Iterator[tuple[int, int]]:
    """Yield adjacent intervals from an end back to a beginning, each longer than the one before.

    The newest events of a long past are found without reading all of it.

    :param since: microseconds since the epoch; ``None`` for the epoch.
    :param until: likewise, not included.
    """
    oldest = max(0, since or 0)
    length = WINDOW
    while until > oldest:
        begin = max(oldest, until - length)
        yield begin, until
        until = begin
        length *= 8


@dataclass(frozen=True)
class HistoryQuery:
    """Which translations of the past.

    :ivar filter: text of the filter language; empty for all.
    :ivar since: microseconds since the epoch; ``None`` for the oldest. A translation that was open
        at a time of the interval is in it.
    :ivar until: likewise, not included; ``None`` for now.
    :ivar limit: number of translations at most, the newest ones; ``None`` for all.
    """

    filter: str = ""
    since: int | None = None
    until: int | None = None
    limit: int | None = None


@dataclass(frozen=True)
class EventsQuery:
    """Which events of the past.

    :ivar filter: text of the filter language; empty for all.
    :ivar since: microseconds since the epoch.
    :ivar until: likewise, not included.
    :ivar after: number of the last event that is not wanted.
    :ivar before: number of the first event that is not wanted.
    :ivar boot: the run of the daemon that the two are about; ``None`` for the newest one.
    """

    filter: str = ""
    since: int | None = None
    until: int | None = None
    after: int | None = None
    before: int | None = None
    boot: str | None = None
