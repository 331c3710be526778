"""What the server asks of the served directory, by the names that clients send."""

from __future__ import annotations

import heapq
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import NamedTuple

from natproxy.kernel.openat2 import DIRECTORY as DIRECTORY_FLAGS
from natproxy.kernel.openat2 import Opener, choose_opener
from natproxy.protocol import FILE, Entry, Metadata, Page, format_entry, listable
from natproxy.storage.local.confinement import (
    LOOK,
    READ,
    FileNotFound,
    blame,
    out_of_resources,
    plain,
)
from natproxy.storage.local.scans import Check, Scans, in_runs, unchecked
from natproxy.storage.local.tree import Paged, Tree, metadata_of, page_of


class Served(NamedTuple):
    """An open file, and what its descriptor says of it.

    :ivar result: of ``fstat(2)``; most who ask need no more than the size.
    """

    file: FileIO
    result: os.stat_result

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self.result.st_size

    @property
    def metadata(self) -> Metadata:
        """The file's status, etag and all."""
        return metadata_of(self.result)


@dataclass(frozen=True)
class Listing:
    """The files of a directory at one time.

    :ivar body: a line for each, sorted by bytes.
    :ivar omitted: names that no line can carry, sorted.
    :ivar unread: names that cannot be looked at, sorted.
    """

    body: bytes
    omitted: tuple[bytes, ...]
    unread: tuple[bytes, ...]


class Directory:
    """The directory that is served.

    Its path is resolved anew for each command, so that a directory which is replaced, or
    a link that is turned to the next release, is served from then on. All that raises
    `FileNotFound` raises `OSError` when the server lacks descriptors or memory, or the
    disk fails.

    :param path: of the directory.
    :param opener: how names below it are opened; see `choose_opener`.
    :param scans: what is kept from one page to the next.
    :param clock: monotonic seconds, for the time that a page may take.
    """

    def __init__(
        self,
        path: str | bytes,
        opener: Opener | None = None,
        scans: Scans | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = os.fsencode(path)
        self._clock = clock
        self._open_below = opener or choose_opener()
        self._scans = scans or Scans()

    def check(self) -> None:
        """See that the directory is there and can be listed.

        :raises OSError: when it can't.
        """
        directory = os.open(self.path, DIRECTORY_FLAGS)
        try:
            with os.scandir(directory) as entries:
                next(entries, None)
        finally:
            os.close(directory)

    def open(self, name: bytes) -> Served:
        """Open a regular file for reading.

        :param name: its path below the directory: components between single slashes,
            none of them ``.`` or ``..``.
        :raises FileNotFound: for anything that is not to be served: absent, not a
            regular file, outside, unreadable.
        """
        if not plain(name):
            raise FileNotFound
        with self._directory() as directory:
            return self._open_regular(directory, name)

    def metadata(self, name: bytes) -> Metadata:
        """Look at a regular file or a directory; it need not be readable.

        :param name: its path below the directory, as for `open`; empty for the
            directory itself.
        :raises FileNotFound: for anything else.
        """
        if name and not plain(name):
            raise FileNotFound
        with self._directory() as directory:
            return Tree(directory, self._open_below, self._scans).metadata(name)

    def page(
        self, name: bytes, depth: float, after: bytes, limit: int, check: Check = unchecked
    ) -> Paged:
        """Walk through a directory: one ``LS`` reply, of about 1 MiB at most.

        There is a line for each regular file, each directory, and each link inside the
        served directory that leads to either; such a link is never descended into. What
        vanishes during the walk is left out. What cannot be read is marked as such; see
        `Tree.entries`.

        :param name: of the directory, or of a single file; as for `status`.
        :param depth: levels of directories, 1 or more, or `math.inf`.
        :param after: entries up to this name, which need not exist, are left out; empty
            for none.
        :param limit: entries at most, 1 or more; if the page ends before the walk does,
            the last line is ``more``.
        :param check: called at each step; what it raises ends the walk.
        :raises FileNotFound: if there is neither a file nor a readable directory.
        """
        if name and not plain(name):
            raise FileNotFound
        with (
            self._directory() as directory,
            closing(Tree(directory, self._open_below, self._scans, check)) as tree,
        ):
            metadata = tree.metadata(name)
            if metadata.type == FILE:
                line = format_entry(Entry(name, metadata)) if name > after else b""
                return Paged(line, Page())
            return page_of(tree.entries(name, depth, after), limit, self._clock)

    def listing(self, check: Check = unchecked) -> Listing:
        """Scan the directory for regular files, and links inside it that lead to some.

        :param check: called for each entry; what it raises ends the scan.
        :raises OSError: if the directory cannot be read.
        """
        names: list[bytes] = []
        omitted: list[bytes] = []
        unread: list[bytes] = []
        directory = os.open(self.path, DIRECTORY_FLAGS)
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    check()
                    name = os.fsencode(entry.name)
                    try:
                        listed = self._is_listed(directory, name, entry)
                    except OSError as error:
                        if out_of_resources(error):
                            raise
                        unread.append(name)
                    else:
                        if listed:
                            (names if listable(name) else omitted).append(name)
        finally:
            os.close(directory)
        return Listing(_sorted_lines(names), tuple(sorted(omitted)), tuple(sorted(unread)))

    @contextmanager
    def _directory(self) -> Iterator[int]:
        with blame():
            directory = os.open(self.path, DIRECTORY_FLAGS)
        try:
            yield directory
        finally:
            os.close(directory)

    def _is_listed(self, directory: int, name: bytes, entry: os.DirEntry[str]) -> bool:
        """Return whether ``LIST`` shows an entry.

        :raises OSError: if it cannot be looked at.
        """
        if entry.is_file(follow_symlinks=False):
            return True
        if not entry.is_symlink():
            return False
        try:
            self._open_regular(directory, name).file.close()
        except FileNotFound:
            return False
        return True

    def _open_regular(self, directory: int, name: bytes) -> Served:
        with blame():
            # Opening a FIFO or a device, even without waiting, is felt at its other end:
            # look first, and look again at what was really opened.
            looked, _ = self._regular(directory, name, LOOK)
            os.close(looked)
            descriptor, result = self._regular(directory, name, READ)
        return Served(FileIO(descriptor), result)

    def _regular(self, directory: int, name: bytes, flags: int) -> tuple[int, os.stat_result]:
        descriptor = self._open_below(directory, name, flags)
        try:
            result = os.fstat(descriptor)
            if not stat.S_ISREG(result.st_mode):
                raise FileNotFound
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, result


def _sorted_lines(names: list[bytes]) -> bytes:
    ordered = heapq.merge(*(sorted(run) for run in in_runs(names)))
    return b"".join([b"".join([name + b"\n" for name in run]) for run in in_runs(ordered)])
