"""Many ranges of many files, fetched at the same time: those close to each other as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from natproxy.client.retry import Cancellation
from natproxy.client.transfer.parallel import run_parallel
from natproxy.protocol import Metadata

GAP = 64 << 10
"""Bytes between two ranges that are fetched rather than asked round: a question costs more."""

LARGEST_BLOCK = 16 << 20
"""Bytes that neighbouring ranges are merged into at most, so that several are under way."""


Steps = Sequence[Callable[[], Any]]


class Range(NamedTuple):
    """Bytes of a file that are wanted, from one offset to another, which count as in a slice."""

    name: str
    start: int | None
    end: int | None


class Piece(bytes):
    """Bytes of a file that carry its version.

    An open file with fsspec's cache ``parts`` is given such bytes, and may be of another one.

    :ivar etag: of the file that they are from.
    """

    etag: str

    def __new__(cls, data: bytes, etag: str) -> Piece:
        """Copy bytes."""
        piece = super().__new__(cls, data)
        piece.etag = etag
        return piece

    def __reduce__(self) -> tuple[Any, ...]:
        return Piece, (bytes(self), self.etag)


class _Block(NamedTuple):
    """Neighbouring ranges of one file, fetched by one ``GET``.

    :ivar etag: that the file must have; `None` for any.
    :ivar pieces: the number, the start and the end of each range.
    """

    name: str
    etag: str | None
    start: int
    end: int | None
    pieces: list[tuple[int, int, int | None]]


def together(steps: Steps, width: int, interrupt: Callable[[], object]) -> list[Any]:
    """Take steps at the same time; give the result of each, or its exception."""

    def attempt(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:
            return error

    return run_parallel(
        [partial(attempt, step) for step in steps], width, Cancellation(), interrupt
    )


def raise_first(results: Sequence[Any]) -> None:
    """Raise the first exception among results, if there is one."""
    for result in results:
        if isinstance(result, Exception):
            raise result


def fetch_ranges(
    ranges: Sequence[Range],
    gap: int,
    measure: Callable[[str], Metadata],
    read: Callable[[str, int, int | None, str | None], tuple[bytes, str]],
    at_once: Callable[[Steps], list[Any]],
) -> list[Any]:
    """Return a `Piece` for each range, or its exception; all of one file are of one version.

    :param gap: bytes between two ranges that are fetched as one.
    :param measure: gives a file's status.
    :param read: returns a file's bytes from one offset to another and its etag, which it
        compares with the one that it is given.
    :param at_once: takes steps at the same time, as `together` does.
    """
    results: list[Any] = [None] * len(ranges)
    numbers: dict[str, list[int]] = {}
    for number, wanted in enumerate(ranges):
        numbers.setdefault(wanted.name, []).append(number)
    blocks = []
    unmeasured = []
    for name, (number, *others) in numbers.items():
        _, start, end = ranges[number]
        if others or (start or 0) < 0 or (end or 0) < 0:
            unmeasured.append(name)
        else:
            # Nothing to mix it with: it need not be asked about first.
            blocks.append(_Block(name, None, start or 0, end, [(number, start or 0, end)]))
    metadata_list = at_once([partial(measure, name) for name in unmeasured])
    for name, metadata in zip(unmeasured, metadata_list, strict=True):
        if isinstance(metadata, Exception):
            for number in numbers[name]:
                results[number] = metadata
        else:
            of_this = [(number, *ranges[number][1:]) for number in numbers[name]]
            for number in numbers[name]:
                # For those without bytes, which no block has.
                results[number] = Piece(b"", metadata.etag)
            blocks += _merged(name, metadata, of_this, gap)
    bodies = at_once([partial(read, each.name, each.start, each.end, each.etag) for each in blocks])
    for block, found in zip(blocks, bodies, strict=True):
        for number, start, end in block.pieces:
            if isinstance(found, Exception):
                results[number] = found
                continue
            body, etag = found
            stop = None if end is None else end - block.start
            results[number] = Piece(body[start - block.start : stop], etag)
    return results


def _merged(
    name: str,
    metadata: Metadata,
    ranges: Sequence[tuple[int, int | None, int | None]],
    gap: int,
) -> list[_Block]:
    """Join the ranges of one file that are close to each other."""
    blocks: list[_Block] = []
    pieces = [
        (*slice(start, end).indices(metadata.size)[:2], number) for number, start, end in ranges
    ]
    for start, end, number in sorted(pieces):
        if end <= start:
            continue
        last = blocks[-1] if blocks else None
        if last and last.end is not None and start <= last.end + gap:
            whole = max(end, last.end)
            if whole <= max(last.end, last.start + LARGEST_BLOCK):
                blocks[-1] = last._replace(end=whole)
                last.pieces.append((number, start, end))
                continue
        blocks.append(_Block(name, metadata.etag, start, end, [(number, start, end)]))
    return blocks
