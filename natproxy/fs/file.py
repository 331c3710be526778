"""An open file of a file system."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from fsspec.caching import MMapCache
from fsspec.spec import AbstractBufferedFile

from natproxy.fs.caches import GrowingReadAhead, VersionedBlocks


class NatproxyFile(AbstractBufferedFile):
    """A file that is open for reading: the version whose etag is in its ``details``.

    :param fs: the file system that opens it; its ``read_range`` reads the bytes.
    :param details: as ``fs.info`` returns them.
    :param for_block_cache: whether fsspec's block cache (``blockcache::``) opens it, which
        sets `cache` afterwards. Until then `size` is 0, so that the block cache creates no
        sparse file.
    """

    def __init__(
        self,
        fs: Any,
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
        on_disk = cache_type == VersionedBlocks.name
        super().__init__(
            fs,
            path,
            block_size=block_size,
            # fsspec's cache would leave its temporary file to the garbage collector.
            cache_type="none" if on_disk else cache_type,
            cache_options=None if on_disk else cache_options,
            size=details["size"],
        )
        if on_disk:
            self.cache = self._versioned_blocks(self.blocksize, None)
        self._awaits_cache = for_block_cache

    @property
    def size(self) -> int:
        """The size of the file, in bytes."""
        return 0 if self._awaits_cache else self._size

    @size.setter
    def size(self, size: int) -> None:
        self._size = size

    @property
    def cache(self) -> Any:
        """The cache of bytes that were read; ``None`` when the file is closed.

        A ``MMapCache`` that is set is replaced by `VersionedBlocks` in the same place: it reads by
        path alone, and its sparse file may hold blocks of another version.
        """
        return self._cache

    @cache.setter
    def cache(self, cache: Any) -> None:
        self._awaits_cache = False
        if isinstance(cache, MMapCache):
            location = cache.location
            if location is not None:
                # An earlier natproxy may have stored blocks of several versions there.
                cache.blocks.clear()
                with suppress(FileNotFoundError):
                    os.unlink(location)
            cache = self._versioned_blocks(cache.blocksize, location)
        self._cache = cache

    def read(self, length: int = -1) -> bytes:
        """Return the next bytes; by default all up to the end.

        :raises FileChanged: if the file on the server has another version by now.
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
