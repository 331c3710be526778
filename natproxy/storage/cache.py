"""A cache on a local disk of blocks of files that are stored far away.

A block is a file of its own, named after the file's identity (which contains its etag) and the
number of the block. It is written under another name and renamed, and it ends with a checksum: so
a process that is killed, or a machine that loses power, leaves no block that is half written and
used. Several processes may share a directory. The blocks that were used least recently are removed
when the cache is full.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import NamedTuple

BLOCK = 1 << 20
"""Bytes of a block; the last one of a file may be shorter."""

SHARE = 64
"""What a process writes before it looks how full the cache is, as a part of its size.

Blocks are removed until an eighth of the size is free. So up to eight processes never exceed the
size together.
"""

MOST_FILES = 250_000
"""Blocks at most, so that looking through the directory does not take long."""

RESERVE = 1 << 30
"""Bytes that remain free on the file system, …"""

RESERVE_SHARE = 0.05
"""… or this share of it, if that is less."""

TOUCH_AFTER = 60.0
"""Seconds after which another use of a block is noted in its mtime."""

STALE_AFTER = 600.0
"""Seconds after which a block that was not renamed was left by a process that was killed."""

_TRAILER = struct.Struct(">4sII")
_MAGIC = b"npc1"
_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{1,12}")
_UNFINISHED = ".tmp"


class Figures(NamedTuple):
    """What the cache has done so far.

    :ivar hits: blocks that were read from it.
    :ivar misses: blocks that it did not have.
    :ivar hit_bytes: bytes that were read from it.
    :ivar written_bytes: bytes that were written to it.
    :ivar evicted: blocks that were removed for others.
    :ivar refused: blocks that were not written, as too little of the disk is free.
    :ivar errors: blocks that could not be read or written, or were damaged.
    :ivar bytes: of all blocks, as counted last.
    """

    hits: int
    misses: int
    hit_bytes: int
    written_bytes: int
    evicted: int
    refused: int
    errors: int
    bytes: int


class _Block(NamedTuple):
    used_at: float
    size: int
    path: str


class DiskCache:
    """A cache in a directory. Threads may share it.

    :param directory: of the cache; created by `open`.
    :param limit: bytes of all blocks.
    :param wall_clock: seconds since the epoch, which mtimes are compared with.
    :param space: returns the free bytes of the file system and all of them.
    """

    def __init__(
        self,
        directory: str,
        limit: int,
        wall_clock: Callable[[], float] = time.time,
        space: Callable[[str], tuple[int, int]] | None = None,
    ) -> None:
        self.directory = directory
        self.limit = limit
        self._clock = wall_clock
        self._space = space or _space
        self._lock = threading.Lock()
        self._serial = count()
        self._figures = dict.fromkeys(Figures._fields, 0)
        self._written = 0

    @property
    def figures(self) -> Figures:
        """What the cache has done so far."""
        return Figures(**self._figures)

    def open(self) -> None:
        """Create the directory, and count what is there.

        :raises OSError: if it cannot be used.
        """
        os.makedirs(self.directory, 0o700, exist_ok=True)
        with open(os.path.join(self.directory, "lock"), "ab"):
            pass
        self._sweep()

    def read(self, identity: str, number: int, size: int) -> bytes | None:
        """Return a block; ``None`` if it is not there.

        :param identity: of a version of a file.
        :param size: of the block, in bytes.
        """
        path = self._path(identity, number)
        try:
            data = self._load(path, size)
        except FileNotFoundError:
            self._count(misses=1)
            return None
        except OSError:
            self._count(misses=1, errors=1)
            return None
        if data is None:
            self._count(misses=1, errors=1)
            with suppress(OSError):
                os.unlink(path)
            return None
        self._count(hits=1, hit_bytes=size)
        return data

    def contains(self, identity: str, number: int) -> bool:
        """Return whether a block is probably there."""
        return os.path.exists(self._path(identity, number))

    def write(self, identity: str, number: int, data: bytes) -> None:
        """Add a block, if there is space for it. What fails is counted, and not raised."""
        free, total = self._space(self.directory)
        if free - len(data) < min(RESERVE, int(total * RESERVE_SHARE)) or len(data) > self.limit:
            self._count(refused=1)
            return
        path = self._path(identity, number)
        unfinished = f"{path}.{os.getpid():x}-{next(self._serial):x}{_UNFINISHED}"
        try:
            try:
                self._store(unfinished, data)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                self._store(unfinished, data)
            os.rename(unfinished, path)
        except OSError:
            self._count(errors=1)
            with suppress(OSError):
                os.unlink(unfinished)
            return
        self._count(written_bytes=len(data), bytes=len(data))
        with self._lock:
            self._written += len(data)
            due = self._written >= self.limit // SHARE
            if due:
                self._written = 0
        if due:
            with suppress(OSError):
                self._sweep()

    def _load(self, path: str, size: int) -> bytes | None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            data = os.pread(descriptor, size, 0)
            trailer = os.pread(descriptor, _TRAILER.size + 1, size)
            now = self._clock()
            if now - os.fstat(descriptor).st_mtime > TOUCH_AFTER:
                os.utime(descriptor, (now, now))
        finally:
            os.close(descriptor)
        if len(trailer) != _TRAILER.size or _TRAILER.unpack(trailer) != _trailer_of(data):
            return None
        return data

    def _store(self, path: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            for part in (data, _TRAILER.pack(*_trailer_of(data))):
                if os.write(descriptor, part) != len(part):
                    raise OSError("short write")
        finally:
            os.close(descriptor)

    def _path(self, identity: str, number: int) -> str:
        name = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        return os.path.join(self.directory, name[:2], f"{name}-{number:x}")

    def _sweep(self) -> None:
        """Count the blocks, and remove the oldest if they are too many; one process at a time."""
        with open(os.path.join(self.directory, "lock"), "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            blocks = list(self._blocks())
            size = sum(block.size for block in blocks)
            left = len(blocks)
            most = self.limit - self.limit // 8
            evicted = 0
            if size > most or left > MOST_FILES:
                for block in sorted(blocks):
                    if size <= most and left <= MOST_FILES:
                        break
                    with suppress(OSError):
                        os.unlink(block.path)
                        evicted += 1
                    size -= block.size
                    left -= 1
        with self._lock:
            self._figures["evicted"] += evicted
            self._figures["bytes"] = size

    def _blocks(self) -> Iterator[_Block]:
        """Yield the blocks; remove those that were never finished. Other files are left alone."""
        stale = self._clock() - STALE_AFTER
        with os.scandir(self.directory) as shards:
            names = [shard.path for shard in shards if re.fullmatch("[0-9a-f]{2}", shard.name)]
        for shard in names:
            with suppress(OSError), os.scandir(shard) as entries:
                for entry in entries:
                    with suppress(OSError):
                        result = entry.stat(follow_symlinks=False)
                        if _NAME.fullmatch(entry.name):
                            yield _Block(result.st_mtime, result.st_size, entry.path)
                        elif entry.name.endswith(_UNFINISHED) and result.st_mtime < stale:
                            os.unlink(entry.path)

    def _count(self, **figures: int) -> None:
        with self._lock:
            for name, number in figures.items():
                self._figures[name] += number


def _trailer_of(data: bytes) -> tuple[bytes, int, int]:
    return _MAGIC, zlib.crc32(data), len(data)


def _space(directory: str) -> tuple[int, int]:
    try:
        system = os.statvfs(directory)
    except OSError:
        return 0, 0
    return system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize
