"""What is new in a segment since it was read before."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import NamedTuple

from natproxy.journal.contents import Contents, Directory
from natproxy.journal.files import is_off
from natproxy.journal.rows import Row
from natproxy.journal.summary import Summary

ROWS = 10_000
"""Rows of a piece at most, besides those that have changed."""

SERIALS = 500
"""Serials in one statement."""


class Piece(NamedTuple):
    """What is new in a segment.

    :ivar summary: of the segment, from before the rows were read: all that it covers is in them.
    :ivar rows: those with greater serials than before, in their order.
    :ivar changed: those that were open before, as they are now.
    :ivar missing: serials of those that were open before, and are not in the segment.
    :ivar drained: whether no row remains.
    """

    summary: Summary
    rows: list[Row]
    changed: list[Row]
    missing: frozenset[int]
    drained: bool


def read_piece(
    directory: Directory,
    contents: Contents,
    name: str,
    after: int,
    known: Collection[int],
) -> Piece:
    """Return what is new in a segment.

    A daemon adds rows in the order of their serials; a row changes only while it is open. So the
    greatest serial, and which of the rows up to it were open, are all that has to be remembered.

    :param name: of its file.
    :param after: the greatest serial that was read before.
    :param known: the serials up to it of translations that were open.
    :raises SegmentRemoved: if it was deleted.
    :raises UnreadableSegment: if it cannot be read.
    """
    with directory.readers.use(name, contents.files.get(name)) as reader:
        rows = reader.select("e.serial > ? order by e.serial limit ?", (after, ROWS))
        serials = iter(sorted(serial for serial in known if serial <= after))
        changed: list[Row] = []
        while some := list(islice(serials, SERIALS)):
            changed += reader.select(f"e.serial in ({', '.join('?' * len(some))})", some)
        found = {row.serial for row in changed}
        found.update(row.serial for row in rows)
        return Piece(
            reader.summary,
            rows,
            changed,
            frozenset(serial for serial in known if serial not in found),
            len(rows) < ROWS,
        )


def by_proxy(contents: Contents) -> dict[str, list[Summary]]:
    """Return the segments of each proxy in the order in which they were written.

    A directory has those of several proxies if the daemon was renamed. What records that a daemon
    ran without its journal belongs to the proxy before it.
    """
    found: dict[str, list[Summary]] = {}
    named = [segment.proxy for segment in contents.segments if not is_off(segment.name)]
    proxy = named[0] if named else ""
    for segment in contents.segments:
        if not is_off(segment.name):
            proxy = segment.proxy
        if proxy:
            found.setdefault(proxy, []).append(segment)
    for segments in found.values():
        segments.sort(key=lambda each: (each.boot_started, each.boot, each.worker, each.part))
    return found
