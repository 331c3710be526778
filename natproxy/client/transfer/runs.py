"""Runs of listed entries that need no comparison one by one: most entries are in one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from stat import S_IFLNK, S_IFREG

from natproxy.client.transfer.traversal import Level
from natproxy.protocol import FILE, Entry

_DOT = ord(".")


def unchanged_run(
    page: Sequence[Entry], number: int, prefix: bytes, level: Level, ignore_time: bool
) -> int:
    """Return how many entries, one after the other, are the same here.

    A name that is equal to that of a local file is safe.

    :param number: of the first entry.
    :param prefix: of the names in the directory, with a slash at the end.
    :param level: the directory here, at the entry that may be the first.
    :param ignore_time: whether the modification time may differ.
    """
    first = number
    for found, listed in zip(
        islice(level.items, level.index, None), islice(page, number, None), strict=False
    ):
        name, (kind, size, mtime_ns, _), unread = listed
        if (
            kind != FILE
            or unread
            or name != prefix + found[0]
            or found[2] != size
            or not (found[3] == mtime_ns or ignore_time)
            or not S_IFREG <= found[1] < S_IFLNK
            or found[0].startswith(b".")
        ):
            break
        number += 1
    return number - first


def new_run(page: Sequence[Entry], number: int, prefix: bytes, end: bytes | None) -> int:
    """Return how many entries, one after the other, are files that are not here.

    :param number: of the first entry.
    :param prefix: of the names in the directory, with a slash at the end; nothing in it has
        another name here.
    :param end: the name of the next local entry; ``None`` if there is none.
    """
    begin = len(prefix)
    first = number
    for name, metadata, unread in islice(page, number, None):
        last = name[begin:]
        if (
            metadata[0] != FILE
            or unread
            or not name.startswith(prefix)
            or (end is not None and name >= end)
            # An unsafe name, and that of a partial download, are handled one by one.
            or not last
            or last[0] == _DOT
            or b"/" in last
            or b"\0" in last
        ):
            break
        number += 1
    return number - first


def with_shared_type(entry: Entry) -> Entry:
    """Return an entry of a file whose string for the type is shared: there may be a million."""
    name, metadata, _ = entry
    return entry if metadata.type is FILE else Entry(name, metadata._replace(type=FILE))
