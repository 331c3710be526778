"""What a mirror needs: what is to be fetched, created and deleted, and what cannot be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from natproxy.client.errors import ListingIncomplete, LocalError
from natproxy.client.transfer.deletion import ExtraPath
from natproxy.client.transfer.download import DownloadRequest
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import Entry


class Obstacle(NamedTuple):
    """What keeps something of the server from being mirrored.

    :ivar name: of it on the server.
    :ivar error: what is wrong here.
    """

    name: bytes
    error: LocalError


@dataclass
class MirrorPlan:
    """What is to be done. Paths are below the mirror's root.

    :ivar downloads: files that are new or look different.
    :ivar unchanged: files that look the same: by size and time of last writing.
    :ivar directories: to be created.
    :ivar extra: what is here and not on the server, what is inside before what it is in.
    :ivar unread: names on the server that it cannot read: entries, and directories whose
        content it cannot list. Nothing at or below them is extra.
    :ivar incomplete: why something is missing that is not in ``unread``; nothing is extra then.
    :ivar obstacles: what keeps listed entries from being mirrored; what is in the way here
        is not extra, nor is what is in it.
    :ivar blocked: listed entries in directories that the obstacles name: left out as well.
    :ivar local_errors: what cannot be read here and is not listed; it is not extra, either.
    :ivar skipped: listed files and directories that have the names of incomplete downloads,
        which are for our own here, and what is in such directories.
    :ivar skipped_directories: those among them that are directories.
    :ivar unknown: listed entries of types that are not known.
    :ivar local_files: files here, incomplete downloads not among them.
    :ivar source_files: files that the server lists.
    """

    tree: LocalTree
    downloads: list[Entry] = field(default_factory=list)
    unchanged: int = 0
    directories: list[bytes] = field(default_factory=list)
    extra: list[ExtraPath] = field(default_factory=list)
    unread: list[bytes] = field(default_factory=list)
    incomplete: ListingIncomplete | None = None
    obstacles: list[Obstacle] = field(default_factory=list)
    blocked: int = 0
    local_errors: list[LocalError] = field(default_factory=list)
    skipped: int = 0
    skipped_directories: list[bytes] = field(default_factory=list)
    unknown: int = 0
    local_files: int = 0
    source_files: int = 0
    top: bytes = b""

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(entry.metadata.size for entry in self.downloads)

    @property
    def requests(self) -> Iterator[DownloadRequest]:
        """The files to fetch, as a `Download` takes them."""
        for name, metadata, _ in self.downloads:
            below = path_below(name, self.top)
            yield DownloadRequest(name, self.tree.path_of(below), metadata, self.tree, below)

    def create_directories(self) -> None:
        """Create the directories; what would be in one that cannot be is not fetched.

        :raises LocalError: if the mirror's root cannot be created.
        """
        self.tree.create()
        failed: set[bytes] = set()
        for path in self.directories:
            if os.path.dirname(path) in failed:
                failed.add(path)
                self.blocked += 1
                continue
            try:
                self.tree.directory(path, create=True).close()
            except LocalError as error:
                failed.add(path)
                self.obstacles.append(Obstacle(name_of(path, self.top), error))
        if failed:
            ready = [
                entry
                for entry in self.downloads
                if os.path.dirname(path_below(entry.name, self.top)) not in failed
            ]
            self.blocked += len(self.downloads) - len(ready)
            self.downloads = ready


def path_below(name: bytes, directory: bytes) -> bytes:
    """Return the path below a directory of what has a name in it on the server."""
    return name[len(directory) + 1 :] if directory else name


def name_of(path: bytes, directory: bytes) -> bytes:
    """Return the name on the server of what has a path here."""
    return directory + b"/" + path if directory else path
