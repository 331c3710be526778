"""What is in a local tree, in the order in which a server lists: by full path, byte by byte.

A comparison of two sorted sequences needs no set of the names in either of them.
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
    """A name in a local tree.

    :ivar path: below the tree's root.
    :ivar status: what ``lstat(2)`` says of it; `None` if that failed.
    :ivar error: why it failed.
    """

    path: bytes
    stat: os.stat_result | None
    error: LocalError | None = None


class _Level(NamedTuple):
    """A directory on the way from the root to the current one.

    :ivar prefix: its path with a slash at the end; empty for the root.
    :ivar keys: what is left of it: each name; a directory's once more with a slash, where
        its content belongs.
    """

    prefix: bytes
    keys: Iterator[bytes]


class Traversal(Closing):
    """Goes through a local tree from path to path; no symbolic link is followed.

    One directory is open at a time, besides the root.

    :param unreadable: is called with the path of each directory that cannot be listed, and
        the error, when its content would come.
    :ivar head: the current name; `None` after the last one.
    :raises LocalError: if the root cannot be listed.
    """

    def __init__(self, tree: LocalTree, unreadable: Callable[[bytes, LocalError], object]) -> None:
        self._tree = tree
        self._unreadable = unreadable
        self._passed_over: set[bytes] = set()
        self._levels = [_Level(b"", self._keys(b""))]
        self._directory: LocalDirectory | None = None
        self._prefix = b""
        self.head: LocalEntry | None = None
        self.advance()

    def skip(self) -> None:
        """Pass over what is in the current name, if it is a directory."""
        here = self.head
        if here is not None and (here.stat is None or stat.S_ISDIR(here.stat.st_mode)):
            self._passed_over.add(here.path + b"/")

    def advance(self) -> None:
        """Go on to the next name."""
        while self._levels:
            prefix, keys = self._levels[-1]
            key = next(keys, None)
            if key is None:
                self._levels.pop()
            elif key.endswith(b"/"):
                self._enter(prefix + key)
            else:
                found = self._look(prefix, key)
                if found is not None:
                    self.head = found
                    return
        self.head = None

    def close(self) -> None:
        """Close the directory that is open."""
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def _enter(self, prefix: bytes) -> None:
        if prefix in self._passed_over:
            self._passed_over.remove(prefix)
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

    def _look(self, prefix: bytes, name: bytes) -> LocalEntry | None:
        """Return what is under a name; `None` if it has vanished."""
        path = prefix + name
        try:
            if self._directory is None or self._prefix != prefix:
                self.close()
                self._directory = self._tree.directory(prefix[:-1])
                self._prefix = prefix
            found = self._directory.look(name)
        except LocalError as error:
            return None if error.errno == errno.ENOENT else LocalEntry(path, None, error)
        except OSError as error:
            return LocalEntry(path, None, LocalError(self._tree.path_of(path), error))
        return None if found is None else LocalEntry(path, found)
