"""Which parts of a download differ from the server's file: found by comparing digests."""

from __future__ import annotations

from collections.abc import Callable

SMALLEST_PIECE = 1 << 20
"""Bytes that are not divided any further: what is downloaded again for one wrong bit."""

MOST_PIECES = 4096
"""Pieces that a file is divided into at most: each costs a command and a digest."""

MOST_RANGES = 16
"""Ranges of a file that are downloaded again; more of them are joined.

The record of the partial download has to fit into a page.
"""

Range = tuple[int, int]
"""The offset of a first byte, and the offset after a last one."""


def find_damage(span: Range, size: int, same: Callable[[int, int], bool]) -> list[Range]:
    """Return the ranges that differ within a span that is known to differ, in order.

    Every byte of the span is in one of the ranges, or in a range that was found to be the same.

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
            # Then it is the second half that differs.
            different.append((middle, end))
        else:
            if not same(middle, end):
                different.append((middle, end))
            different.append((start, middle))
    return found


def join(ranges: list[Range], most: int = MOST_RANGES) -> list[Range]:
    """Return ranges joined over the smallest gaps between them, until they are few enough.

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
