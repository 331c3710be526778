"""Segments of a file, and their record."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.transfer.record import (
    LAST_SEGMENT,
    MOST_SEGMENTS,
    SMALLEST_SEGMENT,
    Record,
    Segment,
    divide,
)
from natproxy.protocol import MAX_SIZE

MIB = 1 << 20


def sizes(segments: list[Segment]) -> list[int]:
    return [segment.end - segment.start for segment in segments]


def time_of(segments: list[Segment], rates: list[float]) -> list[float]:
    """Return when each connection ends, if each takes the next segment when it is free."""
    ends = [0.0] * len(rates)
    for size in sizes(segments):
        free = min(range(len(rates)), key=ends.__getitem__)
        ends[free] += size / rates[free]
    return ends


class DivideTests(SynchronousTestCase):
    def test_one_connection_gets_the_whole_file(self) -> None:
        self.assertEqual(sizes(divide(100 * MIB, 1)), [100 * MIB])

    @given(st.integers(0, MAX_SIZE), st.integers(1, 1000))
    def test_segments_cover_the_file_and_their_number_is_bounded(
        self, size: int, count: int
    ) -> None:
        segments = divide(size, count)
        self.assertLessEqual(len(segments), MOST_SEGMENTS)
        self.assertEqual((segments[0].start, segments[-1].end), (0, size))
        for before, after in pairwise(segments):
            self.assertEqual(before.end, after.start)
        for segment in segments:
            self.assertEqual(segment.done, segment.start)
            self.assertGreaterEqual(segment.end - segment.start, min(size, SMALLEST_SEGMENT))

    @example(5194902350520611120, 64)
    @given(st.integers(64 * MIB, MAX_SIZE), st.integers(2, 64))
    def test_each_connection_has_a_segment(self, size: int, count: int) -> None:
        self.assertGreaterEqual(len(divide(size, count)), count)

    def test_segments_become_smaller(self) -> None:
        found = sizes(divide(1 << 30, 4))
        self.assertEqual(found[0], (1 << 30) // 8)
        self.assertLess(found[-1], 2 * LAST_SEGMENT)
        self.assertEqual(sorted(found[:-1], reverse=True), found[:-1])

    def test_slow_connection_does_not_delay_the_end(self) -> None:
        # Measured with four connections over a round trip of 200 ms.
        rates = [1 / 7, 1 / 18, 1 / 22, 1 / 23]
        size = 400 * MIB
        ends = time_of(divide(size, 4), rates)
        ideal = size / sum(rates)
        self.assertLess(max(ends), 1.1 * ideal)
        equal = [Segment(n * size // 4, 0, (n + 1) * size // 4) for n in range(4)]
        self.assertGreater(max(time_of(equal, rates)), 1.5 * ideal)

    @given(st.integers(0, MAX_SIZE), st.integers(1, 64))
    def test_record_fits_into_a_page(self, size: int, count: int) -> None:
        segments = divide(size, count)
        for segment in segments:
            segment.done = segment.end
        if size < 10**14:
            self.assertLess(
                len(Record("x" * 128, "e" * 128, size, "b" * 36, segments).line()), 4096
            )
