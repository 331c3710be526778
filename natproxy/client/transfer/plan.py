"""The plan for a mirror: what to download, create and delete, and what prevents it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from natproxy.client.errors import ListingIncomplete, LocalError
from natproxy.client.transfer.deletion import ExtraPath
from natproxy.client.transfer.leftovers import remove_leftover_files
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.run_directory import remove_leftovers
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import Entry


class Obstacle(NamedTuple):
    """A local error that prevents an entry from being mirrored.

    :ivar name: of the entry on the server.
    :ivar error: the local error.
    """

    name: bytes
    error: LocalError


class MirrorPlan:
    """How a local directory differs from one on the server. Paths are below the local root.

    :ivar tree: the local directory.
    :ivar downloads: files that are new, or whose size or modification time differs.
    :ivar same_size: files whose digests are to be compared; each becomes a download or unchanged.
    :ivar replaces: whether a file is downloaded even if the local one has its size and time.
    :ivar unchanged: number of files with the same size and modification time.
    :ivar directories: directories to create.
    :ivar extra: local paths that are not on the server; the content of a directory comes before
        the directory.
    :ivar unread: names that the server cannot read: entries, and directories that it cannot
        list. Nothing at or below them is extra.
    :ivar incomplete: why the listing lacks entries that are not in ``unread``; then nothing is
        extra.
    :ivar obstacles: local errors that prevent entries from being mirrored. Such a local file or
        directory, and its content, are not extra.
    :ivar blocked: number of listed entries in directories that have an obstacle.
    :ivar local_errors: errors of local paths that are not listed and cannot be read; they are
        not extra either.
    :ivar skipped: number of listed files and directories that are named like partial downloads,
        including the content of such directories: these names are reserved here.
    :ivar skipped_directories: the names of such directories.
    :ivar unknown: number of listed entries of unknown types.
    :ivar leftovers: whether the local root contains a directory of another run.
    :ivar leftover_files: local paths of what killed downloads may have left.
    :ivar local_files: number of local files, without partial downloads.
    :ivar source_files: number of files that the server lists.
    :ivar top: the name of the directory on the server; empty for the served one.
    """

    def __init__(self, tree: LocalTree, top: bytes = b"", replaces: bool = False) -> None:
        self.tree = tree
        self.top = top
        self.replaces = replaces
        self.downloads: list[Entry] = []
        self.same_size: list[Entry] = []
        self.unchanged = 0
        self.directories: list[bytes] = []
        self.extra: list[ExtraPath] = []
        self.unread: list[bytes] = []
        self.incomplete: ListingIncomplete | None = None
        self.obstacles: list[Obstacle] = []
        self.blocked = 0
        self.local_errors: list[LocalError] = []
        self.skipped = 0
        self.skipped_directories: list[bytes] = []
        self.unknown = 0
        self.leftovers = False
        self.leftover_files: list[bytes] = []
        self.local_files = 0
        self.source_files = 0
        # Number of downloads that have been taken.
        self._taken = 0
        # Number of directories that have been checked; they, and those that cannot be created.
        self._checked = 0
        self._missing: set[bytes] = set()
        self._failed: set[bytes] = set()

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(entry.metadata.size for entry in self.downloads)

    @property
    def new_size(self) -> int:
        """Bytes of the downloads that have not been taken."""
        return sum(entry.metadata.size for entry in islice(self.downloads, self._taken, None))

    @property
    def missing(self) -> int:
        """Number of names that cannot be downloaded."""
        return len(self.obstacles) + len(self.unread)

    @property
    def requests(self) -> Iterator[DownloadRequest]:
        """The requests for the files to download."""
        return self._requests(self.downloads)

    def take(self) -> Iterator[DownloadRequest]:
        """Return the requests for the downloads that have not been taken."""
        taken, self._taken = self._taken, len(self.downloads)
        return self._requests(self.downloads[taken:])

    def sort_new(self) -> None:
        """Sort the downloads that have not been taken by their names."""
        new = self.downloads[self._taken :]
        new.sort(key=lambda entry: entry.name)
        self.downloads[self._taken :] = new

    def _requests(self, entries: Iterable[Entry]) -> Iterator[DownloadRequest]:
        tree = self.tree
        # Joining each path takes longer than the rest.
        root = os.path.join(tree.root, b"")
        for name, metadata, _ in entries:
            below = path_below(name, self.top)
            yield DownloadRequest(name, root + below, metadata, tree, below)

    def check_directories(self) -> None:
        """Drop downloads, of those not taken, into new directories that cannot be created.

        :raises LocalError: if the mirror's root cannot be created.
        """
        self.tree.create()
        directories = self.directories[self._checked :]
        self._missing.update(directories)
        for path in directories:
            above = os.path.dirname(path)
            if above in self._failed:
                self._failed.add(path)
                self.blocked += 1
                continue
            try:
                self.tree.check_new(path, above not in self._missing)
            except LocalError as error:
                self._failed.add(path)
                self.obstacles.append(Obstacle(name_of(path, self.top), error))
        self._drop()
        self._checked = len(self.directories)

    def create_directories(self, durable: bool = True) -> list[Obstacle]:
        """Create the directories that downloads have not created; return the obstacles to others.

        What killed runs have left is removed.

        :param durable: whether the names of the directories are synchronized to the disk.
        """
        if self.leftovers:
            with suppress(LocalError), self.tree.directory(b"") as root:
                remove_leftovers(root)
        remove_leftover_files(self.tree, self.leftover_files)
        found = len(self.obstacles)
        touched: set[bytes] = set()
        failed: set[bytes] = set()
        for path in self.directories:
            above = os.path.dirname(path)
            if above in failed:
                failed.add(path)
                continue
            try:
                if self.tree.mkdir(path):
                    touched.add(above)
            except LocalError as error:
                failed.add(path)
                self.obstacles.append(Obstacle(name_of(path, self.top), error))
        for above in touched if durable else ():
            with suppress(LocalError), self.tree.directory(above) as directory:
                directory.sync()
        return self.obstacles[found:]

    def _drop(self) -> None:
        """Drop the directories that cannot be created, and new downloads into them."""
        failed = self._failed
        if not failed:
            return
        new = self.downloads[self._taken :]
        ready = [
            entry
            for entry in new
            if os.path.dirname(path_below(entry.name, self.top)) not in failed
        ]
        self.blocked += len(new) - len(ready)
        self.downloads[self._taken :] = ready
        self.directories = [path for path in self.directories if path not in failed]


def path_below(name: bytes, directory: bytes) -> bytes:
    """Return the path of an entry below a directory, by its name on the server."""
    return name[len(directory) + 1 :] if directory else name


def name_of(path: bytes, directory: bytes) -> bytes:
    """Return the name on the server of a path below a directory."""
    return directory + b"/" + path if directory else path
