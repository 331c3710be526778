"""Listings in the form that fsspec expects: descriptions of entries, and a walk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from natproxy.protocol import DIRECTORY, FILE, UNREAD, Metadata

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TYPES = {FILE: "file", DIRECTORY: "directory"}


def depth_of(maxdepth: int | None) -> float:
    """Return the levels of directories to list; ``math.inf`` for ``None``.

    :raises ValueError: if ``maxdepth`` is less than 1.
    """
    if maxdepth is not None and maxdepth < 1:
        raise ValueError("maxdepth must be at least 1")
    return math.inf if maxdepth is None else maxdepth


def describe(name: str, metadata: Metadata, unread: bool = False) -> dict[str, Any]:
    """Return fsspec's description of a file or a directory.

    The size is in bytes, and ``mtime`` in seconds since the epoch. An entry that the server
    cannot read has the type ``other``. Such an entry, and a directory that the server cannot
    list, has the key ``unread`` with the value ``True``.

    :param name: the whole path.
    :param unread: whether it is a directory that the server cannot list.
    """
    unread = unread or metadata.type == UNREAD
    # The same float as that of ``os.stat``.
    mtime = metadata.mtime_ns // 10**9 + 1e-9 * (metadata.mtime_ns % 10**9)
    return {
        "name": name,
        "size": metadata.size,
        "type": _TYPES.get(metadata.type, "other"),
        "mtime": mtime,
        "etag": metadata.etag,
        **({"unread": True} if unread else {}),
    }


def datetime_of(mtime_ns: int) -> datetime:
    """Return a time as a ``datetime`` in UTC, rounded down to the microsecond.

    A time before the year 1 or after the year 9999 becomes the first or the last ``datetime``.

    :param mtime_ns: nanoseconds since the epoch.
    """
    try:
        return _EPOCH + timedelta(microseconds=mtime_ns // 1000)
    except OverflowError:
        limit = datetime.min if mtime_ns < 0 else datetime.max
        return limit.replace(tzinfo=timezone.utc)


def walk(
    top: str, entries: Sequence[dict[str, Any]], depth: float, topdown: bool, detail: bool
) -> Iterator[tuple[str, Any, Any]]:
    """Yield each directory of a listing with its directories and its files, as ``os.walk`` does.

    :param top: the directory that was listed.
    :param entries: its listing, of all levels, as returned by `describe`.
    :param depth: levels of directories that were listed.
    :param topdown: whether to yield a directory before those below it; then the caller may remove
        names of directories, which are not visited.
    :param detail: whether to yield dictionaries of names and descriptions, or lists of names.
    """
    contents: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for entry in entries:
        directory, _, last = entry["name"].rpartition("/")
        directory = directory or "/"
        if entry["name"] == top:
            directory, last = top, ""
        directories, files = contents.setdefault(directory, ({}, {}))
        (directories if entry["type"] == "directory" else files)[last] = entry
    container: Any = dict if detail else list
    pending: list[tuple[str, int]] = [(top, 1)]
    postponed = []
    while pending:
        directory, level = pending.pop()
        directories, files = contents.get(directory, ({}, {}))
        visit = directory, container(directories), container(files)
        if topdown:
            yield visit
        else:
            postponed.append(visit)
        if level < depth:
            # With `topdown`, the caller may have removed some of the names.
            subdirectories = [
                (directories[last]["name"], level + 1) for last in visit[1] if last in directories
            ]
            pending += reversed(subdirectories) if topdown else subdirectories
    yield from reversed(postponed)
