"""Puts what is in the spools of processes that were killed into their segments.

A spool is only used while the kernel runs that wrote it: after a loss of power, its pages may be of
different moments. Then, or if events are missing in it, there is a gap as there is without a spool.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Collection
from contextlib import closing
from typing import NamedTuple

from natproxy.journal.files import ALL, Share, boot_of, segment_files
from natproxy.journal.rows import ENDED, GapRow, Step
from natproxy.journal.rows import Row as EntryRow
from natproxy.journal.segment import (
    Addition,
    NewerSchema,
    NotASegment,
    Segment,
    append,
    check_version,
    connect,
)
from natproxy.journal.spool_format import LARGEST, NEW, kernel_boot, spools
from natproxy.journal.spool_rows import Events, MalformedSpool, Spooled
from natproxy.journal.validity import DAMAGE, meta_of
from natproxy.journal.writer import STEP, Fold, Open
from natproxy.records.event_rows import TIME


class Salvaged(NamedTuple):
    """What was found in the spools.

    :ivar rows: number of events that were added to segments.
    :ivar messages: for the log; one sentence each.
    """

    rows: int
    messages: list[str]


class _Run(NamedTuple):
    """What the segments have of a run.

    :ivar path: of its newest segment; ``None`` if there is none.
    :ivar complete_to: until when it is complete, in microseconds since the epoch.
    :ivar last: number of the last event.
    :ivar closed: whether nothing follows in it.
    """

    path: str | None
    complete_to: int
    last: int
    closed: bool


def salvage(directory: str, now: int, share: Share = ALL, living: Collection[str] = ()) -> Salvaged:
    """Put what is in the spools of processes that have ended into their segments.

    It can be repeated, also after it was interrupted at any moment.

    :param now: when it was certain that they had ended, in microseconds since the epoch.
    :param share: whose spools are read.
    :param living: the boots of processes that run.
    :raises sqlite3.OperationalError: if the disk is full, or fails.
    :raises OSError: likewise.
    """
    rows = 0
    messages: list[str] = []
    for path, worker, boot in spools(directory, share):
        if boot in living:
            continue
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            # A pipe would be read for ever; what a link leads to is not the journal's.
            messages.append(
                f"{path} is not a file of the journal: remove it; the time since the last write"
                " of its process is a gap"
            )
            continue
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Its process runs, or another one reads it.
            os.close(descriptor)
            continue
        try:
            with open(descriptor, "rb") as file:
                if path.endswith(NEW):
                    # Its process was killed while it made it.
                    os.unlink(path)
                    continue
                spooled = Spooled(file.read(LARGEST + 1))
                if spooled.description.kernel == kernel_boot():
                    rows += _add(directory, worker, boot, spooled, now)
                # With the lock: a segment has all of it.
                os.unlink(path)
        except (MalformedSpool, NewerSchema) as error:
            messages.append(f"cannot read {path}: {error}; the time since the last write is a gap")
            os.unlink(path)
        except sqlite3.OperationalError:
            raise
        except (*DAMAGE, KeyError):
            # The segment is set aside, and a gap.
            os.unlink(path)
    return Salvaged(rows, messages)


def read_spools(directory: str) -> None:
    """Do `salvage` without a daemon, for a program that reads or changes the segments.

    The next start does it as well. Only the owner of the directory, or root, does it here; until
    then, a search results in "unknown" for the last moments before the kill.

    :raises sqlite3.Error: if it cannot be written.
    :raises OSError: likewise.
    """
    if os.geteuid() in (0, os.stat(directory).st_uid) and any(spools(directory)):
        salvage(directory, time.time_ns() // 1000)


def _add(directory: str, worker: int, boot: str, spooled: Spooled, now: int) -> int:
    """Add the events that no segment has; return their number."""
    run = _run(directory, worker, boot, spooled)
    if run.closed:
        return 0
    if run.path is None:
        if not spooled.places:
            return 0
        segment = Segment.create(
            directory,
            spooled.description.origin,
            spooled.description.boot_started,
            spooled.description.boot_started,
        )
        _leave_to_owner(segment.path, directory)
        before: dict[int, Open] = {}
    else:
        segment = Segment.open(run.path)
        before = {row.serial: _open(row) for row in segment.open_entries()}
    try:
        known = {serial: state[3] for serial, state in before.items()}
        events = spooled.events(run.last, known)
        append(segment, _addition(run, events, before, now))
    finally:
        segment.close()
    return len(events.rows)


def _leave_to_owner(path: str, directory: str) -> None:
    """Have a file belong to the owner of the directory, if an administrator has made it."""
    owner = os.stat(directory)
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def _addition(run: _Run, events: Events, before: dict[int, Open], now: int) -> Addition:
    """Return what is added to the newest segment of a run."""
    fold = Fold(before, names=True)
    fold.add(events.rows)
    end = run.complete_to
    steps = []
    for row in events.rows:
        if row[TIME] < end - STEP:
            steps.append(Step(row[TIME], row[TIME] - end))
            end = row[TIME]
        end = max(end, row[TIME])
    gaps = []
    if events.complete:
        since, until = sorted((end, now))
        gaps.append(GapRow(since, until, None, None, ENDED))
    last = run.last + len(events.rows)
    return Addition(end, fold.entries(), fold.replaced, fold.actions, gaps, steps, last=last)


def _run(directory: str, worker: int, boot: str, spooled: Spooled) -> _Run:
    """Return what the segments have of a run."""
    newest, last = (0, ""), 0
    complete_to, closed = spooled.description.boot_started, False
    for file in segment_files(directory, worker):
        if boot_of(file) != boot:
            continue
        path = os.path.join(directory, file)
        with closing(connect(path)) as connection:
            try:
                check_version(connection, path)
            except NotASegment:
                # The process was killed while it created it; the recovery removes it.
                continue
            meta = meta_of(connection)
            last = max(last, meta.get("last_seq", 0))
            if (meta["part"], path) > newest:
                newest = meta["part"], path
                complete_to = meta["complete_to"]
                ended = connection.execute(
                    "select 1 from gaps where cause = ?", (ENDED,)
                ).fetchone()
                closed = "stopped" in meta or "sealed" in meta or ended is not None
    return _Run(newest[1] or None, complete_to, last, closed)


def _open(row: EntryRow) -> Open:
    """Return the state of a translation that is open in a segment."""
    earlier = None
    if row.command is not None and row.attempt is not None:
        # No segment has the bytes of the earlier attempts.
        earlier = row.command, row.attempt - 1, 0
    route = (
        *(row.client, row.client_port, row.nat, row.nat_port, row.upstream, row.upstream_port),
        *(row.verb, row.name, row.identity, earlier),
    )
    event = "registered" if row.relaying is None else "relaying"
    first = (
        *(row.seq or 0, event, row.serial, row.started, row.started, route, row.promised, 0),
        *(None, None, 0.0, None, None),
    )
    return row.seq, row.relaying_seq, row.relaying, first
