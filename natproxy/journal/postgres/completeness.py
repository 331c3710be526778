"""Of which times the record of a proxy in the database is complete, as its shipper computes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from natproxy.journal.contents import Contents
from natproxy.journal.coverage import NOT_YET, OLDEST, Coverage, Held, Span, merged, span
from natproxy.journal.files import OFF
from natproxy.journal.postgres.positions import Taken
from natproxy.journal.reader import UnreadableSegment
from natproxy.journal.rows import Row
from natproxy.journal.summary import BEGINNING, END, Summary

REFUSED = "PostgreSQL refused an entry"


class Known(NamedTuple):
    """A directory, besides the segments that were taken.

    :ivar contents: of the directory.
    :ivar checked: when it was listed, in microseconds since the epoch.
    :ivar refused: times of the entries that were refused.
    """

    contents: Contents
    checked: int
    refused: Sequence[tuple[int, int]] = ()


class Report(NamedTuple):
    """The completeness of the record of a proxy.

    :ivar gaps: times of which it is not complete.
    :ivar doubled: times that the clock showed twice.
    :ivar complete_to: for each worker, until when it has everything, but for the gaps.
    """

    gaps: list[Span]
    doubled: list[Span]
    complete_to: dict[int, int]


class ProxyCoverage:
    """The completeness of what was taken of the journal of a proxy.

    Each worker has segments of its own, and the record is complete where that of each of them is.

    :param segments: what was taken.
    :param known: the rest.
    """

    def __init__(self, segments: Iterable[Taken], known: Known) -> None:
        self._known = known
        self._chains: dict[int, list[Summary]] = {}
        summaries = [taken.summary for taken in segments]
        for summary in sorted(
            summaries, key=lambda each: (each.boot_started, each.boot, each.part)
        ):
            self._chains.setdefault(summary.worker, []).append(summary)
        files = dict(known.contents.files)
        for chain in self._chains.values():
            for summary in chain:
                files.setdefault(summary.name, (0, 0, 0))
        # They are in the order of their names.
        self._files = dict(sorted(files.items()))
        self._coverages = {worker: self._coverage(worker) for worker in self._chains}

    def _coverage(self, worker: int) -> Coverage:
        chain = self._chains[worker]
        # That the next part is missing is a gap only if it was deleted: see `holes`.
        last = {summary.boot: summary.name for summary in chain}
        segments = [
            summary._replace(sealed=None) if summary.name == last[summary.boot] else summary
            for summary in chain
        ]
        return Coverage(
            Contents(
                tuple(segments),
                tuple(
                    error
                    for error in self._known.contents.unreadable
                    if _worker_of(error) in (worker, None)
                ),
                self._files,
                self._known.contents.unwritten,
            )
        )

    def report(self, waiting: dict[int, int]) -> Report:
        """Return of which times the record is complete.

        :param waiting: for each worker, when the first run began of which nothing was taken.
        """
        gaps: set[Span] = set()
        doubled: list[Span] = []
        complete_to: dict[int, int] = {}
        first = END
        for worker, coverage in self._coverages.items():
            for gap in coverage.gaps:
                if gap.first <= BEGINNING and gap.gap.cause == OLDEST:
                    # A worker may have been added: the record begins with the first one.
                    first = min(first, gap.last + 1)
                elif gap.last < END or gap.gap.cause != NOT_YET:
                    gaps.add(gap)
                # The rest begins where the worker is complete to, which is renewed all the time.
            doubled += coverage.doubled
            complete_to[worker] = self._complete_to(worker, waiting.get(worker))
        for worker in waiting.keys() - complete_to.keys():
            complete_to[worker] = waiting[worker] - 1
        if first < END:
            gaps.add(span(BEGINNING, first - 1, OLDEST))
        for begin, end in self._known.refused:
            gaps.add(span(begin, end, REFUSED))
        return Report(
            sorted(gaps, key=lambda gap: (gap.first, gap.last, gap.gap.cause)),
            merged(sorted(doubled, key=lambda zone: zone[:2])),
            complete_to,
        )

    @property
    def structure(self) -> object:
        """What decides how long a translation held its port whose end is not known."""
        return [
            (worker, name, boot.stopped, boot.next_start)
            for worker, coverage in self._coverages.items()
            for name, boot in coverage.boots.items()
        ]

    def _newest(self, worker: int, boot: str) -> Summary:
        return [summary for summary in self._chains[worker] if summary.boot == boot][-1]

    def _complete_to(self, worker: int, waiting: int | None) -> int:
        """Return until when a worker's record has everything, but for the gaps."""
        ends = [
            boot.complete_to
            for name, boot in self._coverages[worker].boots.items()
            if not boot.stopped
            and boot.next_start >= END
            and not _is_over(self._newest(worker, name))
        ]
        if waiting is not None:
            ends.append(waiting - 1)
        return min(ends, default=self._known.checked)

    def held(self, row: Row, worker: int, boot: str, part: int) -> Held | None:
        """Return how long a translation held its port whose end is not known.

        :param part: number of the segment in which it was last.
        :return: ``None`` if that is as long as the record of its worker is complete, or longer.
        """
        coverage = self._coverages[worker]
        summary = next(
            (
                summary
                for summary in reversed(self._chains[worker])
                if summary.boot == boot and summary.part <= part
            ),
            None,
        )
        run = coverage.boots.get(boot)
        if summary is None or run is None:
            return None
        lasts = row.outcome is None and not run.stopped and run.next_start >= END
        if lasts and not _is_over(self._newest(worker, boot)):
            return None
        return coverage.held(row, summary)


def _is_over(newest: Summary) -> bool:
    """Return whether a later daemon has recorded how a run ended, or that it had no journal.

    :param newest: the last segment of the run.
    """
    return newest.boot.startswith(OFF) or any(
        gap.cause == "killed" and gap.until is not None for gap in newest.gaps
    )


def _worker_of(error: UnreadableSegment) -> int | None:
    """Return the worker of a segment that cannot be read; ``None`` if its name has none."""
    # OPENED-wWORKER-BOOT.segment
    parts = error.name.split("-")
    if len(parts) == 3 and parts[1][1:].isdigit():
        return int(parts[1][1:])
    return None
