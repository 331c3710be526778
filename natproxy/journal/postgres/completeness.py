"""Of which times the record of a proxy in the database is complete, as its shipper computes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from natproxy.journal.contents import Contents
from natproxy.journal.coverage import NOT_YET, Coverage, Held
from natproxy.journal.files import OFF
from natproxy.journal.postgres.positions import Taken
from natproxy.journal.rows import Row
from natproxy.journal.spans import Span, span
from natproxy.journal.summary import END, Summary

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
    """The completeness of what was taken of the journal of a proxy, by the rules of `Coverage`.

    :param segments: what was taken.
    :param known: the rest.
    """

    def __init__(self, segments: Iterable[Taken], known: Known) -> None:
        self._known = known
        # The last one of each run, by its worker and boot.
        self._newest: dict[tuple[int, str], Summary] = {}
        self._parts: dict[tuple[int, str, int], Summary] = {}
        summaries = sorted((taken.summary for taken in segments), key=lambda each: each.part)
        for summary in summaries:
            self._newest[summary.worker, summary.boot] = summary
            self._parts[summary.worker, summary.boot, summary.part] = summary
        names = {summary.name for summary in self._newest.values()}
        files = dict(known.contents.files)
        for summary in summaries:
            files.setdefault(summary.name, (0, 0, 0))
        self._coverage = Coverage(
            Contents(
                # That the next part is missing is a gap only if it was deleted: see `holes`.
                tuple(
                    summary._replace(sealed=None) if summary.name in names else summary
                    for summary in summaries
                ),
                known.contents.unreadable,
                # They are in the order of their names.
                dict(sorted(files.items())),
                known.contents.unwritten,
            )
        )

    def report(self, waiting: dict[int, int]) -> Report:
        """Return of which times the record is complete.

        :param waiting: for each worker, when the first run began of which nothing was taken.
        """
        # The rest begins where a worker is complete to, which is renewed all the time.
        gaps = {
            gap
            for gap in self._coverage.gaps
            if self._parts and (gap.last < END or not gap.gap.cause.endswith(NOT_YET))
        }
        for begin, end in self._known.refused:
            gaps.add(span(begin, end, REFUSED))
        ends: dict[int, list[int]] = {worker: [] for worker, _ in self._newest}
        for (worker, boot), newest in self._newest.items():
            run = self._coverage.boots[boot]
            # A later daemon has recorded that it ran without a journal.
            if not run.stopped and run.next_start >= END and not boot.startswith(OFF):
                ends[worker].append(min(run.complete_to, newest.complete_to - 1))
        for worker, start in waiting.items():
            ends.setdefault(worker, []).append(start - 1)
        return Report(
            sorted(gaps, key=lambda gap: (gap.first, gap.last, gap.gap.cause)),
            self._coverage.doubled,
            {worker: min(each, default=self._known.checked) for worker, each in ends.items()},
        )

    @property
    def structure(self) -> object:
        """What decides how long a translation held its port whose end is not known."""
        return [
            (name, boot.stopped, boot.next_start) for name, boot in self._coverage.boots.items()
        ]

    def held(self, row: Row, worker: int, boot: str, part: int) -> Held | None:
        """Return how long a translation held its port whose end is not known.

        :param part: number of the segment in which it was last.
        :return: ``None`` if that is as long as the record of its worker is complete, or longer.
        """
        summary = self._parts.get((worker, boot, part))
        run = self._coverage.boots.get(boot)
        if summary is None or run is None:
            return None
        if row.outcome is None and not run.stopped and run.next_start >= END:
            return None
        return self._coverage.held(row, summary)
