"""The names in a directory, sorted, and kept for the next page.

A directory is scanned once for many pages as long as it doesn't change. Calls that last
hold the interpreter, and the reactor waits: so names are sorted in runs, and the runs
are merged only as far as a page reaches.
"""

from __future__ import annotations

import heapq
import os
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from threading import Lock
from typing import NamedTuple, TypeVar

from natproxy.storage.local.confinement import out_of_resources
from natproxy.storage.local.settling import Settling

# Names sorted or joined in one call: about a millisecond.
_RUN = 4096

_SECOND = 10**9

# For how long a scan may be used, in seconds. A guard only: some network file systems
# don't tell by a directory's times that it has changed.
_KEPT_FOR = 30.0

Runs = tuple[tuple[bytes, ...], ...]
"""Keys, each run sorted for itself.

A key is a name; a directory that may be descended into has a second one, its name and a
slash, which sorts where its content does. A tuple of bytes is nothing that the garbage
collector would go through again and again.
"""

Check = Callable[[], None]
"""Called now and then during long work; what it raises ends the work."""

_T = TypeVar("_T")


def unchecked() -> None:
    """Let work go on."""


class _Scan(NamedTuple):
    """A scan of one directory.

    :ivar stamps: the directory's mtime and ctime before the scan, in nanoseconds.
    :ivar made: when, in monotonic seconds.
    :ivar size: in keys.
    """

    stamps: tuple[int, int]
    made: float
    size: int
    runs: Runs


class Scans:
    """Scans of large directories, the least recently used dropped first.

    :param clock: seconds that never jump.
    :param settling: says which scans may be kept.
    :param most: keys kept in all; a million of them are some 100 MB. The last scan is
        kept even if it has more: paging through such a directory would take the square of
        its size otherwise.
    :param least: keys of a directory that is kept; with fewer, a new scan is as cheap.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        settling: Settling | None = None,
        most: int = 1_000_000,
        least: int = 1024,
    ) -> None:
        self._clock = clock
        self._settling = settling or Settling(clock)
        self._most = most
        self._least = least
        # Pages are made in several threads at once. The lock is held for the book-keeping
        # only: two that scan the same directory at the same time both keep what they found.
        self._lock = Lock()
        self._kept: OrderedDict[tuple[int, int], _Scan] = OrderedDict()

    def of(self, directory: int, check: Check = unchecked) -> Runs:
        """Return the keys of what may be listed in a directory.

        :param directory: its descriptor.
        :param check: called for each run of names.
        :raises OSError: if it can't be read.
        """
        now = self._clock()
        metadata = os.fstat(directory)
        place = (metadata.st_dev, metadata.st_ino)
        stamps = (metadata.st_mtime_ns, metadata.st_ctime_ns)
        # A scan between two changes within one tick could never be told from one after
        # them, so it isn't kept: a page made right after a change costs a scan, and so
        # does every page of a directory that changes all the time. Ticks are up to 10 ms;
        # on file systems that count in seconds (all stamps are whole), up to 2 s.
        tick = 0.1 if all(stamp % _SECOND for stamp in stamps) else 2.0
        with self._lock:
            kept = self._kept.get(place)
            if kept is not None and kept.stamps == stamps and _lasts(kept, now):
                self._kept.move_to_end(place)
                return kept.runs
        seen = self._settling.now()
        runs = tuple(_sorted_runs(_keys(directory), check))
        scan = _Scan(stamps, now, sum(map(len, runs)), runs)
        with self._lock:
            self._kept.pop(place, None)
            if scan.size >= self._least and self._settling.settled(
                (place, stamps), metadata.st_dev, max(stamps) / _SECOND, tick, seen
            ):
                self._kept[place] = scan
            self._drop(now)
        return runs

    def _drop(self, now: float) -> None:
        for place in [place for place, scan in self._kept.items() if not _lasts(scan, now)]:
            del self._kept[place]
        size = sum(scan.size for scan in self._kept.values())
        while size > self._most and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            size -= dropped.size


def _lasts(scan: _Scan, now: float) -> bool:
    return now - scan.made < _KEPT_FOR


def _sorted_runs(keys: Iterator[bytes], check: Check) -> Iterator[tuple[bytes, ...]]:
    for run in in_runs(keys):
        check()
        yield tuple(sorted(run))


def _keys(directory: int) -> Iterator[bytes]:
    with os.scandir(directory) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield name
                    yield name + b"/"
                elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                    yield name
            except OSError as error:
                # A file system that does not tell the type of an entry with its name, and
                # an entry that cannot be looked at.
                if out_of_resources(error):
                    raise
                yield name


def keys_after(runs: Iterable[tuple[bytes, ...]], rest: bytes) -> Iterator[bytes]:
    """Give, in order, the keys that lead to a path greater than ``rest``.

    :param rest: a path below the directory; if it leads through a sub-directory, the first
        key is that sub-directory's second one. Empty for all keys.
    """
    head, slash, _ = rest.partition(b"/")
    find, mark = (bisect_left, head + slash) if slash else (bisect_right, rest)
    starts = ((run, find(run, mark)) for run in runs)
    return heapq.merge(
        *(map(run.__getitem__, range(start, len(run))) for run, start in starts if start < len(run))
    )


def in_runs(items: Iterable[_T]) -> Iterator[list[_T]]:
    """Cut into lists that are short enough for one call."""
    source = iter(items)
    return iter(lambda: list(islice(source, _RUN)), [])
