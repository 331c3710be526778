"""Find the ranges of a download that differ from the server's file, by comparing digests."""

from __future__ import annotations

from collections.abc import Callable

SMALLEST_PIECE = 1 << 20
"""Bytes of a piece that is not divided further: a wrong bit costs a download of this size."""

MOST_PIECES = 4096
"""Pieces that a file is divided into at most: each costs a command and a digest."""

MOST_RANGES = 16
"""Ranges of a file that are downloaded again at most; if there are more, some are joined.

The record of the partial download must fit into a page.
"""

Range = tuple[int, int]
"""The offset of the first byte, and the offset after the last byte."""


def find_damage(span: Range, size: int, same: Callable[[int, int], bool]) -> list[Range]:
    """Return the ranges that differ within a span that is known to differ, in order.

    Every byte of the span is in one of the returned ranges or in a range that ``same`` has
    compared and found equal.

    :param size: of the file, in bytes.
    :param same: compares a range; its arguments are the offsets of the first byte and after the
        last one.
    """
    piece = max(SMALLEST_PIECE, size // MOST_PIECES)
    found: list[Range] = []
    different = [span]
    while different:
        start, end = different.pop()
        if end - start <= piece:
            if found and found[-1][1] == start:
                start, _ = found.pop()
            found.append((start, end))
            continue
        middle = (start + end) // 2
        if same(start, middle):
            # The span differs, so its second half does: no comparison is needed.
            different.append((middle, end))
        else:
            if not same(middle, end):
                different.append((middle, end))
            different.append((start, middle))
    return found


def join(ranges: list[Range], most: int = MOST_RANGES) -> list[Range]:
    """Return ranges joined over the smallest gaps between them, so that at most ``most`` remain.

    :param ranges: in order, with gaps between them.
    """
    gaps = sorted(range(1, len(ranges)), key=lambda n: ranges[n - 1][1] - ranges[n][0])
    marks = sorted(gaps[: most - 1])
    firsts, lasts = [0, *marks], [*marks, len(ranges)]
    return [
        (ranges[first][0], ranges[last - 1][1])
        for first, last in zip(firsts, lasts, strict=True)
        if ranges
    ]
