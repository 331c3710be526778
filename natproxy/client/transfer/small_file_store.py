"""The local side of small files: each root has a committer, and each result is reported."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.events import Event, Phase, Progress
from natproxy.client.transfer.committer import Committer
from natproxy.client.transfer.destination import (
    Existing,
    LocalFile,
    exists_error,
    same_size_and_time,
)
from natproxy.client.transfer.group import Published, SmallFile
from natproxy.client.transfer.partial import has_partial
from natproxy.client.transfer.request import (
    DownloadOptions,
    DownloadRequest,
    DownloadResult,
    Numbered,
    Report,
)
from natproxy.client.transfer.staging import Unstageable
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import FILE, MAX_PACKED, Metadata

MOST_ROOTS = 16
"""Directories without a tree in which files are staged; files of others are left to `Download`."""


class Wanted(NamedTuple):
    """A file that is to be requested.

    :ivar root: commits the files below its root.
    :ivar tries: times that it could not be read.
    """

    file: SmallFile
    root: Committer
    tries: int = 0

    @property
    def numbered(self) -> Numbered:
        """The request with its number."""
        return Numbered(self.file.number, self.file.request)


class SmallFileStore(Closing):
    """Saves small files below any number of roots. All methods are called by one thread.

    :param report: called with each result, but not for the requests in ``left``.
    :param progress: called with an event for each file that has ended.
    :ivar left: the requests that are left to `Download`.
    """

    def __init__(self, options: DownloadOptions, report: Report, progress: Progress) -> None:
        self.left: list[Numbered] = []
        self._options = options
        self._report = report
        self._progress = progress
        self._roots: dict[object, Committer] = {}

    def prepare(self, numbered: Numbered) -> Wanted | None:
        """Look at the existing file; return what is to be requested, if anything is."""
        request = numbered.request
        metadata = request.metadata
        if metadata is not None and (metadata.type != FILE or metadata.size > MAX_PACKED):
            self.left.append(numbered)
            return None
        root = self._root_of(request)
        if request.tree is None:
            directory, last = b"", os.path.basename(request.path)
        else:
            directory, _, last = request.below.rpartition(b"/")
        try:
            if root is None:
                raise Unstageable
            found = root.find(request, directory)
        except Unstageable:
            self.left.append(numbered)
            return None
        except LocalError as error:
            self._fail(numbered, error)
            return None
        existing = self._options.existing
        unlisted = metadata is None and existing is not Existing.REPLACE
        if (found is not None and (unlisted or self._options.verify)) or _has_partial(request):
            self.left.append(numbered)
            return None
        if found is not None and metadata is not None:
            if existing is Existing.KEEP or (
                existing is not Existing.REPLACE and same_size_and_time(found, metadata)
            ):
                self._succeed(numbered, metadata.size, unchanged=True)
                return None
            if existing is Existing.REFUSE:
                self._fail(numbered, exists_error(request.path))
                return None
        file = SmallFile(numbered.number, request, directory, last, found is not None)
        return Wanted(file, root)

    def write(self, wanted: Wanted, metadata: Metadata, data: bytes | memoryview) -> None:
        """Write a whole file; it is reported when its group has been committed."""
        # Files of an earlier group have their names, whatever becomes of this one.
        self._finish(wanted.root.advance_to(wanted.file))
        try:
            wanted.root.write(wanted.file, metadata, data)
        except Unstageable:
            self.left.append(wanted.numbered)
        except LocalError as error:
            self._fail(wanted.numbered, error)

    def leave(self, files: Iterable[Wanted]) -> None:
        """Leave files to `Download`; the server, or a file, may be gone."""
        self.left.extend(each.numbered.unlisted() for each in files)

    def close(self) -> None:
        """Commit what has been written."""
        with ExitStack() as stack:
            # An exception on the way ends the run after all of them.
            for root in self._roots.values():
                stack.callback(self._commit_rest, root)

    def _commit_rest(self, root: Committer) -> None:
        with closing(root):
            self._finish(root.flush())

    def _root_of(self, request: DownloadRequest) -> Committer | None:
        """Return the committer for a request; ``None`` if its directory cannot be used."""
        key: object = request.tree or os.path.dirname(request.path)
        root = self._roots.get(key)
        if root is None:
            if len(self._roots) == MOST_ROOTS:
                return None
            try:
                tree = request.tree or LocalTree(os.path.dirname(request.path))
            except LocalError:
                return None
            root = self._roots[key] = Committer(
                tree, self._options.existing, self._options.durable, owned=request.tree is None
            )
        return root

    def _finish(self, published: Sequence[Published]) -> None:
        """Report files of a group that has been committed."""
        for file, size, error, unchanged in published:
            numbered = Numbered(file.number, file.request)
            if error is None:
                self._succeed(numbered, size, unchanged)
            elif error.errno == errno.EXDEV:
                # A mount point below the root.
                self.left.append(numbered)
            else:
                self._fail(numbered, error, size)

    def _succeed(self, numbered: Numbered, size: int, unchanged: bool) -> None:
        name, path, *_ = numbered.request
        self._progress(Event(name, Phase.UNCHANGED if unchanged else Phase.COMPLETE, size, size))
        self._report(numbered, DownloadResult(path, size, 0 if unchanged else size, unchanged))

    def _fail(self, numbered: Numbered, error: LocalError, size: int | None = None) -> None:
        self._progress(Event(numbered.request.name, Phase.FAILED, 0, size, str(error)))
        self._report(numbered, error)


def _has_partial(request: DownloadRequest) -> bool:
    """Return whether there is a partial download, which `Download` continues or removes.

    Beside the files of a listed directory, `natproxy.client.transfer.leftovers` finds it.
    """
    if request.tree is not None and request.metadata is not None:
        return False
    return has_partial(LocalFile(request.path, request.tree, request.below))
