"""Test doubles for programs that use natproxy.

`MemoryStorage` is a storage without a disk. A file server that serves it behaves as if it served
a directory.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Generator, Iterable, Mapping, Sequence
from itertools import count

from natproxy.metadata import DIRECTORY, FILE, UNREAD_METADATA, Entry, Metadata
from natproxy.storage.interface import (
    Check,
    NotFound,
    Snapshots,
    Step,
    TopFiles,
    snapshots_by_opening,
    unchecked,
)

DEFAULT_MTIME_NS = 1_600_000_000_000_000_000
"""The mtime of files and directories for which none is specified, in nanoseconds."""


class _Node:
    """A file, or a directory if it has no content."""

    def __init__(self, content: bytes | None, mtime_ns: int, etag: str) -> None:
        self.content = content
        self.mtime_ns = mtime_ns
        self.etag = etag
        self.sha256: str | None = None

    @property
    def metadata(self) -> Metadata:
        if self.content is None:
            return Metadata(DIRECTORY, 0, self.mtime_ns, self.etag)
        return Metadata(FILE, len(self.content), self.mtime_ns, self.etag)


class MemoryFile:
    """An open file of a `MemoryStorage`; see `natproxy.storage.interface.OpenFile`.

    :ivar blocking: whether reads are to be treated as if they might wait for a disk.
    :ivar metadata: the metadata when the file was opened.
    :ivar closed: whether `close` was called.
    """

    device = 0

    def __init__(self, node: _Node, blocking: bool) -> None:
        self.blocking = blocking
        self.closed = False
        self.metadata = node.metadata
        self._node = node

    @property
    def size(self) -> int:
        """The size when the file was opened, in bytes."""
        return self.metadata.size

    def fileno(self) -> None:
        """Return ``None``: the file has no descriptor."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from an offset on.

        :raises OSError: if the file is closed.
        """
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        assert self._node.content is not None
        return self._node.content[offset : offset + size]

    def ready(self, offset: int) -> bool:
        """Return false, so that reads that are to be treated as blocking stay in threads."""
        return False

    def interrupt(self) -> None:
        """Do nothing: no read waits."""

    def stored_sha256(self) -> str | None:
        """Return the digest that was passed to `MemoryStorage.store_sha256`."""
        return self._node.sha256

    def unchanged(self) -> bool:
        """Return whether the file has grown, or was not written to since it was opened."""
        now = self._node.metadata
        return now.size > self.metadata.size or now.etag == self.metadata.etag

    @property
    def identity(self) -> str:
        """The etag when it was opened."""
        return self.metadata.etag

    def current_identity(self) -> str:
        """Return the etag that the file has now."""
        return self._node.etag

    def is_racy(self) -> bool:
        """Return false: each change changes the etag."""
        return False

    def close(self) -> None:
        """Close the file."""
        self.closed = True


class MemoryStorage:
    """Files and directories in memory; see `natproxy.storage.interface.Storage`.

    A listing shows the state at its beginning. The storage must not be changed in one thread
    while another one uses it.

    >>> storage = MemoryStorage({b"hello.txt": b"Hello", b"sub/b": b""}, directories=[b"empty"])
    >>> storage.metadata(b"hello.txt").size
    5

    :param files: content by name; the directories above each file are created.
    :param directories: names of further directories.
    :param blocking: whether look-ups and reads are to be treated as if they might wait for a
        network.
    :raises ValueError: as by `put` and `make_directory`.
    :ivar error: if it is not ``None``, raised by each method of the interface `Storage`.
    """

    def __init__(
        self,
        files: Mapping[bytes, bytes] | None = None,
        directories: Iterable[bytes] = (),
        blocking: bool = False,
    ) -> None:
        self.blocking = blocking
        self.error: OSError | None = None
        self._serial = count(1)
        self._nodes: dict[bytes, _Node] = {b"": self._node(None, DEFAULT_MTIME_NS)}
        self._unreadable: set[bytes] = set()
        for name, content in (files or {}).items():
            self.put(name, content)
        for name in directories:
            self.make_directory(name)

    def put(self, name: bytes, content: bytes, mtime_ns: int = DEFAULT_MTIME_NS) -> None:
        """Create a file, or replace one; a file that is open keeps its content.

        :param mtime_ns: in nanoseconds since the epoch.
        :raises ValueError: if the name is not valid or is that of a directory, or if a part of
            its path is a file.
        """
        self._make_parents(name)
        old = self._nodes.get(name)
        if old is not None and old.content is None:
            raise ValueError(f"a directory: {name!r}")
        self._nodes[name] = self._node(content, mtime_ns)

    def write(self, name: bytes, content: bytes, mtime_ns: int = DEFAULT_MTIME_NS) -> None:
        """Replace the content of an existing file in place, also in a `MemoryFile` that is open.

        :param mtime_ns: in nanoseconds since the epoch.
        :raises KeyError: if there is no such file.
        """
        node = self._nodes[name]
        node.content, node.mtime_ns, node.etag = content, mtime_ns, f"m{next(self._serial)}"

    def make_directory(self, name: bytes, mtime_ns: int = DEFAULT_MTIME_NS) -> None:
        """Create a directory, and those above it, unless it exists.

        :param mtime_ns: in nanoseconds since the epoch.
        :raises ValueError: if the name is not valid, or if it or a part of its path is a file.
        """
        self._make_parents(name)
        node = self._nodes.setdefault(name, self._node(None, mtime_ns))
        if node.content is not None:
            raise ValueError(f"a file: {name!r}")

    def store_sha256(self, name: bytes, sha256: str) -> None:
        """Keep a digest of an existing file, which is returned in place of a computed one.

        :param sha256: in hexadecimal.
        :raises KeyError: if there is no such file.
        """
        self._nodes[name].sha256 = sha256

    def remove(self, name: bytes) -> None:
        """Remove a file, or a directory and everything below it.

        :raises KeyError: if there is no such entry.
        """
        del self._nodes[name]
        for other in [other for other in self._nodes if other.startswith(name + b"/")]:
            del self._nodes[other]
        self._unreadable.intersection_update(self._nodes)

    def make_unreadable(self, name: bytes, unreadable: bool = True) -> None:
        """Make an existing entry unreadable, or readable again.

        A file that is unreadable is listed without its metadata; `metadata` and `open` raise
        ``NotFound`` for it. A directory that is unreadable is marked as unread in a listing that
        would contain its entries.

        :raises KeyError: if there is no such entry.
        """
        if name not in self._nodes:
            raise KeyError(name)
        (self._unreadable.add if unreadable else self._unreadable.discard)(name)

    def check(self) -> None:
        """See `Storage.check`."""
        self._fail()

    def metadata(self, name: bytes) -> Metadata:
        """Return the metadata of a file or a directory.

        :raises NotFound: if there is no such entry, or if it is a file that cannot be read.
        """
        self._fail()
        return self._find(name).metadata

    def open(self, name: bytes) -> MemoryFile:
        """Open a file.

        :raises NotFound: if there is no such file, or if it cannot be read.
        """
        self._fail()
        node = self._find(name)
        if node.content is None:
            raise NotFound
        return MemoryFile(node, self.blocking)

    def entries(
        self, name: bytes, depth: float, after: bytes, check: Check = unchecked
    ) -> Generator[Step, None, None]:
        """List the tree below a directory, or a file; see `Storage.entries`.

        :raises NotFound: if there is no such entry, or if it is a directory that cannot be read.
        :raises OSError: if ``after`` is in a directory that cannot be read any more.
        """
        self._fail()
        top = self._find(name)
        if top.content is not None:
            if name > after:
                yield Step(name, [Entry(name, top.metadata)])
            return
        if name in self._unreadable:
            raise NotFound
        path = name + b"/" if name else b""
        nodes = dict(self._nodes)
        names = sorted(other for other in nodes if other and other.startswith(path))
        unreadable = {other + b"/" for other in self._unreadable if nodes[other].content is None}
        for directory in sorted(unreadable):
            # The directory's own entry is in an earlier part of the listing.
            if directory.startswith(path) and directory[:-1] <= after < directory + b"\xff":
                if directory[len(path) :].count(b"/") >= depth:
                    continue
                if after.startswith(directory):
                    raise OSError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(directory))
                yield Step(None, unread=True)
        for other in names[bisect_right(names, after) :]:
            check()
            level = other[len(path) :].count(b"/") + 1
            if level > depth or any(other.startswith(directory) for directory in unreadable):
                continue
            metadata = nodes[other].metadata
            unread = other in self._unreadable
            if metadata.type == FILE and unread:
                metadata = UNREAD_METADATA
            marked = unread and metadata.type == DIRECTORY and level < depth
            yield Step(other, [Entry(other, metadata, marked)])

    def snapshots(
        self, names: Sequence[bytes], largest: int, check: Check = unchecked
    ) -> Snapshots:
        """Read small files; see `Storage.snapshots`."""
        return snapshots_by_opening(self.open, names, largest, check)

    def top_files(self, check: Check = unchecked) -> TopFiles:
        """Return the names of the files in the top directory; see `Storage.top_files`."""
        self._fail()
        names = []
        for name, node in self._nodes.items():
            check()
            if node.content is not None and b"/" not in name:
                names.append(name)
        unread = tuple(sorted(name for name in names if name in self._unreadable))
        return TopFiles(sorted(set(names).difference(unread)), unread)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def _find(self, name: bytes) -> _Node:
        node = self._nodes.get(name)
        if node is None or (node.content is not None and name in self._unreadable):
            raise NotFound
        return node

    def _make_parents(self, name: bytes) -> None:
        if b"\0" in name or not {b"", b".", b".."}.isdisjoint(name.split(b"/")):
            raise ValueError(f"not a valid name: {name!r}")
        parent = name.rpartition(b"/")[0]
        if parent and (parent not in self._nodes or self._nodes[parent].content is not None):
            # Raises an error if it is a file.
            self.make_directory(parent)

    def _node(self, content: bytes | None, mtime_ns: int) -> _Node:
        return _Node(content, mtime_ns, f"m{next(self._serial)}")
