"""At which times a journal is complete: runs of the daemon, gaps, steps of the wall clock.

Times are integers, microseconds since the epoch; an interval here includes both of its ends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import combinations
from typing import NamedTuple

from natproxy.journal.contents import Contents
from natproxy.journal.reader import BEGINNING, END, ERASED, Row, Summary
from natproxy.journal.schema import CAUSES, SUFFIX
from natproxy.records.record import EPOCH, MICROSECOND
from natproxy.records.whois import Gap

UNNOTICED = 10_000_000
"""Microseconds at most between a step of the clock and its discovery, and between two writes."""

EMPTY = "the journal is empty"
OLDEST = "the journal does not reach back so far"
NOT_YET = "the journal is not written so far, or the daemon was killed"
MISSING = "a segment is missing"
SET_BACK = "the clock was set back"
SET_FORWARD = "the clock was set forward"
SET_BACK_BETWEEN = "the clock was set back between two runs of the daemon"


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


class Boot(NamedTuple):
    """One run of a daemon.

    :ivar start: when it started.
    :ivar complete_to: until when its segments are complete.
    :ivar stopped: whether it stopped in order.
    :ivar next_start: when the next one started; `END` if none did.
    :ivar losses: its gaps in which events were lost.
    """

    start: int
    complete_to: int
    stopped: bool
    next_start: int
    losses: tuple[Span, ...]


class Held(NamedTuple):
    """How long a translation held its port, as far as the journal shows.

    :ivar certain: until then it did.
    :ivar possible: until then it may have.
    :ivar gap: why the two differ; ``None`` if they do not.
    """

    certain: int
    possible: int
    gap: Gap | None


class Coverage:
    """At which times a journal is complete.

    :param contents: the segments.
    :ivar boots: the runs of the daemon, by their identifiers.
    :ivar gaps: the times that are not covered, by their first microsecond.
    :ivar doubled: the times that the clock showed twice.
    """

    def __init__(self, contents: Contents) -> None:
        runs: dict[str, dict[int, list[Summary]]] = {}
        for segment in sorted(contents.segments, key=lambda segment: segment.part):
            runs.setdefault(segment.boot, {}).setdefault(segment.worker, []).append(segment)
        starts = sorted(
            min(segment.boot_started for chain in chains.values() for segment in chain)
            for chains in runs.values()
        )
        self.boots: dict[str, Boot] = {}
        self.doubled: list[Span] = []
        gaps: list[Span] = []
        for boot, chains in runs.items():
            gaps += self._add(boot, list(chains.values()), starts)
        for segment in contents.segments:
            for time, step in segment.steps:
                if step < 0:
                    self.doubled.append(span(time - UNNOTICED, time - step, SET_BACK))
                else:
                    gaps.append(span(time - step - UNNOTICED, time, SET_FORWARD))
        for one, other in combinations(self.boots.values(), 2):
            first, last = max(one.start, other.start), min(one.complete_to, other.complete_to)
            if first < last:
                self.doubled.append(span(first, last, SET_BACK_BETWEEN))
        gaps += _outside(starts)
        gaps += _unreadable(contents, {name: boot.start for name, boot in self.boots.items()})
        self.gaps = sorted(gaps, key=lambda gap: gap[:2])
        self.doubled.sort(key=lambda zone: zone[:2])

    def _add(self, boot: str, chains: list[list[Summary]], starts: list[int]) -> Iterator[Span]:
        """Note a run of the daemon, and return its gaps."""
        start = min(segment.boot_started for chain in chains for segment in chain)
        stopped = all(chain[-1].stopped is not None for chain in chains)
        ends = [max(chain[-1].complete_to, chain[-1].stopped or BEGINNING) for chain in chains]
        end = max(ends) if stopped else min(ends)
        following = bisect_left(starts, max(end, start + 1))
        next_start = starts[following] if following < len(starts) else END
        losses = [
            loss
            for chain in chains
            for place, segment in enumerate(chain)
            for loss in _losses(
                segment,
                chain[place + 1].opened
                if place + 1 < len(chain)
                else (end if stopped else next_start),
            )
        ]
        losses.sort(key=lambda loss: loss[:2])
        self.boots[boot] = Boot(start, end, stopped, next_start, tuple(losses))
        yield from losses
        for chain in chains:
            yield from _holes(chain, start)
        if not stopped:
            yield _after(end, next_start, any(other > start for other in starts))

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

    def held(self, row: Row, segment: Summary) -> Held:
        """Return how long a translation held its port; steps of the clock are not considered."""
        if row.ended is not None:
            return Held(row.ended, row.ended, None)
        boot = self.boots[segment.boot]
        for loss in boot.losses:
            # Its end may be among the events that were lost.
            if loss.last >= row.started:
                certain = max(row.started, min(loss.first, boot.complete_to))
                possible = loss.last if row.outcome == "lost" else boot.next_start
                return Held(certain, possible, loss.gap)
        if boot.stopped:
            return Held(boot.complete_to, boot.complete_to, None)
        end = _after(boot.complete_to, boot.next_start, boot.next_start < END)
        return Held(max(row.started, boot.complete_to), boot.next_start, end.gap)

    def latest(self, segment: Summary) -> int:
        """Return a time after which no translation of a segment held its port."""
        boot = self.boots[segment.boot]
        losses = [loss.last for loss in boot.losses]
        if segment.sealed is None and not boot.stopped:
            losses.append(boot.next_start)
        return max([segment.latest, segment.complete_to, *losses])


def span(first: int, last: int, cause: str) -> Span:
    """Return a span whose gap has the same ends; `BEGINNING` and `END` are no ends."""
    return Span(
        first,
        last,
        Gap(None if first <= BEGINNING else first, None if last >= END else last, cause),
    )


def _losses(segment: Summary, end: int) -> Iterator[Span]:
    """Return the gaps of a segment.

    :param end: of those that have none.
    """
    for row in segment.gaps:
        if row.cause != ERASED:
            since = BEGINNING if row.since is None else row.since
            until = end if row.until is None else row.until
            yield span(since, max(since, until), CAUSES.get(row.cause, row.cause))


def _holes(chain: list[Summary], start: int) -> Iterator[Span]:
    """Return the times between the start and the end of a worker that no segment covers.

    A translation that was open in the time of one segment may be in the next one, so that what
    is before a missing segment is not complete.
    """
    covered = start
    for segment in chain:
        if segment.opened > covered + 1:
            yield span(start, segment.opened - 1, MISSING)
        covered = max(covered, segment.complete_to)


def _after(end: int, next_start: int, followed: bool) -> Span:
    """Return the gap that follows a run of the daemon that did not stop in order."""
    killed = CAUSES["killed"]
    if next_start < END:
        return span(end + 1, next_start - 1, killed)
    if followed:
        # The next run began earlier by the wall clock, which was set back. What was not written
        # is no longer than the time between some writes.
        return span(end + 1, end + 6 * UNNOTICED, killed)
    return span(end + 1, END, NOT_YET)


def _outside(starts: list[int]) -> Iterator[Span]:
    """Return the time before the journal begins."""
    if starts:
        yield span(BEGINNING, starts[0] - 1, OLDEST)
    else:
        yield span(BEGINNING, END, EMPTY)


def _unreadable(contents: Contents, starts: dict[str, int]) -> Iterator[Span]:
    """Return the times of segments that cannot be read, by their names.

    A translation that is open when a segment is opened is in that segment, or in a later one. So a
    segment may contain what began at any time of its boot.
    """
    names = list(contents.files)
    for error in contents.unreadable:
        following = names[names.index(error.name) + 1 :] if error.name in names else []
        ends = [time for name in following if (time := _named_time(name)) is not None]
        first = _named_time(error.name)
        boot = error.name.partition(SUFFIX)[0].rpartition("-")[2]
        yield span(
            BEGINNING if first is None else min(first, starts.get(boot, first)),
            END if first is None or not ends else max(first, min(ends)),
            f"the segment {error.name} cannot be read: {error.reason}",
        )


def _named_time(name: str) -> int | None:
    """Return the time in a segment's file name."""
    try:
        moment = datetime.strptime(name.partition("Z-")[0], "%Y%m%dT%H%M%S.%f")
    except ValueError:
        return None
    return (moment.replace(tzinfo=timezone.utc) - EPOCH) // MICROSECOND
