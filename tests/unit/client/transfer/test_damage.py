"""Damaged ranges are found by halving."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.transfer.damage import (
    MOST_PIECES,
    MOST_RANGES,
    SMALLEST_PIECE,
    find_damage,
    join,
)

MIB = 1 << 20


class Compared:
    """Compares with bytes of which some are damaged, and counts the comparisons."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad
        self.spans: list[tuple[int, int]] = []

    def same(self, start: int, end: int) -> bool:
        self.spans.append((start, end))
        return not any(start <= offset < end for offset in self.bad)


class FindingTests(SynchronousTestCase):
    def test_one_wrong_byte_costs_one_piece(self) -> None:
        size = 1024 * MIB
        for offset in (0, 12345, size // 2, size // 3, size - 1):
            compared = Compared(offset)
            ((start, end),) = find_damage((0, size), size, compared.same)
            self.assertLessEqual(end - start, SMALLEST_PIECE)
            self.assertTrue(start <= offset < end)
            # Ten halvings with at most two digests each.
            self.assertLessEqual(len(compared.spans), 20)
            self.assertLessEqual(sum(end - start for start, end in compared.spans), 2 * size)

    def test_neighbours_are_one_range(self) -> None:
        size = 64 * MIB
        compared = Compared(*range(MIB * 5, MIB * 9, MIB // 2))
        self.assertEqual(find_damage((0, size), size, compared.same), [(5 * MIB, 9 * MIB)])

    def test_span_below_the_smallest_piece_is_not_compared(self) -> None:
        compared = Compared()
        self.assertEqual(find_damage((5, 17), 100, compared.same), [(5, 17)])
        self.assertEqual(compared.spans, [])

    def test_number_of_digests_of_a_large_file_is_limited(self) -> None:
        size = 100_000 * MIB
        spans = []

        def same(start: int, end: int) -> bool:
            spans.append((start, end))
            return False

        self.assertEqual(find_damage((0, size), size, same), [(0, size)])
        self.assertLess(len(spans), 2 * MOST_PIECES)

    @settings(deadline=None)
    @given(st.data())
    def test_every_bad_byte_is_found_and_every_other_byte_was_compared(
        self, data: st.DataObject
    ) -> None:
        size = data.draw(st.integers(1, 300))
        start = data.draw(st.integers(0, size - 1))
        end = data.draw(st.integers(start + 1, size))
        bad = data.draw(st.sets(st.integers(start, end - 1), min_size=1))
        compared = Compared(*bad)
        with mock.patch(
            "natproxy.client.transfer.damage.SMALLEST_PIECE", data.draw(st.integers(1, 40))
        ):
            found = find_damage((start, end), size, compared.same)
        covered = {offset for first, last in found for offset in range(first, last)}
        good = {
            offset
            for first, last in compared.spans
            if not bad & set(range(first, last))
            for offset in range(first, last)
        }
        self.assertTrue(bad <= covered)
        self.assertEqual(covered | good, set(range(start, end)))
        self.assertEqual(found, sorted(found))
        self.assertTrue(all(one[1] < two[0] for one, two in pairwise(found)))


class JoiningTests(SynchronousTestCase):
    def test_few_ranges_are_not_joined(self) -> None:
        for ranges in ([], [(3, 4)], [(0, 1), (5, 6)]):
            self.assertEqual(join(ranges, 2), ranges)

    def test_smallest_gaps_are_closed_first(self) -> None:
        ranges = [(0, 1), (2, 3), (10, 11), (13, 14), (100, 101)]
        self.assertEqual(join(ranges, 3), [(0, 3), (10, 14), (100, 101)])
        self.assertEqual(join(ranges, 1), [(0, 101)])

    @settings(deadline=None)
    @given(st.lists(st.integers(1, 50), max_size=150), st.integers(1, MOST_RANGES))
    def test_every_range_is_covered(self, lengths: list[int], most: int) -> None:
        ranges = []
        offset = 0
        for length in lengths:
            ranges.append((offset, offset + 1))
            offset += 1 + length
        joined = join(ranges, most)
        self.assertLessEqual(len(joined), most)
        for start, end in ranges:
            self.assertTrue(any(first <= start and end <= last for first, last in joined))
