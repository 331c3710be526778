"""Segments that were deleted before they were shipped."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.contents import Contents
from natproxy.journal.postgres.completeness import Known, ProxyCoverage
from natproxy.journal.postgres.holes import before, lost
from natproxy.journal.postgres.positions import Taken
from natproxy.journal.summary import Summary

SECOND = 1_000_000
START = 1_790_000_000 * SECOND


def segment(part: int, sealed: bool = True) -> Summary:
    """Return a segment of ten seconds."""
    opened = START + part * 10 * SECOND
    end = opened + 10 * SECOND
    boot_started = START + 10 * SECOND
    return Summary(
        f"{part}.segment",
        "edge-1",
        0,
        "0a",
        part,
        boot_started,
        opened,
        end - 1,
        end if sealed else None,
        None,
    )


def gaps(*taken: Taken) -> list[tuple[int, int]]:
    """Return the gaps of what was taken, in seconds since the start."""
    known = Known(Contents((), (), {}), START + 1000 * SECOND)
    report = ProxyCoverage(taken, known).report({})
    return [
        ((gap.first - START) // SECOND, (gap.last - START) // SECOND)
        for gap in report.gaps
        if gap.first >= START
    ]


class HoleTests(SynchronousTestCase):
    def test_next_segment_follows_without_a_hole(self) -> None:
        self.assertEqual(before(Taken(1, segment(1), done=True), segment(2)), [])
        self.assertEqual(gaps(Taken(1, segment(1), done=True), Taken(1, segment(2))), [])

    def test_rest_of_a_segment_and_those_after_it_are_missing(self) -> None:
        begun = segment(1)._replace(complete_to=START + 14 * SECOND, sealed=None)
        hole = before(Taken(1, begun), segment(4))
        self.assertEqual([taken.summary.part for taken in hole], [1, 2, 3])
        self.assertTrue(all(taken.done for taken in hole))
        # Only the hole is a gap, and not all of the run before it.
        self.assertEqual(gaps(*hole, Taken(1, segment(4))), [(14, 39)])

    def test_segment_that_was_not_taken_to_its_end(self) -> None:
        begun = segment(1)._replace(complete_to=START + 14 * SECOND, sealed=None)
        hole = before(Taken(1, begun), segment(2))
        self.assertEqual(gaps(*hole, Taken(1, segment(2))), [(14, 19)])

    def test_end_of_a_run_is_missing(self) -> None:
        ended = lost(Taken(1, segment(1)), None)
        self.assertEqual(ended.summary.complete_to, segment(1).complete_to)
        (gap,) = ended.summary.gaps
        self.assertEqual((gap.since, gap.until), (segment(1).complete_to + 1, None))
