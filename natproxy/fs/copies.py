"""Copies of many files, of which small ones are downloaded together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple

from fsspec.spec import AbstractFileSystem
from fsspec.utils import isfilelike

from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, LocalError, NotFound
from natproxy.client.events import Event, Phase, Progress, ignore_event
from natproxy.client.requests import as_name
from natproxy.client.retry import Cancellation, Outage, RetryPolicy
from natproxy.client.transfer.request import (
    DownloadOptions,
    DownloadRequest,
    DownloadResult,
    Numbered,
)
from natproxy.client.transfer.small_files import SmallFiles
from natproxy.client.transfer.tree import LocalTree
from natproxy.fs.errors import local_path, os_error

BATCH = 4096
"""Copies of which the small ones are downloaded together."""


class Copy(NamedTuple):
    """A file or a directory to copy.

    :ivar source: its path on the server.
    :ivar target: a local path, or an open file.
    """

    source: str
    target: Any


def copies_of(
    fs: AbstractFileSystem,
    rpath: Any,
    lpath: Any,
    recursive: bool,
    maxdepth: int | None,
    options: dict[str, Any],
) -> list[Copy]:
    """Return the copies that fsspec's ``get`` makes, one after the other, with these arguments."""
    collector = _Collector(fs)
    AbstractFileSystem.get(
        collector, rpath, lpath, recursive=recursive, maxdepth=maxdepth, **options
    )
    return collector.copies


class _Collector:
    """A file system whose ``get_file`` only notes what is to be copied."""

    def __init__(self, fs: AbstractFileSystem) -> None:
        self._fs = fs
        self.copies: list[Copy] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def get_file(self, rpath: str, lpath: Any, **_: object) -> None:
        self.copies.append(Copy(self._fs._strip_protocol(rpath), lpath))


def make_copies(
    copies: Sequence[Copy],
    session: Session,
    options: DownloadOptions,
    callback: Any,
    get_file: Callable[..., None],
) -> None:
    """Make copies in order; small files are downloaded a batch at a time.

    :param callback: fsspec's, for the whole.
    :param get_file: makes any other copy, and any that has failed; called with source and target,
        and with the callback of the copy.
    :raises OSError: for the first copy that fails.
    """
    callback.set_size(len(copies))
    try:
        for (source, target), size in callback.wrap(_with_sizes(session, copies, options)):
            with callback.branched(source, target) as child:
                if size is None:
                    get_file(source, target, callback=child)
                else:
                    child.set_size(size)
                    child.absolute_update(size)
    except ClientError as error:
        raise os_error(error, "") from error


def _with_sizes(
    session: Session, copies: Sequence[Copy], options: DownloadOptions
) -> Iterator[tuple[Copy, int | None]]:
    """Yield copies in order, each with the size of its file if that is complete.

    :raises Interrupted: if the session is interrupted.
    """
    for begin in range(0, len(copies), BATCH):
        batch = copies[begin : begin + BATCH]
        sizes = _download_small(session, batch, options) if len(batch) > 1 else {}
        for number, copy in enumerate(batch):
            yield copy, sizes.get(number)


def _download_small(
    session: Session, batch: Sequence[Copy], options: DownloadOptions
) -> dict[int, int]:
    """Download small files; return the sizes of those that are complete, by their numbers."""
    targets: dict[int, tuple[bytes, bytes]] = {}
    # A path that is above another one is a directory.
    above = {copy.source.rpartition("/")[0] for copy in batch}
    for number, copy in enumerate(batch):
        if copy.source not in above and not isfilelike(copy.target):
            # The copy of such a file fails, and reports the reason.
            with suppress(NotFound, OSError, TypeError):
                targets[number] = as_name(copy.source), local_path(copy.target)
    sizes: dict[int, int] = {}

    def report(numbered: Numbered, result: DownloadResult | ClientError) -> None:
        if isinstance(result, DownloadResult):
            sizes[numbered.number] = result.size

    # `get_file` repeats what fails, for as long as its policy allows.
    options = options._replace(retry_policy=RetryPolicy())
    files = SmallFiles(session, options, report, ignore_event, Cancellation(), Outage())
    root = _root_of([path for _, path in targets.values()])
    if root is None:
        files.run(
            Numbered(number, DownloadRequest(name, path))
            for number, (name, path) in targets.items()
        )
        return sizes
    with suppress(LocalError), closing(LocalTree(root)) as tree:
        files.run(
            Numbered(number, DownloadRequest(name, path, None, tree, path[len(root) + 1 :]))
            for number, (name, path) in targets.items()
        )
    return sizes


def _root_of(paths: Sequence[bytes]) -> bytes | None:
    """Return the directory that is above all files, and has one of them in it, if there is one.

    :return: ``None`` also if a path is not a plain one.
    """
    directories = {os.path.dirname(path) for path in paths}
    try:
        common = os.path.commonpath(directories)
    except ValueError:
        return None
    plain = all(path == os.path.normpath(path) for path in paths)
    return common if common in directories and plain and common.strip(b"/") else None


def progress_of(callback: Any) -> Progress:
    """Return a function that sets the size and the value of an fsspec callback, in bytes."""

    def report(event: Event) -> None:
        if event.phase in (Phase.RECEIVING, Phase.RESTARTING, Phase.COMPLETE):
            if event.size is not None and callback.size != event.size:
                callback.set_size(event.size)
            callback.absolute_update(event.done)

    return report
