"""Segments that were deleted, or damaged, before they were shipped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from natproxy.journal.coverage import ENDING
from natproxy.journal.postgres.positions import Positions, Taken
from natproxy.journal.rows import GapRow
from natproxy.journal.summary import Summary

UNSHIPPED = "unshipped"
"""The cause of their gaps; see `natproxy.journal.schema.CAUSES`."""


def before(newest: Taken, segment: Summary) -> list[Taken]:
    """Return what records that there is a hole before a segment; nothing if there is none.

    :param newest: what was taken last of its run.
    """
    part = newest.summary.part
    if segment.part <= part or (segment.part == part + 1 and newest.done):
        return []
    end = segment.opened - 1
    found = [lost(newest, end)]
    for number in range(part + 1, segment.part):
        # The chain of parts has no further hole.
        missing = segment._replace(
            name=f"{segment.name}, part {number}",
            part=number,
            opened=end,
            complete_to=end,
            sealed=end,
            stopped=None,
            gaps=(),
            steps=(),
            former=None,
        )
        found.append(Taken(newest.run, missing, done=True))
    if len(found) > 1:
        # Those that the next segment does not have are lost in it: see `follows`.
        gaps = found[0].summary.gaps[-1:]
        found[-1] = found[-1]._replace(summary=found[-1].summary._replace(gaps=gaps))
    return found


def lost(taken: Taken, end: int | None) -> Taken:
    """Return what was taken of a segment of which the rest is lost.

    :param end: of the hole, in microseconds since the epoch; ``None`` if nothing of its run
        follows.
    """
    summary = taken.summary
    since = summary.complete_to + 1
    gap = GapRow(since, None if end is None else max(since, end), None, None, UNSHIPPED)
    return taken._replace(
        done=True,
        summary=summary._replace(
            complete_to=summary.complete_to if end is None else max(summary.complete_to, end),
            gaps=(*summary.gaps, gap),
        ),
    )


def follows(positions: Positions, taken: Taken) -> bool:
    """Return whether there is a hole before a segment."""
    return any(
        other.run == taken.run
        and other.summary.part == taken.summary.part - 1
        and any(gap.cause == UNSHIPPED for gap in other.summary.gaps)
        for other in positions.segments.values()
    )


def ends(
    positions: Positions, segments: Iterable[Summary], names: Collection[str]
) -> Iterator[Taken]:
    """Yield what was taken last of each run whose later segments were deleted, all of them.

    :param segments: of the proxy, in the directory.
    :param names: of their files.
    """
    latest: dict[int, int] = {}
    runs: dict[tuple[int, str], int] = {}
    for segment in segments:
        latest[segment.worker] = max(segment.boot_started, latest.get(segment.worker, 0))
        key = segment.worker, segment.boot
        runs[key] = max(segment.part, runs.get(key, 0))
    for key, run in positions.runs.items():
        newest = positions.newest(run)
        if newest is None or runs.get(key, 0) > newest.summary.part:
            continue
        summary = newest.summary
        ended = summary.stopped is not None or any(gap.cause in ENDING for gap in summary.gaps)
        if newest.done:
            # It was sealed, so that there was a next one, unless its daemon has ended.
            deleted = latest.get(summary.worker, 0) > summary.boot_started
        else:
            deleted = summary.name not in names
        if deleted and not (newest.done and ended):
            yield newest
