"""Reading small files of one directory after the other, each in one state.

A directory is opened once for all names that follow one another in it. A file of it is one
component, which cannot lead outside if it is no link: see `natproxy.storage.local.confinement`.

Two changes of a file within one tick of the kernel's clock can leave the same timestamps. So a file
that has just been changed is read after that tick: then a change during the read, or after it,
changes the timestamps.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

from natproxy.kernel.openat2 import SEARCH, Opener
from natproxy.storage.interface import (
    SNAPSHOT_TRIES,
    Changing,
    NotFound,
    OpenFile,
    Snapshot,
    TooLarge,
    snapshot_by_opening,
)
from natproxy.storage.local.confinement import MAX_PATH, READ, is_failure, is_valid
from natproxy.storage.local.hiding import Hiding
from natproxy.storage.local.metadata import Describe, metadata_of

TICK = 10_000_000
"""Nanoseconds of the longest tick of a kernel's clock (100 Hz), of which timestamps are made."""

MOST_WAITED = 5 * TICK
"""Nanoseconds that one reader waits for ticks in all: its caller has a thread for it."""

_FLAGS = READ | os.O_NOFOLLOW


class SnapshotReader:
    """Reads files below a directory.

    :param root: a descriptor of the directory.
    :param opener: opens directories below it.
    :param open_file: opens a file below it that may be a link, as `Storage.open` does.
    :param describe: returns the metadata of a file.
    :param hiding: decides which names are hidden.
    :param now: returns nanoseconds since the epoch.
    :param sleep: waits for some seconds.
    """

    def __init__(
        self,
        root: int,
        opener: Opener,
        open_file: Callable[[bytes], OpenFile],
        describe: Describe = metadata_of,
        hiding: Hiding | None = None,
        now: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._root = root
        self._opener = opener
        self._open_file = open_file
        self._describe = describe
        self._now = now
        self._sleep = sleep
        self._waited = 0
        # The directory that was opened last, with a slash at its end; at first, the root.
        self._path = b""
        self._directory = root
        self._hiding = hiding
        self._prefixes: tuple[bytes, ...] = (b"",)

    def close(self) -> None:
        """Close the directory that was opened last."""
        directory, self._directory = self._directory, self._root
        self._path = b""
        self._prefixes = (b"",)
        if directory != self._root:
            os.close(directory)

    def read(
        self, name: bytes, largest: int
    ) -> Snapshot | NotFound | TooLarge | Changing | OSError:
        """Return a snapshot of a file, or the exception in its place; see `Storage.snapshots`."""
        above, slash, last = name.rpartition(b"/")
        try:
            if above + slash != self._path or not _is_component(last) or len(name) > MAX_PATH:
                if not is_valid(name):
                    return NotFound()
                self._enter(above)
            if self._hiding is not None and self._hiding.hides_entry(self._prefixes, last):
                return NotFound()
            found = self._read(self._directory, name, last, largest)
            if found is not None:
                return found
            return snapshot_by_opening(self._open_settled, name, largest)
        except OSError as error:
            return error if is_failure(error) else NotFound()
        except (Changing, NotFound) as error:
            return error

    def _enter(self, above: bytes) -> None:
        self.close()
        if above:
            path = above + b"/"
            directory = self._opener(self._root, above, SEARCH)
            try:
                if self._hiding is not None:
                    self._prefixes = self._hiding.prefixes(self._root, directory, path)
            except NotFound:
                os.close(directory)
                raise
            self._directory = directory
            self._path = path

    def _open_settled(self, name: bytes) -> OpenFile:
        file = self._open_file(name)
        try:
            descriptor = file.fileno()
            if descriptor is not None:
                self._settle(os.fstat(descriptor))
        except BaseException:
            file.close()
            raise
        return file

    def _settle(self, state: os.stat_result) -> None:
        """Wait until the next change of a file gets later timestamps than the last one.

        :raises Changing: if this reader has waited for too long.
        """
        age = self._now() - state.st_ctime_ns
        # A time in the future is of another clock, or of one that was set back.
        if 0 <= age < TICK:
            self._waited += TICK - age
            if self._waited > MOST_WAITED:
                raise Changing
            self._sleep((TICK - age) / 1e9)

    def _read(
        self, directory: int, name: bytes, last: bytes, largest: int
    ) -> Snapshot | NotFound | TooLarge | Changing | None:
        """Read a regular file directly in a directory; return ``None`` if it is a link.

        :param last: the last component of its name.

        The type is checked before the file is opened, since the other end of a FIFO or a device
        would notice it, and again before it is read.

        :raises Changing: if it was changed just now, and this reader has waited for too long.
        """
        for _ in range(SNAPSHOT_TRIES):
            there = os.stat(last, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISREG(there.st_mode):
                return None if stat.S_ISLNK(there.st_mode) else NotFound()
            if there.st_size > largest:
                return TooLarge()
            try:
                descriptor = os.open(last, _FLAGS, dir_fd=directory)
            except OSError as error:
                # A link has replaced it.
                if error.errno == errno.ELOOP:
                    continue
                raise
            try:
                before = os.fstat(descriptor)
                size = before.st_size
                if size > largest or not stat.S_ISREG(before.st_mode):
                    continue
                self._settle(before)
                data = os.read(descriptor, size) if size else b""
                after = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            if len(data) == size and _is_same(before, after):
                return Snapshot(self._describe(before, name), data)
        return Changing()


def _is_component(last: bytes) -> bool:
    """Return whether a path below a directory may end with this component."""
    return last not in (b"", b".", b"..") and b"\0" not in last


def _is_same(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether two results for one open file show the same state."""
    return (
        before.st_ctime_ns == after.st_ctime_ns
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_size == after.st_size
    )
