"""The files of segments: their names, what the names contain, and what SQLite has beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from natproxy.records.record import EPOCH, MICROSECOND, Origin

SUFFIX = ".segment"
"""``OPENED-wWORKER-BOOT.segment``, such as ``20261126T140307.123456Z-w0-1f2e3d4c.segment``.

File names sort by the time at which the segment was opened.
"""

DAMAGED = ".damaged"
"""Added to the name of a segment that could not be read at a start, and was set aside."""

OFF = "off"
"""Begins the boot of a segment that only records that the daemon ran without a journal."""


class Share(NamedTuple):
    """The part of a journal's directory that one process writes, recovers and searches.

    A daemon without workers has all of it. Of several workers each has the segments of its own
    number, and those of numbers that no worker has any more.

    :ivar worker: number of the process, from 0.
    :ivar workers: how many there are.
    """

    worker: int = 0
    workers: int = 1

    def owns(self, number: int) -> bool:
        """Return whether the segments of a worker's number belong to this share."""
        return number % self.workers == self.worker


ALL = Share()
"""The share of a daemon without workers, and of a reader."""


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


def worker_of(file: str) -> int:
    """Return the worker's number in the name of a segment's file; 0 if the name is malformed."""
    match = re.match(r"[^-]*-w(\d{1,6})-", file)
    return 0 if match is None else int(match[1])


def is_off(file: str) -> bool:
    """Return whether a segment only records that the daemon ran without a journal."""
    return f"-w0-{OFF}" in file


def segment_files(directory: str, worker: int | None = None) -> list[str]:
    """Return the names of the segments' files, sorted.

    :param worker: number of the process that has written them; ``None`` for all.
    """
    return sorted(
        name
        for name in os.listdir(directory)
        if name.endswith(SUFFIX) and worker in (None, worker_of(name))
    )


def files_of(path: str) -> Iterator[str]:
    """Return the paths of all files that SQLite may have for one database."""
    for end in ("", "-wal", "-shm", "-journal"):
        yield path + end


def remove(path: str) -> None:
    """Delete a segment."""
    for file in files_of(path):
        if os.path.lexists(file):
            os.unlink(file)
