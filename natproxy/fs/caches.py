"""Caches of an open file: read-ahead in memory, and blocks of one version on the local disk."""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b

from fsspec.caching import BaseCache, register_cache

DIGEST_SIZE = 16
"""Bytes of the digest that is stored for each block."""


SMALLEST_READ = 64 << 10
"""Bytes that one command of an open file reads at least, up to the end of the file."""


class GrowingReadAhead(BaseCache):
    """Keeps the bytes that were read last, and reads ahead more as sequential reading continues.

    Reads at random offsets, as of Parquet files, get `SMALLEST_READ` bytes or the bytes that they
    need, and no more.

    :ivar blocksize: bytes to read ahead at most.
    """

    name = "growing"

    def __init__(self, blocksize: int, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__(blocksize, read, size)
        self._start = 0
        self._cached = b""
        self._ahead = 0

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        start = start or 0
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return b""
        cached_end = self._start + len(self._cached)
        if not self._cached or not self._start <= start <= cached_end:
            self._start, self._cached, self._ahead = start, b"", 0
        elif stop > cached_end:
            self._ahead = min(self.blocksize, max(2 * self._ahead, stop - start))
            self._start, self._cached = start, self._cached[start - self._start :]
        missing = self._start + len(self._cached)
        if stop > missing:
            end = min(self.size, max(stop + self._ahead, missing + SMALLEST_READ))
            received = self.fetcher(missing, end)
            self._cached = self._cached + received if self._cached else received
        return self._cached[start - self._start : stop - self._start]


register_cache(GrowingReadAhead, clobber=True)


class VersionedBlocks(BaseCache):
    """Keeps whole blocks in a local file that belongs to one version of the remote file.

    It replaces fsspec's ``MMapCache``, which stores the blocks of all versions in one file and
    marks a block as present before it has been received. The local file ends with a table of
    the blocks' digests; a block is used only if it has its digest. Processes and threads may
    share the file: all of them write the same bytes to the same places.

    :param blocksize: bytes of a block.
    :param read: returns the bytes from one offset to another; raises `FileChanged` if the
        file has another version by then.
    :param size: of the remote file, in bytes.
    :param location: path that fsspec has chosen for the cached file. The blocks are stored in
        ``LOCATION.versions/VERSION``, and files of other versions there are removed. Without
        it, they are stored in an unnamed temporary file.
    :param etag: the version.
    :raises OSError: if the local file cannot be created, or cannot be as large.
    """

    name = "mmap"

    def __init__(
        self,
        blocksize: int,
        read: Callable[[int, int], bytes],
        size: int,
        location: str | None,
        etag: str,
    ) -> None:
        super().__init__(blocksize, read, size)
        self._count = -(-size // blocksize)
        self._checked: set[int] = set()
        if location is None:
            with tempfile.TemporaryFile(buffering=0) as file:
                self._descriptor = os.dup(file.fileno())
        else:
            version = blake2b(f"{etag} {size} {blocksize}".encode(), digest_size=DIGEST_SIZE)
            self._descriptor = _open_version(f"{location}.versions", version.hexdigest())
        self._close = weakref.finalize(self, os.close, self._descriptor)
        # Others that open this version set the same length.
        length = size + self._count * DIGEST_SIZE
        try:
            os.ftruncate(self._descriptor, length)
        except OverflowError as error:
            raise OSError(errno.EFBIG, f"no local file can have {length} bytes") from error

    def close(self) -> None:
        """Close the local file; the blocks in a named one stay."""
        self._close()

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        start = start or 0
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return b""
        pieces = []
        number, last = start // self.blocksize, (stop - 1) // self.blocksize
        while number <= last:
            begin = number * self.blocksize
            wanted = max(start, begin), min(stop, begin + self.blocksize)
            if self._is_present(number):
                length = wanted[1] - wanted[0]
                piece = os.pread(self._descriptor, length, wanted[0])
                if len(piece) == length:
                    pieces.append(piece)
                    number += 1
                    continue
            after = number + 1
            while after <= last and not self._is_present(after):
                after += 1
            end = min(after * self.blocksize, self.size)
            received = memoryview(self.fetcher(begin, end))
            self._store(number, received)
            pieces.append(bytes(received[wanted[0] - begin : min(stop, end) - begin]))
            number = after
        return b"".join(pieces)

    def _is_present(self, number: int) -> bool:
        if number in self._checked:
            return True
        stored = os.pread(self._descriptor, DIGEST_SIZE, self._place_of_digest(number))
        if not any(stored):
            return False
        begin = number * self.blocksize
        length = min(self.blocksize, self.size - begin)
        if stored == _digest(os.pread(self._descriptor, length, begin)):
            self._checked.add(number)
            return True
        return False

    def _store(self, first: int, received: memoryview) -> None:
        # A block that cannot be stored, for instance on a full disk, is read again later.
        with suppress(OSError):
            for offset in range(0, len(received), self.blocksize):
                number = first + offset // self.blocksize
                block = received[offset : offset + self.blocksize]
                if os.pwrite(self._descriptor, block, number * self.blocksize) < len(block):
                    return
                os.pwrite(self._descriptor, _digest(block), self._place_of_digest(number))
                self._checked.add(number)

    def _place_of_digest(self, number: int) -> int:
        return int(self.size + number * DIGEST_SIZE)


def _digest(block: bytes | memoryview) -> bytes:
    return blake2b(block, digest_size=DIGEST_SIZE).digest()


def _open_version(directory: str, version: str) -> int:
    """Open or create the file of a version; remove the files of other versions."""
    os.makedirs(directory, exist_ok=True)
    for name in os.listdir(directory):
        if name != version:
            # A process that has the file open can still read it.
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
    path = os.path.join(directory, version)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
