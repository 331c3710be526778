"""At which times a journal is complete: runs of the daemon, gaps, steps of the wall clock.

A time is covered if it is by the record of every worker. Each number has a record of its own: the
runs of the processes that had it, one after the other. After a run that stopped in order, and
before the first one, no process had the number, so that there is nothing to record. One that was
killed leaves a gap until the next process with its number starts, or until another one, which
recovers its segments when no process has its number any more, has found that it has ended.

Times are integers, microseconds since the epoch; an interval here includes both of its ends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from natproxy.journal.contents import Contents
from natproxy.journal.files import DAMAGED, boot_of, opened_of, worker_of
from natproxy.journal.rows import ENDED, ERASED, Row
from natproxy.journal.schema import CAUSES
from natproxy.journal.spans import Completeness, Span, merged, span
from natproxy.journal.summary import BEGINNING, END, Summary
from natproxy.records.whois import Gap

UNNOTICED = 10_000_000
"""Microseconds usually between two writes, and so between a step of the clock and its discovery.

It takes longer if the disk hangs.
"""

EMPTY = "the journal is empty"
OLDEST = "the journal does not reach back so far"
NOT_YET = "the journal is not written so far, or the daemon was killed"
MISSING = "a segment is missing"
UNWRITTEN = "the daemon has started, and has not written its journal"
CLOSED = "the journal was closed before the end of the translation"
SET_BACK = "the clock was set back"
SET_FORWARD = "the clock was set forward"
SET_BACK_BETWEEN = "the clock was set back between two runs of the daemon"


LOSING = frozenset({"killed", ENDED, "disk", "overrun", "unshipped"})
"""Causes of the gaps in which the ends of translations are lost."""

ENDING = frozenset({"killed", ENDED, "off", "unshipped"})
"""Causes of the gaps that follow the last segment of a boot."""


MARKS = frozenset({ERASED, ENDED})
"""Causes of gaps that are about some entries only: those that were erased, or whose end is lost."""


class Boot(NamedTuple):
    """One run of a daemon.

    :ivar start: when it started.
    :ivar complete_to: the last moment at which its segments are complete.
    :ivar stopped: whether it stopped in order, or all of it is recorded although it was killed.
    :ivar next_start: when the next one of its worker started, or it was found to have ended; `END`
        if neither is known.
    :ivar parts: the numbers of the segments of each worker.
    :ivar steady: whether its clock was not set.
    """

    start: int
    complete_to: int
    stopped: bool
    next_start: int
    parts: dict[int, list[int]]
    steady: bool


class Held(NamedTuple):
    """How long a translation held its port, as far as the journal shows.

    :ivar certain: until then it did.
    :ivar possible: until then it may have.
    :ivar gap: why the two differ; ``None`` if they do not.
    """

    certain: int
    possible: int
    gap: Gap | None


class Coverage(Completeness):
    """At which times a journal is complete.

    :param contents: the segments.
    :ivar boots: the runs of the daemon, by their identifiers.
    """

    def __init__(self, contents: Contents) -> None:
        runs: dict[str, dict[int, list[Summary]]] = {}
        for segment in sorted(contents.segments, key=lambda segment: segment.part):
            runs.setdefault(segment.boot, {}).setdefault(segment.worker, []).append(segment)
        shown = {
            name: _shown([segment for chain in chains.values() for segment in chain])
            for name, chains in runs.items()
        }
        # The runs of each worker's number.
        self._lines: dict[int, list[str]] = {}
        for name, chains in runs.items():
            for worker in chains:
                self._lines.setdefault(worker, []).append(name)
        starts = {
            worker: sorted(shown[name][0] for name in names)
            for worker, names in self._lines.items()
        }
        self.boots: dict[str, Boot] = {}
        # Until when the gaps of a segment last that have no end in it.
        self._ends: dict[str, int] = {}
        doubled: list[Span] = []
        gaps: list[Span] = []
        for name, chains in runs.items():
            following = sorted(start for worker in chains for start in starts[worker])
            gaps += self._add(name, list(chains.values()), following)
        for segment in contents.segments:
            for time, step, elapsed in segment.steps:
                earliest = time - max(elapsed, UNNOTICED)
                if step < 0:
                    doubled.append(span(earliest, time - step, SET_BACK))
                else:
                    gaps.append(span(earliest - step, time, SET_FORWARD))
        beside = {segment.boot: segment.beside for segment in contents.segments if segment.beside}
        for names in self._lines.values():
            doubled += _set_back_between({name: shown[name] for name in names}, beside)
        if starts:
            gaps.append(span(BEGINNING, min(each[0] for each in starts.values()) - 1, OLDEST))
        elif not contents.unreadable:
            gaps.append(span(BEGINNING, END, EMPTY))
        for worker, unwritten in contents.unwritten:
            later = starts.get(worker, [])
            place = bisect_left(later, unwritten)
            end = later[place] - 1 if place < len(later) else END
            if end >= unwritten:
                gaps.append(span(unwritten, end, UNWRITTEN))
        gaps += self._missing_runs(contents)
        starts_of = {name: boot.start for name, boot in self.boots.items()}
        # First those that name a segment, which is missing as well.
        self.gaps = sorted([*_unreadable(contents, starts_of), *gaps], key=lambda gap: gap.first)
        self.doubled = merged(sorted(doubled, key=lambda zone: zone[:2]))

    def _add(self, boot: str, chains: list[list[Summary]], starts: list[int]) -> Iterator[Span]:
        """Note a run of the daemon, and return its gaps.

        :param starts: those of the runs with the same numbers of workers.
        """
        start = min(segment.boot_started for chain in chains for segment in chain)
        stopped = all(_is_complete(chain[-1]) for chain in chains)
        ends = [max(chain[-1].complete_to, chain[-1].stopped or BEGINNING) for chain in chains]
        # What is registered in the last microsecond may be missing.
        end = max(ends) if stopped else min(ends) - 1
        # A run that began before this end, because the clock was set back, is not the next one.
        following = bisect_left(starts, max(end, start + 1))
        next_start = starts[following] if following < len(starts) else END
        found = [_found_ended(chain[-1]) for chain in chains]
        if None not in found:
            next_start = min(next_start, max(each for each in found if each is not None))
        steady = not any(segment.steps for chain in chains for segment in chain)
        parts = {chain[0].worker: [segment.part for segment in chain] for chain in chains}
        self.boots[boot] = Boot(start, end, stopped, next_start, parts, steady)
        for chain in chains:
            yield from _holes(chain, start)
            for place, segment in enumerate(chain):
                if place + 1 < len(chain):
                    self._ends[segment.name] = chain[place + 1].opened
                else:
                    self._ends[segment.name] = end if stopped else next_start
                yield from self._losses(segment)
        if not stopped:
            yield _after(end, next_start, self._named(min(chains, key=_complete_to)[-1].worker))

    def _named(self, worker: int) -> str:
        """Return what precedes the cause of a gap that is that of one worker among several."""
        return f"worker {worker}: " if len(self._lines) > 1 else ""

    def _missing_runs(self, contents: Contents) -> Iterator[Span]:
        """Return the times of runs whose last segment was deleted, and a later one was not."""
        files = contents.files
        for segment in contents.segments:
            former = segment.former
            if former is None or segment.part > 1 or former in files or former + DAMAGED in files:
                continue
            ends = [
                boot.complete_to
                for boot in self.boots.values()
                if boot.start < segment.boot_started and segment.worker in boot.parts
            ]
            named = opened_of(former)
            first = min(max(ends, default=BEGINNING) + 1, BEGINNING if named is None else named)
            if first < segment.boot_started:
                yield span(first, segment.boot_started - 1, MISSING)

    def _losses(self, segment: Summary, causes: frozenset[str] | None = None) -> list[Span]:
        """Return the gaps of a segment, by their first microsecond.

        :param causes: which gaps; by default all that are about all ports; see `MARKS`.
        """
        spans: list[Span] = []
        if not segment.gaps:
            return spans
        for row in segment.gaps:
            if row.cause not in MARKS if causes is None else row.cause in causes:
                since = BEGINNING if row.since is None else row.since
                until = self._ends[segment.name] if row.until is None else row.until
                cause = f"{self._named(segment.worker)}{CAUSES.get(row.cause, row.cause)}"
                spans.append(span(since, max(since, until), cause))
        return sorted(spans, key=lambda gap: gap[:2])

    def held(self, row: Row, segment: Summary) -> Held | None:
        """Return how long a translation held its port; steps of the clock are not considered.

        :return: ``None`` if the entry counts for nothing: a later segment has it.
        """
        if row.ended is not None:
            return Held(row.ended, row.ended, None)
        boot = self.boots[segment.boot]
        if row.outcome == "lost":
            losses = [loss for loss in self._losses(segment, LOSING) if loss.last >= row.started]
            if losses and boot.steady:
                # A translation may have outlasted all gaps but the last one.
                last = max(loss.last for loss in losses)
                return Held(max(row.started, losses[0].first), last, losses[0].gap)
            # The times do not show which gap it was.
            end = span(row.started, boot.next_start, CAUSES["killed"])
            gap = losses[0].gap if losses else end.gap
            return Held(row.started, boot.next_start, gap)
        if segment.part < boot.parts[segment.worker][-1]:
            if segment.part + 1 in boot.parts[segment.worker]:
                return None
            hole = span(segment.complete_to + 1, boot.next_start, MISSING)
            return Held(max(row.started, segment.complete_to), boot.next_start, hole.gap)
        if boot.stopped:
            # The journal was closed before the translation ended.
            end = span(boot.complete_to + 1, boot.next_start, CLOSED)
        else:
            end = _after(boot.complete_to, boot.next_start, self._named(segment.worker))
        return Held(max(row.started, boot.complete_to), boot.next_start, end.gap)

    def earliest(self, segment: Summary) -> int:
        """Return a time before which no translation of a segment held its port."""
        if segment.listed or self.boots[segment.boot].steady:
            return segment.earliest
        return BEGINNING

    def latest(self, segment: Summary) -> int:
        """Return a time after which no translation of a segment held its port."""
        boot = self.boots[segment.boot]
        if not (segment.listed or boot.steady):
            return END
        ends = [loss.last for loss in self._losses(segment, LOSING)]
        if segment.part == boot.parts[segment.worker][-1] or (ends and not boot.steady):
            ends.append(boot.next_start)
        return max([segment.latest, segment.complete_to, *ends])


def _holes(chain: list[Summary], start: int) -> Iterator[Span]:
    """Return the times between the start and the end of a worker that no segment covers.

    A translation that was open in the time of one segment may be in the next one, so that what
    is before a missing segment is not complete.
    """
    first, last = chain[0], chain[-1]
    if first.opened > start:
        yield span(start, first.opened - 1, OLDEST)
    for former, segment in pairwise(chain):
        if segment.part != former.part + 1 or segment.opened > former.complete_to + 1:
            yield span(start, max(start, segment.opened - 1), MISSING)
    if (
        last.sealed is not None
        and last.stopped is None
        and not any(gap.cause in ENDING for gap in last.gaps)
    ):
        # The daemon sealed it, so that there was a next one.
        yield span(start, max(start, last.complete_to), MISSING)


def _complete_to(chain: list[Summary]) -> int:
    return chain[-1].complete_to


def _is_complete(segment: Summary) -> bool:
    """Return whether the last segment of a run has all of it.

    It has if the run stopped in order; or was killed, and every event until then is recorded.
    """
    return segment.stopped is not None or any(gap.cause == ENDED for gap in segment.gaps)


def _found_ended(segment: Summary) -> int | None:
    """Return when the run of a segment, which was killed, was found to have ended.

    :return: ``None`` if that is not known: it was not, or the clock was set back meanwhile.
    """
    ends = [
        gap.until
        for gap in segment.gaps
        if gap.cause in ("killed", ENDED) and gap.until is not None
    ]
    return max((end for end in ends if end > segment.complete_to), default=None)


def _set_back_between(
    shown: dict[str, tuple[int, int]], beside: dict[str, tuple[str, ...]]
) -> Iterator[Span]:
    """Return the times that the clock showed in two runs, one after the other.

    :param shown: the earliest and the latest time that it showed in each run.
    :param beside: the runs that continued when another one started: with these it was not set.
    """
    latest = BEGINNING
    ends: dict[str, int] = {}
    for name, (first, last) in sorted(shown.items(), key=lambda item: item[1]):
        before = latest
        if name in beside:
            others = (end for other, end in ends.items() if other not in beside[name])
            before = max(others, default=BEGINNING)
        if first < min(before, last):
            yield span(first, min(before, last), SET_BACK_BETWEEN)
        latest = max(latest, last)
        ends[name] = last


def _after(end: int, next_start: int, named: str = "") -> Span:
    """Return the gap that follows a run of the daemon that did not stop in order.

    :param named: precedes the cause.
    """
    if next_start >= END:
        return span(end + 1, END, f"{named}{NOT_YET}")
    return span(end + 1, next_start - 1, f"{named}{CAUSES['killed']}")


def _shown(segments: list[Summary]) -> tuple[int, int]:
    """Return the earliest and the latest time that the clock showed in a run of the daemon."""
    times: list[int] = []
    for segment in segments:
        times += (segment.boot_started, segment.opened, segment.complete_to)
        for time, step, _ in segment.steps:
            times += (time, time - step)
    return min(times), max(times)


def _unreadable(contents: Contents, starts: dict[str, int]) -> Iterator[Span]:
    """Return the times of segments that cannot be read, by their names.

    A translation that is open when a segment is opened is in that segment, or in a later one. So a
    segment may contain what began at any time of its boot.
    """
    names = list(contents.files)
    for error in contents.unreadable:
        later = names[names.index(error.name) + 1 :] if error.name in names else []
        worker = worker_of(error.name)
        # What was set aside is a gap of the segment that was written then, too. So it ends with
        # the next segment of any worker if no process has its number any more.
        following = [name for name in later if worker_of(name) == worker] or (
            later if error.name.endswith(DAMAGED) else []
        )
        ends = [time for name in following if (time := opened_of(name)) is not None]
        first = opened_of(error.name)
        boot = boot_of(error.name)
        yield span(
            BEGINNING if first is None else min(first, starts.get(boot, first)),
            END if first is None or not ends else max(first, min(ends)),
            f"the segment {error.name} cannot be read: {error.reason}",
        )
