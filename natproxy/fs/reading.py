"""A file that is open, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fsspec.caching import BaseCache, register_cache
from fsspec.spec import AbstractBufferedFile

if TYPE_CHECKING:
    from natproxy.fs.system import NatproxyFileSystem

SMALLEST_READ = 64 << 10
"""Bytes that an open file asks for at least."""


class GrowingReadAhead(BaseCache):
    """Keeps what was read last, and reads ahead the further, the longer reading goes on in order.

    Who jumps about in a file, as readers of Parquet do, gets no more than was asked for.

    :ivar blocksize: bytes to read ahead at most.
    """

    name = "growing"

    def __init__(self, blocksize: int, fetcher: Callable[[int, int], bytes], size: int) -> None:
        super().__init__(blocksize, fetcher, size)
        self._start = 0
        self._held = b""
        self._ahead = 0

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        start = start or 0
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return b""
        held_end = self._start + len(self._held)
        if not self._held or not self._start <= start <= held_end:
            self._start, self._held, self._ahead = start, b"", 0
        elif stop > held_end:
            self._ahead = min(self.blocksize, max(2 * self._ahead, stop - start))
            self._start, self._held = start, self._held[start - self._start :]
        missing = self._start + len(self._held)
        if stop > missing:
            end = min(self.size, max(stop + self._ahead, missing + SMALLEST_READ))
            fetched = self.fetcher(missing, end)
            self._held = self._held + fetched if self._held else fetched
        return self._held[start - self._start : stop - self._start]


register_cache(GrowingReadAhead, clobber=True)


class NatproxyFile(AbstractBufferedFile):
    """A file that is open for reading, held to the etag in its `details`."""

    def __init__(
        self,
        fs: NatproxyFileSystem,
        path: str,
        details: dict[str, Any],
        block_size: int | str | None = None,
        cache_type: str = GrowingReadAhead.name,
        cache_options: dict[str, Any] | None = None,
    ) -> None:
        self._details = details
        super().__init__(
            fs,
            path,
            block_size=block_size,
            cache_type=cache_type,
            cache_options=cache_options,
            size=details["size"],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Whoever goes on reading it elsewhere must not read another file.
        cache_type = self.cache.name if self.cache else GrowingReadAhead.name
        return _reopen, (self.loc, self.fs, self.path, self.details, self.blocksize, cache_type)

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.read_range(self.path, start, end, self.details["etag"])
        return data


def _reopen(position: int, *arguments: Any) -> NatproxyFile:
    file = NatproxyFile(*arguments)
    file.seek(position)
    return file
