"""Reading many ranges of many files at the same time; adjacent ranges are read as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from natproxy.client.retry import Cancellation
from natproxy.client.transfer.parallel import run_parallel
from natproxy.protocol import Metadata

GAP = 64 << 10
"""Bytes between two ranges up to which both are read by one command: a second costs more."""

LARGEST_BLOCK = 16 << 20
"""Bytes up to which ranges are merged, so that several commands run at the same time."""


Calls = Sequence[Callable[[], Any]]


class Range(NamedTuple):
    """The bytes of a file from one offset to another; both count as in a slice."""

    name: str
    start: int | None
    end: int | None


def ranges_of(names: Sequence[str], starts: Any, ends: Any) -> list[Range]:
    """Return a range of each file.

    :param starts: a list of offsets, or one for all files; ``None`` for the beginning.
    :param ends: likewise; ``None`` for the end of the file.
    :raises ValueError: if there are not as many as names.
    """
    starts = starts if isinstance(starts, list) else [starts] * len(names)
    ends = ends if isinstance(ends, list) else [ends] * len(names)
    return [Range(*each) for each in zip(names, starts, ends, strict=True)]


class Piece(bytes):
    """Bytes of a file, with its version.

    fsspec's cache ``parts`` is filled with such bytes; the file that it is opened for may be of
    another version.

    :ivar etag: of the file when the bytes were read.
    """

    etag: str

    def __new__(cls, data: bytes, etag: str) -> Piece:
        """Return a copy of the bytes."""
        piece = super().__new__(cls, data)
        piece.etag = etag
        return piece

    def __reduce__(self) -> tuple[Any, ...]:
        return Piece, (bytes(self), self.etag)


class _Block(NamedTuple):
    """Ranges of one file that are read by one ``GET``.

    :ivar etag: that the file must have; ``None`` for any.
    :ivar pieces: the number, the start and the end of each range.
    """

    name: str
    etag: str | None
    start: int
    end: int | None
    pieces: list[tuple[int, int, int | None]]


def run_at_once(calls: Calls, width: int, interrupt: Callable[[], object]) -> list[Any]:
    """Call functions at the same time; return the result, or the exception, of each."""

    def attempt(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            return error

    return run_parallel(
        [partial(attempt, call) for call in calls], width, Cancellation(), interrupt
    )


def raise_first(results: Iterable[Any]) -> None:
    """Raise the first exception among results, if there is one."""
    for result in results:
        if isinstance(result, Exception):
            raise result


def read_ranges(
    ranges: Sequence[Range],
    gap: int,
    metadata_of: Callable[[str], Metadata],
    read: Callable[[str, int, int | None, str | None], tuple[bytes, str]],
    run_at_once: Callable[[Calls], list[Any]],
) -> list[Any]:
    """Return a `Piece`, or an exception, for each range; those of one file are of one version.

    :param gap: bytes between two ranges up to which they are read as one.
    :param metadata_of: returns the metadata of a file.
    :param read: returns the bytes of a file from one offset to another, and its etag; raises
        `FileChanged` if the etag is not that of the last argument, unless it is ``None``.
    :param run_at_once: calls functions at the same time, as the function of this module does.
    """
    results: list[Any] = [None] * len(ranges)
    numbers: dict[str, list[int]] = {}
    for number, wanted in enumerate(ranges):
        numbers.setdefault(wanted.name, []).append(number)
    blocks = []
    without_size = []
    for name, (number, *others) in numbers.items():
        _, start, end = ranges[number]
        if others or (start or 0) < 0 or (end or 0) < 0:
            without_size.append(name)
        else:
            # A single range needs no etag: it cannot be mixed with another version.
            blocks.append(_Block(name, None, start or 0, end, [(number, start or 0, end)]))
    metadata_list = run_at_once([partial(metadata_of, name) for name in without_size])
    for name, metadata in zip(without_size, metadata_list, strict=True):
        if isinstance(metadata, Exception):
            for number in numbers[name]:
                results[number] = metadata
        else:
            of_this = [(number, *ranges[number][1:]) for number in numbers[name]]
            for number in numbers[name]:
                # For ranges without bytes, which are in no block.
                results[number] = Piece(b"", metadata.etag)
            blocks += _merged(name, metadata, of_this, gap)
    bodies = run_at_once(
        [partial(read, each.name, each.start, each.end, each.etag) for each in blocks]
    )
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
    """Return blocks of the ranges of one file; those close to each other are in one."""
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
