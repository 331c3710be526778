"""The directory of a journal: made, and locked by the daemon that writes it."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from contextlib import suppress

from natproxy.journal.catalogue import Catalogue
from natproxy.journal.files import OFF, file_name, is_off, segment_files
from natproxy.journal.rows import GapRow
from natproxy.journal.schema import LOCK_FILE
from natproxy.journal.segment import Addition, Segment, seal
from natproxy.records.record import Origin, format_time, parse_time

START = len("2026-11-26T14:03:07.123456Z\n")
"""Bytes of the lock file."""


class JournalError(Exception):
    """A journal cannot be used. Its text is one sentence: the reason, and what to do."""


def claim(directory: str) -> int:
    """Make a directory, if it does not exist, and lock it.

    :return: a descriptor; the lock is released when it is closed, or when the process ends.
    :raises JournalError: if it cannot be made or written, or another process has it.
    """
    try:
        parent = os.path.dirname(os.path.abspath(directory))
        os.makedirs(parent, exist_ok=True)
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o700)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(0, "it is not writable", directory)
        descriptor = os.open(
            os.path.join(directory, LOCK_FILE), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise JournalError(
            f"cannot keep a journal in {directory}: {error.strerror}; choose another directory"
            " with --journal, or --journal none"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise JournalError(
            f"another daemon writes the journal in {directory}; choose another --name, or another"
            " directory with --journal"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise JournalError(
            f"cannot lock the journal in {directory}: {error.strerror}; choose a directory on a"
            " local file system with --journal"
        ) from None
    return descriptor


def mark_start(directory: str, lock: int, moment: int) -> int | None:
    """Record that a run of the daemon has begun of which no segment has anything yet.

    The file is as long as before, so that a full disk is no obstacle.

    :param lock: the descriptor that `claim` has returned.
    :param moment: microseconds since the epoch.
    :return: when an earlier run started that has not written anything, likewise; ``None`` if there
        is none.
    """
    with suppress(OSError):
        earlier = _parse_start(os.pread(lock, START, 0))
        if earlier is not None:
            # It may have been killed just after its first write.
            opened = file_name(Origin("", 0, ""), earlier).partition("-")[0]
            if not any(file.startswith(opened) for file in segment_files(directory)):
                return earlier
        os.pwrite(lock, format_time(moment).encode("ascii") + b"\n", 0)
    return None


def unwritten_gap(earlier: int, moment: int) -> GapRow:
    """Return the gap of a run that has not written anything, and of those that followed it."""
    since, until = sorted((earlier, moment))
    return GapRow(since, until, None, None, "unwritten")


def clear_start(lock: int) -> None:
    """Remove what `mark_start` has recorded: a segment has the run now."""
    with suppress(OSError):
        os.pwrite(lock, b" " * (START - 1) + b"\n", 0)


def unwritten_start(directory: str) -> int | None:
    """Return when a run started that has not written anything; ``None`` if there is none."""
    try:
        with open(os.path.join(directory, LOCK_FILE), "rb") as file:
            return _parse_start(file.read(START))
    except OSError:
        return None


def _parse_start(text: bytes) -> int | None:
    try:
        return parse_time(text.decode("ascii").strip())
    except ValueError:
        return None


def note_off(directory: str, since: float) -> None:
    """Record in a journal that a daemon runs without it, from now until a next start with it.

    Otherwise the journal would be complete and empty for that time. A directory without segments
    is left as it is.

    :param since: seconds since the epoch.
    :raises JournalError: if it cannot be written.
    """
    try:
        if not os.path.isdir(directory):
            return
        files = segment_files(directory)
        if not files or is_off(files[-1]):
            return
        moment = round(since * 1e6)
        lock = claim(directory)
        try:
            _note_off(directory, lock, moment)
        finally:
            os.close(lock)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(
            f"cannot record in the journal in {directory} that the daemon runs without it: {error}"
        ) from None


def _note_off(directory: str, lock: int, moment: int) -> None:
    gaps = [GapRow(moment, None, None, None, "off")]
    # If the segment cannot be written, this remains.
    earlier = mark_start(directory, lock, moment)
    if earlier is not None:
        gaps.append(unwritten_gap(earlier, moment))
    name = os.path.basename(os.path.abspath(directory))
    origin = Origin(name, 0, f"{OFF}{secrets.token_hex(4)}")
    segment = Segment.create(directory, origin, moment, moment)
    try:
        segment.append(Addition(moment, gaps=gaps))
    finally:
        segment.close()
    clear_start(lock)
    Catalogue(directory).add(seal(segment.path, moment, moved=False))
