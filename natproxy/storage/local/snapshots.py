"""Reading small files of one directory after the other, each in one state.

A directory is opened once for all names that follow one another in it. A file of it is one
component, which cannot lead outside if it is no link: see `natproxy.storage.local.confinement`.
"""

from __future__ import annotations

import errno
import os
import stat
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
from natproxy.storage.local.confinement import MAX_PATH, READ, is_failure
from natproxy.storage.local.hiding import Hiding
from natproxy.storage.local.metadata import metadata_of

_FLAGS = READ | os.O_NOFOLLOW


class SnapshotReader:
    """Reads files below a directory.

    :param root: a descriptor of the directory.
    :param opener: opens directories below it.
    :param is_valid: returns whether a name may be resolved.
    :param open_file: opens a file below it that may be a link, as `Storage.open` does.
    :param hiding: decides which names are hidden.
    """

    def __init__(
        self,
        root: int,
        opener: Opener,
        is_valid: Callable[[bytes], bool],
        open_file: Callable[[bytes], OpenFile],
        hiding: Hiding | None = None,
    ) -> None:
        self._root = root
        self._opener = opener
        self._is_valid = is_valid
        self._open_file = open_file
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
                if not self._is_valid(name):
                    return NotFound()
                self._enter(above)
            if self._hiding is not None and self._hiding.hides_entry(self._prefixes, last):
                return NotFound()
            found = _read(self._directory, last, largest)
        except NotFound as error:
            return error
        except OSError as error:
            return error if is_failure(error) else NotFound()
        return snapshot_by_opening(self._open_file, name, largest) if found is None else found

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


def _is_component(last: bytes) -> bool:
    """Return whether a path below a directory may end with this component."""
    return last not in (b"", b".", b"..") and b"\0" not in last


def _read(
    directory: int, name: bytes, largest: int
) -> Snapshot | NotFound | TooLarge | Changing | None:
    """Read a regular file directly in a directory; return ``None`` if it is a link.

    The type is checked before the file is opened, since the other end of a FIFO or a device would
    notice it, and again before it is read.
    """
    for _ in range(SNAPSHOT_TRIES):
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(there.st_mode):
            return None if stat.S_ISLNK(there.st_mode) else NotFound()
        if there.st_size > largest:
            return TooLarge()
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=directory)
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
            data = os.read(descriptor, size) if size else b""
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if len(data) == size and _is_same(before, after):
            return Snapshot(metadata_of(before), data)
    return Changing()


def _is_same(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether two results for one open file show the same state."""
    return (
        before.st_ctime_ns == after.st_ctime_ns
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_size == after.st_size
    )
