"""Retention: deletes the oldest sealed segments."""

from __future__ import annotations

import os
from contextlib import suppress

from natproxy.journal.catalogue import Catalogue
from natproxy.journal.files import remove
from natproxy.journal.spool_format import NAME
from natproxy.journal.summary import SegmentInfo


def expired(
    infos: list[SegmentInfo], live: int, now: int, keep: float, max_size: int
) -> list[SegmentInfo]:
    """Return the sealed segments that are to be deleted, oldest first.

    The segments after one that is kept are kept, so that the history has one beginning.

    :param infos: the sealed segments, oldest first.
    :param live: bytes of the live segment.
    :param now: microseconds since the epoch.
    :param keep: seconds for which a translation is kept at least.
    :param max_size: bytes of all segments at most.
    """
    size = live + sum(info.bytes for info in infos)
    oldest = now - round(keep * 1e6)
    found = []
    for info in infos:
        if max(info.complete_to, info.max_ended or 0) >= oldest and size <= max_size:
            break
        size -= info.bytes
        found.append(info)
    return found


def retain(directory: str, now: int, keep: float, max_size: int) -> list[SegmentInfo]:
    """Delete the segments that are too old, or too many.

    :param now: microseconds since the epoch.
    :param keep: seconds for which a translation is kept at least.
    :param max_size: bytes of all segments at most.
    :return: what was deleted, oldest first.
    """
    catalogue = Catalogue(directory)
    infos = catalogue.infos()
    listed = {info.file for info in infos}
    live = 0
    for entry in os.scandir(directory):
        if entry.name not in listed and not NAME.fullmatch(entry.name):
            # The segment may have been sealed, and its WAL deleted, in between.
            with suppress(FileNotFoundError):
                live += entry.stat().st_size
    deleted = []
    for info in expired(infos, live, now, keep, max_size):
        # First the file: a catalogue that lists too much is corrected at the next start.
        remove(os.path.join(directory, info.file))
        catalogue.remove(info.file)
        deleted.append(info)
    return deleted
