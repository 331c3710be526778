"""The names in a directory, sorted, and kept for the listing that continues.

A directory is scanned once for many listings as long as it does not change. Long calls hold the
interpreter lock and stall the reactor: so names are sorted in runs, and the runs are merged
only as far as a listing reaches.
"""

from __future__ import annotations

import os
import sys
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import NamedTuple

from natproxy.storage.interface import RUN, Check, in_runs, unchecked
from natproxy.storage.local.confinement import is_out_of_resources
from natproxy.storage.local.metadata import RacyTimestamps

_SECOND = 10**9

# For how long a scan may be used, in seconds: on some network file systems a directory's
# timestamps do not show that it has changed.
_KEPT_FOR = 30.0

Runs = tuple[tuple[bytes, ...], ...]
"""Keys, each run sorted for itself.

A key is a name. A directory has a second key, its name and a slash, which sorts where its
entries do. Tuples of bytes are not traversed by the garbage collector.
"""


class _Scan(NamedTuple):
    """A scan of one directory.

    :ivar stamps: the directory's mtime and ctime before the scan, in nanoseconds.
    :ivar made: time of the scan, in monotonic seconds.
    :ivar size: number of keys.
    """

    stamps: tuple[int, int]
    made: float
    size: int
    runs: Runs


class Scans:
    """Scans of large directories; the least recently used is dropped first.

    :param clock: seconds that never jump.
    :param racy: decides which scans may be kept.
    :param most: keys kept in all; a million of them take some 100 MB. The last scan is
        kept even if it has more: else the time to list such a directory in parts would grow
        with the square of its size.
    :param least: keys of a directory that is kept; with fewer, a new scan costs as little.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        racy: RacyTimestamps | None = None,
        most: int = 1_000_000,
        least: int = 1024,
    ) -> None:
        self._clock = clock
        self._racy = racy or RacyTimestamps(clock)
        self._most = most
        self._least = least
        # Directories are listed in several threads at once. The lock is held for the
        # bookkeeping only: two threads may scan the same directory at the same time.
        self._lock = Lock()
        self._kept: OrderedDict[tuple[int, int], _Scan] = OrderedDict()

    def of(self, directory: int, check: Check = unchecked) -> Runs:
        """Return the keys of the entries in a directory that may be listed.

        :param directory: its descriptor.
        :param check: called for each run of names.
        :raises OSError: if it cannot be read.
        """
        now = self._clock()
        result = os.fstat(directory)
        place = (result.st_dev, result.st_ino)
        stamps = (result.st_mtime_ns, result.st_ctime_ns)
        # A scan between two changes within one granule of the timestamps looks like one after
        # them, so it is not kept: a listing right after a change costs a scan, and so does
        # every listing of a directory that changes all the time. A granule is up to 10 ms;
        # on file systems that count in seconds (all timestamps are whole), up to 2 s.
        granule = 0.1 if all(stamp % _SECOND for stamp in stamps) else 2.0
        with self._lock:
            kept = self._kept.get(place)
            if kept is not None and kept.stamps == stamps and _is_recent(kept, now):
                self._kept.move_to_end(place)
                return kept.runs
        seen = self._racy.now()
        runs = tuple(_sorted_runs(_keys(directory), check))
        scan = _Scan(stamps, now, sum(map(len, runs)), runs)
        with self._lock:
            self._kept.pop(place, None)
            if scan.size >= self._least and not self._racy.is_racy(
                (place, stamps), result.st_dev, max(stamps) / _SECOND, granule, seen
            ):
                self._kept[place] = scan
            self._drop(now)
        return runs

    def _drop(self, now: float) -> None:
        for place in [place for place, scan in self._kept.items() if not _is_recent(scan, now)]:
            del self._kept[place]
        size = sum(scan.size for scan in self._kept.values())
        while size > self._most and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            size -= dropped.size


def _is_recent(scan: _Scan, now: float) -> bool:
    return now - scan.made < _KEPT_FOR


def _sorted_runs(keys: Iterator[bytes], check: Check) -> Iterator[tuple[bytes, ...]]:
    for run in in_runs(keys):
        check()
        yield tuple(sorted(run))


def _keys(directory: int) -> Iterator[bytes]:
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    with os.scandir(directory) as entries:
        for entry in entries:
            # As `os.fsencode`, in a third of the time.
            name = entry.name.encode(encoding, errors)
            try:
                if entry.is_file(follow_symlinks=False):
                    yield name
                elif entry.is_dir(follow_symlinks=False):
                    yield name
                    yield name + b"/"
                elif entry.is_symlink():
                    yield name
            except OSError as error:
                # A file system that has no types beside its names, and an entry whose
                # metadata cannot be read.
                if is_out_of_resources(error):
                    raise
                yield name


def keys_after(runs: Iterable[tuple[bytes, ...]], rest: bytes) -> Iterator[Sequence[bytes]]:
    """Return, in order and in batches, the keys that lead to a path greater than ``rest``.

    :param rest: a path below the directory; if it leads through a sub-directory, the first
        key is that sub-directory's second one. Empty for all keys.
    """
    head, slash, _ = rest.partition(b"/")
    find, mark = (bisect_left, head + slash) if slash else (bisect_right, rest)
    starts = ((run, find(run, mark)) for run in runs)
    return _merged([(run, start) for run, start in starts if start < len(run)])


def _merged(parts: list[tuple[tuple[bytes, ...], int]]) -> Iterator[Sequence[bytes]]:
    """Merge sorted runs in batches, each sorted by one short call.

    This takes a third of the time of ``heapq.merge``: a sort merges parts that are sorted.

    :param parts: the runs, and where in each to begin.
    """
    stride = max(1, RUN // max(1, len(parts)))
    while len(parts) > 1:
        # A batch ends with the least of the keys that are so many places ahead: each key that
        # belongs before that one is fewer places ahead in its own run.
        limits = [min(place + stride, len(run)) for run, place in parts]
        mark = min([run[limit - 1] for (run, _), limit in zip(parts, limits, strict=True)])
        rest = []
        batch: list[bytes] = []
        for (run, place), limit in zip(parts, limits, strict=True):
            end = bisect_right(run, mark, place, limit)
            batch += run[place:end]
            if end < len(run):
                rest.append((run, end))
        if len(batch) > 2 * RUN and stride > 1:
            stride //= 2
            continue
        if len(batch) < RUN // 2:
            stride = min(2 * stride, RUN)
        batch.sort()
        yield batch
        parts = rest
    for run, place in parts:
        yield run[place:]
