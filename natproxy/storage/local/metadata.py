"""Metadata of local files, their etags, and whether their timestamps show the next change.

An etag is made of the file's identity, which a copy of the file does not have; or of what a copy
of it can have as well, so that several servers agree.

Two changes within one granule of a file system's timestamps leave the same timestamps: what git
calls "racily clean". What was read between the two looks like what is there after
them. The timestamps need not be of this machine's clock: they may be of a file server's.
"""

from __future__ import annotations

import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import blake2b
from threading import Lock
from typing import NamedTuple

from natproxy.kernel.mounts import Mounts
from natproxy.metadata import DIRECTORY, FILE, Metadata
from natproxy.storage.interface import NotFound

REMEMBERED = 10_000
"""Keys for which the time at which they were first seen is remembered."""

_ETAG_BYTES = 12


Describe = Callable[[os.stat_result, bytes], Metadata]
"""Returns the metadata of a regular file or a directory by its name; see `metadata_of`."""


def identity_of(result: os.stat_result) -> str:
    """Return what changes whenever the content of a file or a directory may have changed.

    It does not depend on the server's run: downloads are resumed after a restart.

    :param result: of ``stat(2)``.
    """
    identity = b"%d %d %d %d %d" % (
        result.st_dev,
        result.st_ino,
        result.st_size,
        result.st_mtime_ns,
        result.st_ctime_ns,
    )
    return blake2b(identity, digest_size=_ETAG_BYTES).hexdigest()


def metadata_of(result: os.stat_result, name: bytes = b"") -> Metadata:
    """Return the metadata of a regular file or a directory; the etag is its identity.

    :param result: of ``stat(2)``.
    :param name: not used.
    :raises NotFound: if it is of anything else.
    """
    kind, size = _kind_and_size(result)
    return Metadata(kind, size, result.st_mtime_ns, identity_of(result))


def replica_metadata_of(result: os.stat_result, name: bytes) -> Metadata:
    """Return the metadata of a regular file or a directory, with an etag that a copy has as well.

    Two files with the same name, size and mtime have the same etag, whatever their content. The
    etag is the same in all versions of the file server: several of them may serve one tree.

    :param result: of ``stat(2)``.
    :param name: of the file, as it is served.
    :raises NotFound: if it is of anything else.
    """
    kind, size = _kind_and_size(result)
    mtime_ns = result.st_mtime_ns
    # Directories differ in size from one file system to another: they have the size 0 here.
    replicated = b"%b %d %d %b" % (kind.encode("ascii"), size, mtime_ns, name)
    etag = blake2b(replicated, digest_size=_ETAG_BYTES).hexdigest()
    return Metadata(kind, size, mtime_ns, etag)


def _kind_and_size(result: os.stat_result) -> tuple[str, int]:
    if stat.S_ISREG(result.st_mode):
        return FILE, result.st_size
    if stat.S_ISDIR(result.st_mode):
        return DIRECTORY, 0
    raise NotFound


class Instant(NamedTuple):
    """A time by two clocks.

    :ivar monotonic: in seconds that never jump.
    :ivar wall: in seconds since the epoch.
    """

    monotonic: float
    wall: float


class RacyTimestamps:
    """Decides whether a file may change again without a change of its timestamps.

    It may not once a granule has passed since the timestamps were first seen: the next change
    is later than that. This needs a monotonic clock only. Where the timestamps are of this
    machine's own clock, it may not either if that clock shows that they are older than a
    granule.

    :param monotonic: seconds that never jump.
    :param wall_clock: seconds since the epoch.
    :param has_local_clock: whether a device's timestamps are of this machine's clock.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        has_local_clock: Callable[[int], bool] | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._has_local_clock = has_local_clock or Mounts().has_local_clock
        # Directories are listed in several threads at once.
        self._lock = Lock()
        self._first_seen: OrderedDict[Hashable, float] = OrderedDict()

    def now(self) -> Instant:
        """Return the time by both clocks."""
        return Instant(self._monotonic(), self._wall_clock())

    def is_racy(
        self, key: Hashable, device: int, changed: float, granule: float, seen: Instant
    ) -> bool:
        """Return whether a change after the timestamps were read may leave them as they are.

        :param key: the timestamps, and the identity of their file.
        :param device: that the file is on, ``st_dev``.
        :param changed: the latest of the timestamps, in seconds.
        :param granule: the longest time, in seconds, in which two changes get the same timestamps.
        :param seen: when the timestamps were read, or a little later.
        """
        with self._lock:
            first = self._first_seen.setdefault(key, seen.monotonic)
            if len(self._first_seen) > REMEMBERED:
                self._first_seen.popitem(last=False)
        if seen.monotonic - first > granule:
            return False
        return seen.wall - changed <= granule or not self._has_local_clock(device)
