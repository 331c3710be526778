"""The files of segments: their names, what the names contain, and what SQLite has beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from natproxy.records.record import EPOCH, MICROSECOND, Origin

SUFFIX = ".segment"
"""``OPENED-wWORKER-BOOT.segment``, such as ``20261126T140307.123456Z-w0-1f2e3d4c.segment``.

File names sort by the time at which the segment was opened.
"""

DAMAGED = ".damaged"
"""Added to the name of a segment that could not be read at a start, and was set aside."""

OFF = "off"
"""Begins the boot of a segment that only records that the daemon ran without a journal."""


def file_name(origin: Origin, opened: int) -> str:
    """Return the name of a segment's file."""
    moment = EPOCH + timedelta(microseconds=opened)
    return f"{moment:%Y%m%dT%H%M%S.%f}Z-w{origin.worker}-{origin.boot}{SUFFIX}"


def opened_of(file: str) -> int | None:
    """Return when a segment was opened, by the name of its file; ``None`` if that is malformed."""
    match = re.match(r"(\d{8}T\d{6}\.\d{6})Z-", file)
    if match is None:
        return None
    try:
        moment = datetime.strptime(match[1], "%Y%m%dT%H%M%S.%f").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return (moment - EPOCH) // MICROSECOND


def boot_of(file: str) -> str:
    """Return the boot in the name of a segment's file, or of one that was set aside."""
    return file.partition(SUFFIX)[0].rpartition("-")[2]


def is_off(file: str) -> bool:
    """Return whether a segment only records that the daemon ran without a journal."""
    return f"-w0-{OFF}" in file


def segment_files(directory: str) -> list[str]:
    """Return the names of the segments' files, sorted."""
    return sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX))


def files_of(path: str) -> Iterator[str]:
    """Return the paths of all files that SQLite may have for one database."""
    for end in ("", "-wal", "-shm", "-journal"):
        yield path + end


def remove(path: str) -> None:
    """Delete a segment."""
    for file in files_of(path):
        if os.path.lexists(file):
            os.unlink(file)
