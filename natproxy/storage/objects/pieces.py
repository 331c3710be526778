"""The bytes of an object in pieces: from the store, or from a cache on a local disk."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing

from natproxy.storage.cache import BLOCK, DiskCache
from natproxy.storage.objects.client import Body, ObjectClient, StoreError
from natproxy.storage.objects.ranges import PIECE


class ObjectPieces:
    """Receives pieces of one object; see `natproxy.storage.objects.ranges.Pieces`."""

    unit = 1

    def __init__(self, client: ObjectClient, key: str, etag: str) -> None:
        self.client = client
        self._key = key
        self._etag = etag

    def receive(self, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield the bytes of a range."""
        with closing(self.client.get(self._key, start, stop, self._etag)) as body:
            yield from pieces_of(body, stop - start)


class CachedPieces:
    """Receives pieces of one object from a cache, and others from the store.

    :param identity: of the object's version.
    """

    unit = BLOCK

    def __init__(self, pieces: ObjectPieces, size: int, cache: DiskCache, identity: str) -> None:
        self._pieces = pieces
        self._size = size
        self._cache = cache
        self._identity = identity

    def receive(self, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield the bytes of a range; keep the blocks that are received as a whole."""
        while start < stop:
            number, skip = divmod(start, BLOCK)
            length = min(BLOCK, self._size - number * BLOCK)
            block = self._cache.read(self._identity, number, length)
            if block is not None:
                piece = block[skip : skip + stop - start]
                start += len(piece)
                yield piece
                continue
            end = (number + 1) * BLOCK
            while end < stop and not self._cache.contains(self._identity, end // BLOCK):
                end += BLOCK
            end = min(end, stop)
            yield from self._missing(start, end)
            start = end

    def _missing(self, start: int, stop: int) -> Generator[bytes, None, None]:
        parts: list[bytes] = []
        with closing(self._pieces.receive(start, stop)) as pieces:
            for received in pieces:
                yield received
                piece = received
                while piece:
                    end = min((start // BLOCK + 1) * BLOCK, self._size)
                    part, piece = piece[: end - start], piece[end - start :]
                    parts.append(part)
                    start += len(part)
                    if start == end:
                        number = (end - 1) // BLOCK
                        block = b"".join(parts)
                        if len(block) == end - number * BLOCK:
                            self._cache.write(self._identity, number, block)
                        parts = []


def pieces_of(body: Body, size: int) -> Iterator[bytes]:
    """Yield the bytes of a body in pieces.

    :raises StoreError: if there are fewer.
    """
    while size:
        piece = body.read(min(PIECE, size))
        if not piece:
            raise StoreError("the object store sent less than the range that was requested")
        size -= len(piece)
        yield piece
