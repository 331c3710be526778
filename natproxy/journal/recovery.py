"""Recovery at a start: seals the segments that earlier runs of the daemon left live."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection
from contextlib import closing
from typing import NamedTuple

from natproxy.journal.catalogue import Catalogue
from natproxy.journal.files import (
    ALL,
    DAMAGED,
    Share,
    boot_of,
    files_of,
    opened_of,
    remove,
    segment_files,
    worker_of,
)
from natproxy.journal.rows import ENDED, GapRow
from natproxy.journal.salvage import salvage
from natproxy.journal.segment import (
    NewerSchema,
    NotASegment,
    check_version,
    connect,
    seal,
    transaction,
)
from natproxy.journal.summary import SegmentInfo
from natproxy.journal.validity import DAMAGE, meta_of
from natproxy.protocol import printable


class Recovered(NamedTuple):
    """What a recovery has found.

    :ivar segments: names of the files that were recovered.
    :ivar gaps: to be recorded in the live segment: of files that could not be read.
    :ivar messages: for the log; one sentence each.
    :ivar busy: whether a segment is still to be sealed, because it is being read.
    """

    segments: list[str]
    gaps: list[GapRow]
    messages: list[str]
    busy: bool


def recover(
    directory: str, boot: str, now: int, share: Share = ALL, living: Collection[str] = ()
) -> Recovered:
    """Close and seal the segments of earlier runs, and bring the catalogue up to date.

    It can be repeated: what is sealed already is left as it is. What is in the spools of processes
    that were killed comes first; see `natproxy.journal.salvage`.

    :param boot: of this run, whose segments are left alone.
    :param now: when this run of the daemon started, in microseconds since the epoch.
    :param share: whose segments are recovered.
    :param living: the boots of other processes that run, whose segments are left alone as well.
    :raises sqlite3.OperationalError: if the disk is full, or fails.
    :raises OSError: likewise.
    """
    recovered: list[str] = []
    gaps: list[GapRow] = []
    messages = salvage(directory, now, share, {boot, *living}).messages
    busy = False
    catalogue = Catalogue(directory)
    if not share.worker:
        # Only one process deletes segments, and removes what was deleted from the catalogue.
        catalogue.refresh()
    infos = catalogue.infos()
    listed = {info.file for info in infos}
    left = [
        file
        for file in segment_files(directory)
        if file not in listed
        and share.owns(worker_of(file))
        and boot_of(file) != boot
        and boot_of(file) not in living
    ]
    last_parts = _last_parts(directory, left, infos)
    for file in left:
        path = os.path.join(directory, file)
        try:
            _mark_killed(path, file in last_parts, now)
            catalogue.add(seal(path, now, moved=file not in last_parts))
            recovered.append(file)
        except NotASegment:
            # Its creation was interrupted, or it was emptied. Without another one of its boot,
            # nothing else shows that the daemon ran.
            origin = file.partition("-")[2]
            if not any(
                other.endswith(origin) for other in segment_files(directory) if other != file
            ):
                gaps.append(GapRow(opened_of(file), now, None, None, "unreadable"))
            remove(path)
        except NewerSchema as error:
            messages.append(f"{error}; it is left as it is")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            busy = True
        except (*DAMAGE, KeyError) as error:
            if opened_of(file) is None:
                messages.append(f"{path} is not a segment of the journal: move it elsewhere")
                continue
            set_aside(path)
            gaps.append(GapRow(opened_of(file), now, None, None, "unreadable"))
            messages.append(
                f"cannot read the journal's segment {path}: {printable(str(error).encode())};"
                " it is set aside as"
                f" {file}{DAMAGED}, and the time since it was opened is a gap"
            )
    return Recovered(recovered, gaps, messages, busy)


def set_aside(path: str) -> None:
    """Rename a segment that cannot be read, and what SQLite has beside it."""
    for file in files_of(path):
        if os.path.lexists(file):
            os.rename(file, path + DAMAGED + file[len(path) :])


def _last_parts(directory: str, files: list[str], sealed: list[SegmentInfo]) -> set[str]:
    """Return those segments that no other segment of the same worker and boot follows.

    :param sealed: what the catalogue has of others.
    """
    last: dict[tuple[int, str], tuple[int, str]] = {}
    for info in sealed:
        origin = info.worker, info.boot
        last[origin] = max(last.get(origin, (0, "")), (info.part, info.file))
    for file in files:
        try:
            with closing(connect(os.path.join(directory, file))) as connection:
                meta = meta_of(connection)
                origin = meta["worker"], meta["boot"]
                last[origin] = max(last.get(origin, (0, "")), (meta["part"], file))
        except (*DAMAGE, KeyError):
            continue
    return {file for _, file in last.values()}


def _mark_killed(path: str, last: bool, now: int) -> None:
    """Record a gap if the daemon was killed while it wrote this segment."""
    with closing(connect(path)) as connection:
        check_version(connection, path)
        verdict = connection.execute("pragma quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        meta = meta_of(connection)
        if not last or "stopped" in meta or "sealed" in meta:
            return
        if connection.execute("select 1 from gaps where cause = ?", (ENDED,)).fetchone():
            # Its record is complete.
            return
        since, until = sorted((meta["complete_to"], now))
        with transaction(connection):
            # An earlier recovery may have been interrupted.
            marked = connection.execute(
                "update gaps set until = ? where cause = 'killed'", (until,)
            )
            if not marked.rowcount:
                connection.execute(
                    "insert into gaps values (?, ?, null, null, 'killed')", (since, until)
                )
