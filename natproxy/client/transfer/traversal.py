"""Traverse a local tree in the order of a server's listing: by full path, byte by byte.

Two sequences in the same order can be compared without holding the names of either in memory.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

from natproxy.client.errors import LocalError
from natproxy.client.transfer.tree import LocalTree, Scanned


class LocalEntry(NamedTuple):
    """A file, directory or link in a local tree.

    :ivar path: below the tree's root.
    :ivar mode: as of ``lstat(2)``; 0 if it cannot be read.
    :ivar size: of a file, in bytes.
    :ivar mtime_ns: of a file, in nanoseconds since the epoch.
    :ivar error: why it cannot be read.
    """

    path: bytes
    mode: int
    size: int = 0
    mtime_ns: int = 0
    error: LocalError | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)


class Level:
    """A directory between the root and the current entry.

    :ivar prefix: its path with a slash at the end; empty for the root.
    :ivar items: its entries, sorted. A directory comes a second time, with a slash at the end of
        its name, at the position of its content.
    :ivar index: of the current item, or of the one that contains the current entry.
    :ivar errors: by name, why an entry with the mode 0 cannot be read.
    """

    __slots__ = ("errors", "index", "items", "prefix")

    def __init__(self, prefix: bytes, items: list[Scanned], errors: dict[bytes, OSError]) -> None:
        self.prefix = prefix
        self.items = items
        self.index = -1
        self.errors = errors


class Traversal:
    """An iteration over a local tree in sorted order; symbolic links are not followed.

    Each directory is read at once, when its content is reached.

    :param unreadable: called with the path of each directory that cannot be listed, and the
        error, at the position of its content.
    :ivar current: the current entry; ``None`` after the last one.
    :ivar empty: paths of the directories above the current entry, and before it, that are empty.
    :raises LocalError: if the root cannot be listed.
    """

    def __init__(self, tree: LocalTree, unreadable: Callable[[bytes, LocalError], object]) -> None:
        self._tree = tree
        self._unreadable = unreadable
        self._skipped: set[bytes] = set()
        self.empty: set[bytes] = set()
        self._levels = [self._level(b"")]
        self.current: LocalEntry | None = None
        self.advance()

    @property
    def level(self) -> Level | None:
        """The directory that contains the current entry; ``None`` after the last one."""
        return self._levels[-1] if self._levels else None

    def skip(self) -> None:
        """Skip the content of the current entry, if it is a directory."""
        here = self.current
        if here is not None and (not here.mode or here.is_directory):
            self._skipped.add(here.path + b"/")

    def advance(self, count: int = 1) -> None:
        """Advance to the next entry.

        :param count: entries to advance over: not more than files that follow one another.
        """
        while self._levels:
            level = self._levels[-1]
            level.index += count
            count = 1
            if level.index >= len(level.items):
                self._levels.pop()
                continue
            name, mode, size, mtime_ns = level.items[level.index]
            if name.endswith(b"/"):
                self._enter(level.prefix + name)
                continue
            path = level.prefix + name
            error = None
            if not mode:
                error = LocalError(self._tree.path_of(path), level.errors[name])
            self.current = LocalEntry(path, mode, size, mtime_ns, error)
            return
        self.current = None

    def _enter(self, prefix: bytes) -> None:
        if prefix in self._skipped:
            self._skipped.remove(prefix)
            return
        try:
            self._levels.append(self._level(prefix))
        except LocalError as error:
            if error.errno != errno.ENOENT:
                self._unreadable(prefix[:-1], error)

    def _level(self, prefix: bytes) -> Level:
        items, errors = self._tree.scan(prefix[:-1])
        items += [(name + b"/", 0, 0, 0) for name, mode, _, _ in items if stat.S_ISDIR(mode)]
        items += [(name, 0, 0, 0) for name in errors]
        if not items:
            self.empty.add(prefix[:-1])
        items.sort(key=itemgetter(0))
        return Level(prefix, items, errors)
