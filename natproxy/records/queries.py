"""Which translations and events of the past are searched for."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    filter: str = ""
    since: int | None = None
    until: int | None = None
    after: int | None = None
    before: int | None = None
