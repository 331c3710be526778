"""Traverse a local tree in the order of a server's listing: by full path, byte by byte.

Two sequences in the same order can be compared without holding the names of either in memory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.tree import LocalTree


class LocalEntry(NamedTuple):
    """A file, directory or link in a local tree.

    :ivar path: below the tree's root.
    :ivar stat: the result of ``lstat(2)``; ``None`` if that failed.
    :ivar error: why it failed.
    """

    path: bytes
    stat: os.stat_result | None
    error: LocalError | None = None


class _Level(NamedTuple):
    """A directory between the root and the current entry.

    :ivar prefix: its path with a slash at the end; empty for the root.
    :ivar keys: the remaining names. The name of a directory comes a second time with a slash at
        the position of its content.
    """

    prefix: bytes
    keys: Iterator[bytes]


class Traversal(Closing):
    """An iteration over a local tree in sorted order; symbolic links are not followed.

    Besides the root, one directory is open at a time.

    :param unreadable: called with the path of each directory that cannot be listed, and the
        error, at the position of its content.
    :ivar current: the current entry; ``None`` after the last one.
    :raises LocalError: if the root cannot be listed.
    """

    def __init__(self, tree: LocalTree, unreadable: Callable[[bytes, LocalError], object]) -> None:
        self._tree = tree
        self._unreadable = unreadable
        self._skipped: set[bytes] = set()
        self._levels = [_Level(b"", self._keys(b""))]
        self._directory: LocalDirectory | None = None
        self._prefix = b""
        self.current: LocalEntry | None = None
        self.advance()

    def skip(self) -> None:
        """Skip the content of the current entry, if it is a directory."""
        here = self.current
        if here is not None and (here.stat is None or stat.S_ISDIR(here.stat.st_mode)):
            self._skipped.add(here.path + b"/")

    def advance(self) -> None:
        """Advance to the next entry."""
        while self._levels:
            prefix, keys = self._levels[-1]
            key = next(keys, None)
            if key is None:
                self._levels.pop()
            elif key.endswith(b"/"):
                self._enter(prefix + key)
            else:
                found = self._lstat(prefix, key)
                if found is not None:
                    self.current = found
                    return
        self.current = None

    def close(self) -> None:
        """Close the open directory."""
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def _enter(self, prefix: bytes) -> None:
        if prefix in self._skipped:
            self._skipped.remove(prefix)
            return
        try:
            self._levels.append(_Level(prefix, self._keys(prefix[:-1])))
        except LocalError as error:
            if error.errno != errno.ENOENT:
                self._unreadable(prefix[:-1], error)

    def _keys(self, path: bytes) -> Iterator[bytes]:
        keys = []
        for name, is_directory in self._tree.entries(path):
            keys.append(name)
            if is_directory:
                keys.append(name + b"/")
        keys.sort()
        return iter(keys)

    def _lstat(self, prefix: bytes, name: bytes) -> LocalEntry | None:
        """Return the entry of a name; ``None`` if it no longer exists."""
        path = prefix + name
        try:
            if self._directory is None or self._prefix != prefix:
                self.close()
                self._directory = self._tree.directory(prefix[:-1])
                self._prefix = prefix
            found = self._directory.lstat(name)
        except LocalError as error:
            return None if error.errno == errno.ENOENT else LocalEntry(path, None, error)
        except OSError as error:
            return LocalEntry(path, None, LocalError(self._tree.path_of(path), error))
        return None if found is None else LocalEntry(path, found)
