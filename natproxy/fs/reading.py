"""A file that is open, and what is kept of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fsspec.caching import BaseCache, MMapCache, register_cache
from fsspec.spec import AbstractBufferedFile

from natproxy.fs.blocks import VersionedBlocks

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
    """A file that is open for reading, held to the etag in its `details`.

    :param for_block_cache: whether fsspec's block cache (``blockcache::``) opens it, which
        sets `cache` afterwards. Until then `size` is 0, so that it creates no sparse file.
    """

    def __init__(
        self,
        fs: NatproxyFileSystem,
        path: str,
        details: dict[str, Any],
        block_size: int | str | None = None,
        cache_type: str = GrowingReadAhead.name,
        cache_options: dict[str, Any] | None = None,
        for_block_cache: bool = False,
    ) -> None:
        self._details = details
        self._cache: Any = None
        self._awaits_cache = False
        kept_on_disk = cache_type == VersionedBlocks.name
        super().__init__(
            fs,
            path,
            block_size=block_size,
            # The one of fsspec would leave its temporary file to the garbage collector.
            cache_type="none" if kept_on_disk else cache_type,
            cache_options=None if kept_on_disk else cache_options,
            size=details["size"],
        )
        if kept_on_disk:
            self.cache = self._versioned_blocks(self.blocksize, None)
        self._awaits_cache = for_block_cache

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return 0 if self._awaits_cache else self._size

    @size.setter
    def size(self, size: int) -> None:
        self._size = size

    @property
    def cache(self) -> Any:
        """What keeps bytes that were read; `None` once the file is closed.

        A `MMapCache` that is set is replaced by `VersionedBlocks` in its place: it fetches by
        path alone, and its sparse file may hold blocks of another version.
        """
        return self._cache

    @cache.setter
    def cache(self, cache: Any) -> None:
        self._awaits_cache = False
        if isinstance(cache, MMapCache):
            location = cache.location
            if location is not None:
                # What an earlier natproxy stored there may be a mixture.
                cache.blocks.clear()
                with suppress(FileNotFoundError):
                    os.unlink(location)
            cache = self._versioned_blocks(cache.blocksize, location)
        self._cache = cache

    def read(self, length: int = -1) -> bytes:
        """Return the next bytes, all that follow by default.

        :raises FileChanged: if the file is not the one that was opened any more.
        """
        self._awaits_cache = False
        data: bytes = super().read(length)
        return data

    def seek(self, loc: int, whence: int = 0) -> int:
        """Set the offset of the next byte, and return it."""
        self._awaits_cache = False
        return int(super().seek(loc, whence))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy in another process must not read another version of the file.
        cache_type = self.cache.name if self.cache else GrowingReadAhead.name
        return _reopen, (self.loc, self.fs, self.path, self.details, self.blocksize, cache_type)

    def _versioned_blocks(self, block_size: int, location: str | None) -> VersionedBlocks:
        etag = self.details["etag"]
        return VersionedBlocks(block_size, self._fetch_range, self.size, location, etag)

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.read_range(self.path, start, end, self.details["etag"])
        return data


def _reopen(position: int, *arguments: Any) -> NatproxyFile:
    file = NatproxyFile(*arguments)
    file.seek(position)
    return file
