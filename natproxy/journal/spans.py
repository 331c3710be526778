"""Spans of time for a reason, and the completeness of a record that they describe.

Times are integers, microseconds since the epoch; an interval here includes both of its ends.
"""

from __future__ import annotations

from typing import NamedTuple

from natproxy.journal.summary import BEGINNING, END
from natproxy.records.whois import Gap


class Span(NamedTuple):
    """An interval for a reason.

    :ivar first: its first microsecond.
    :ivar last: its last one.
    :ivar gap: the reason, for people.
    """

    first: int
    last: int
    gap: Gap

    def overlaps(self, first: int, last: int) -> bool:
        """Return whether the two have a moment in common."""
        return self.first <= last and self.last >= first


class Completeness:
    """At which times a record is complete.

    :ivar gaps: the times that are not covered, by their first microsecond.
    :ivar doubled: the times that the clock showed twice.
    """

    gaps: list[Span]
    doubled: list[Span]

    def gap(self, first: int, last: int) -> Gap | None:
        """Return the first gap in an interval, if there is one."""
        for gap in self.gaps:
            if gap.first > last:
                break
            if gap.last >= first:
                return gap.gap
        return None

    def twice(self, first: int, last: int) -> list[Span]:
        """Return the times that the clock showed twice and that overlap an interval."""
        return [zone for zone in self.doubled if zone.overlaps(first, last)]


def span(first: int, last: int, cause: str) -> Span:
    """Return a span whose gap has the same ends; `BEGINNING` and `END` are no ends."""
    return Span(
        first,
        last,
        Gap(None if first <= BEGINNING else first, None if last >= END else last, cause),
    )


def merged(zones: list[Span]) -> list[Span]:
    """Return spans without overlaps, from spans in the order of their beginnings.

    Over several steps a translation may have begun in the time of one, and ended in another's.
    """
    found: list[Span] = []
    for zone in zones:
        if found and zone.first <= found[-1].last + 1:
            first, last, gap = found[-1]
            found[-1] = span(first, max(last, zone.last), gap.cause)
        else:
            found.append(zone)
    return found
