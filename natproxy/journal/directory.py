"""The directory of a journal: made, and locked by the daemon that writes it.

The file ``lock`` is locked by the daemon: by its only process, or by the master of its workers.
Each worker has the lock of a file of its own (`WriterLock`): as long as that is held, its segments
are not recovered as those of a process that was killed.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import suppress

from natproxy.journal.catalogue import Catalogue
from natproxy.journal.files import ALL, OFF, Share, file_name, is_off, segment_files
from natproxy.journal.rows import GapRow
from natproxy.journal.schema import LOCK_FILE
from natproxy.journal.segment import Addition, Segment, seal
from natproxy.records.record import Origin, format_time, parse_time

START = len("2026-11-26T14:03:07.123456Z\n")
"""Bytes of the lock file."""


class JournalError(Exception):
    """A journal cannot be used. Its text is one sentence: the reason, and what to do."""


WRITER = re.compile(r"w(\d{1,6})-([0-9A-Za-z]{1,64})\.lock")
"""Matches the name of the file that a worker has locked: its number, and its boot."""


def claim(directory: str) -> int:
    """Make a directory, if it does not exist, and lock it.

    :return: a descriptor; the lock is released when it is closed, or when the process ends.
    :raises JournalError: if it cannot be made or written, or another process has it.
    """
    descriptor = _open(directory)
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
        raise _not_locked(directory, error) from None
    return descriptor


def _open(directory: str, file: str = LOCK_FILE) -> int:
    """Make a directory, if it does not exist, and open a file in it.

    :raises JournalError: if either cannot be made or written.
    """
    try:
        parent = os.path.dirname(os.path.abspath(directory))
        os.makedirs(parent, exist_ok=True)
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o700)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(0, "it is not writable", directory)
        return os.open(os.path.join(directory, file), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(
            f"cannot keep a journal in {directory}: {error.strerror}; choose another directory"
            " with --journal, or --journal none"
        ) from None


def _not_locked(directory: str, error: OSError) -> JournalError:
    return JournalError(
        f"cannot lock the journal in {directory}: {error.strerror}; choose a directory on a"
        " local file system with --journal"
    )


class WriterLock:
    """The lock of one worker, which shows for as long as it lives that its segments are not lost.

    The file is locked before it has its name, so that it never has the name without the lock.

    :param directory: of the journal.
    :param worker: number of the process.
    :param boot: its run.
    :raises JournalError: if it cannot be made or locked.
    """

    def __init__(self, directory: str, worker: int, boot: str) -> None:
        name = f"w{worker}-{boot}.lock"
        self._path = os.path.join(directory, name)
        self._descriptor = _open(directory, f"{name}.new")
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(f"{self._path}.new", self._path)
        except OSError as error:
            os.close(self._descriptor)
            raise _not_locked(directory, error) from None

    def release(self) -> None:
        """Remove the file, and release the lock; a second call has no effect."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.unlink(self._path)
            os.close(descriptor)


def living_writers(directory: str) -> Iterator[tuple[int, str]]:
    """Yield number and boot of each worker that runs; remove the locks of others.

    :raises OSError: if the directory cannot be read.
    """
    for name in os.listdir(directory):
        match = WRITER.fullmatch(name)
        if match is None:
            continue
        path = os.path.join(directory, name)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield int(match[1]), match[2]
        else:
            with suppress(FileNotFoundError):
                os.unlink(path)
        finally:
            os.close(descriptor)


class Claim:
    """What a process has of a directory while it writes its share of the segments.

    A daemon without workers locks the directory. Of a daemon with workers the master does, and
    each worker has a `WriterLock`.

    :param boot: of the process.
    :raises JournalError: if the directory cannot be made or written, or another process has it.
    :ivar beside: the boots of other processes with the same number that run: those of workers
        which this one replaces, and which still serve their last clients.
    """

    def __init__(self, directory: str, share: Share, boot: str) -> None:
        self.beside: tuple[str, ...] = ()
        self._directory = directory
        self._share = share
        self._writer: WriterLock | None = None
        self._marks: list[int] = []
        if share.workers == 1:
            self._descriptors = [claim(directory)]
            return
        self._descriptors = [_open(directory, _mark_file(share.worker))]
        try:
            self._writer = WriterLock(directory, share.worker, boot)
            self.beside = tuple(
                sorted(
                    other
                    for worker, other in living_writers(directory)
                    if worker == share.worker and other != boot
                )
            )
        except OSError as error:
            self.release()
            raise JournalError(
                f"cannot read the journal in {directory}: {error.strerror}"
            ) from None
        except JournalError:
            self.release()
            raise

    def mark_start(self, moment: int) -> list[GapRow]:
        """Record that this run has begun; see `mark_start`.

        :param moment: microseconds since the epoch.
        :return: the gaps of earlier runs that have not written anything.
        """
        earlier = [mark_start(self._directory, self._descriptors[0], moment, self._share.worker)]
        self._marks = self._descriptors[:1]
        for worker in unwritten_starts(self._directory):
            if worker != self._share.worker and self._share.owns(worker):
                # No process has this number any more.
                with suppress(JournalError):
                    descriptor = _open(self._directory, _mark_file(worker))
                    self._descriptors.append(descriptor)
                    self._marks.append(descriptor)
                    earlier.append(_unwritten(self._directory, descriptor, worker))
        return [unwritten_gap(each, moment) for each in earlier if each is not None]

    def clear_start(self) -> None:
        """Remove what `mark_start` has recorded: a segment has the run now."""
        marks, self._marks = self._marks, []
        for descriptor in marks:
            clear_start(descriptor)

    def release(self) -> None:
        """Release the lock; a second call has no effect."""
        if self._writer is not None:
            self._writer.release()
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)


def _mark_file(worker: int) -> str:
    """Return the name of the file that has the start of a worker that has not written anything."""
    return f"{LOCK_FILE}.w{worker}" if worker else LOCK_FILE


def mark_start(directory: str, lock: int, moment: int, worker: int = 0) -> int | None:
    """Record that a run of the daemon has begun of which no segment has anything yet.

    The file is as long as before, so that a full disk is no obstacle.

    :param lock: the descriptor that `claim` has returned, or that of a worker's file.
    :param moment: microseconds since the epoch.
    :param worker: number of the process.
    :return: when an earlier run started that has not written anything, likewise; ``None`` if there
        is none.
    """
    with suppress(OSError):
        earlier = _unwritten(directory, lock, worker)
        if earlier is not None:
            return earlier
        os.pwrite(lock, format_time(moment).encode("ascii") + b"\n", 0)
    return None


def _unwritten(directory: str, lock: int, worker: int) -> int | None:
    """Return when a worker started that has not written anything; ``None`` if there is none."""
    with suppress(OSError):
        earlier = _parse_start(os.pread(lock, START, 0))
        if earlier is not None:
            # It may have been killed just after its first write.
            opened = file_name(Origin("", 0, ""), earlier).partition("-")[0]
            if not any(file.startswith(opened) for file in segment_files(directory, worker)):
                return earlier
    return None


def unwritten_gap(earlier: int, moment: int) -> GapRow:
    """Return the gap of a run that has not written anything, and of those that followed it."""
    since, until = sorted((earlier, moment))
    return GapRow(since, until, None, None, "unwritten")


def clear_start(lock: int) -> None:
    """Remove what `mark_start` has recorded: a segment has the run now."""
    with suppress(OSError):
        os.pwrite(lock, b" " * (START - 1) + b"\n", 0)


def unwritten_starts(directory: str, share: Share = ALL) -> dict[int, int]:
    """Return when a run of each worker started that has not written anything.

    :param share: whose workers are searched.
    :return: microseconds since the epoch, by the number of the worker; only those that there are.
    """
    found: dict[int, int] = {}
    try:
        names = os.listdir(directory)
    except OSError:
        return found
    for name in names:
        match = re.fullmatch(rf"{LOCK_FILE}(?:\.w(\d{{1,6}}))?", name)
        worker = 0 if match is None else int(match[1] or 0)
        if match is None or not share.owns(worker):
            continue
        with suppress(OSError), open(os.path.join(directory, name), "rb") as file:
            start = _parse_start(file.read(START))
            if start is not None:
                found[worker] = start
    return found


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
