"""An input as pieces, numbers and choices; the same input has the same ones everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def pieces_of(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return what follows the first byte, as a whole and in pieces.

    :param data: its first byte is the size of a piece; 0 for one piece.
    """
    size = data[0] if data else 0
    whole = data[1:]
    return whole, list(split(whole, size or max(1, len(whole))))


def split(data: bytes, size: int) -> Iterator[bytes]:
    """Yield the pieces of a text, of a size each but the last."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Reader:
    """Takes values from the beginning of an input; after its end, every byte is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def __bool__(self) -> bool:
        """Whether there is something left."""
        return self._place < len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next bytes, as many as there are."""
        taken = self._data[self._place : self._place + size]
        self._place += size
        return taken

    def number(self, size: int = 1) -> int:
        """Return the next number, of a number of bytes."""
        return int.from_bytes(self.take(size).ljust(size, b"\0"), "big")

    def choice(self, values: Sequence[T]) -> T:
        """Return one of several values."""
        return values[self.number() % len(values)]

    def rest(self) -> bytes:
        """Return what is left."""
        return self.take(len(self._data))
