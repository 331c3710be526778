"""What a second thread does for the journal: recover, seal and delete segments."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from threading import Lock
from typing import NamedTuple

from natproxy.journal.catalogue import Catalogue
from natproxy.journal.directory import living_writers
from natproxy.journal.files import ALL, SUFFIX, Share
from natproxy.journal.recovery import recover
from natproxy.journal.retention import retain
from natproxy.journal.rows import GapRow
from natproxy.journal.segment import NotASegment, seal
from natproxy.journal.space import reason_of
from natproxy.journal.spool_format import NAME
from natproxy.journal.validity import DAMAGE


class JournalSettings(NamedTuple):
    """How a journal is kept.

    :ivar keep: seconds for which a segment is kept after its last event.
    :ivar max_size: bytes of all segments; the oldest ones are deleted.
    :ivar names: whether the names of files are in it.
    """

    keep: float
    max_size: int
    names: bool = True


class Report(NamedTuple):
    """What a run of the maintenance has found.

    :ivar segments: number of segments, the live one included.
    :ivar bytes: of all files.
    :ivar gaps: to be recorded in the live segment.
    :ivar messages: for the log; one sentence each.
    :ivar busy: whether a segment is still to be sealed, because it is being read.
    """

    segments: int
    bytes: int
    gaps: tuple[GapRow, ...] = ()
    messages: tuple[str, ...] = ()
    busy: bool = False


class Maintenance:
    """Recovers, seals and deletes the segments of a directory, one run after the other.

    :param boot: of this run of the daemon.
    :param started: when it started, in microseconds since the epoch.
    :param keep: seconds for which a segment is kept after its last event.
    :param max_size: bytes of all segments.
    :param share: of the directory. Each worker recovers and seals its own segments; the first one
        deletes those of all.
    """

    def __init__(
        self,
        directory: str,
        boot: str,
        started: int,
        keep: float,
        max_size: int,
        share: Share = ALL,
    ) -> None:
        self._share = share
        self._directory = directory
        self._boot = boot
        self._started = started
        self._keep = keep
        self._max_size = max_size
        self._lock = Lock()
        self._to_seal: list[str] = []
        self._recovered = False

    def limit(self, keep: float, max_size: int) -> bool:
        """Change the limits for the next run; return whether they differ."""
        with self._lock:
            before = self._keep, self._max_size
            self._keep, self._max_size = keep, max_size
        return before != (keep, max_size)

    def add(self, path: str) -> None:
        """Have a segment of this boot sealed, whose open entries are in the next one."""
        with self._lock:
            self._to_seal.append(path)

    def run(self, now: int) -> Report:
        """Do what is due. What fails because the disk is full is due again.

        :param now: microseconds since the epoch.
        """
        gaps: list[GapRow] = []
        messages: list[str] = []
        busy = False
        try:
            if not self._recovered:
                # A worker that this one replaces may still run, and be killed later.
                several = self._share.workers > 1
                recovered = recover(
                    self._directory,
                    self._boot,
                    now if several else self._started,
                    self._share,
                    {boot for _, boot in living_writers(self._directory)},
                )
                gaps += recovered.gaps
                messages += recovered.messages
                busy = recovered.busy
                self._recovered = not (recovered.busy or several)
            busy |= self._seal(now, messages)
            if not self._share.worker:
                gaps += self._retain(now, messages)
        except (sqlite3.OperationalError, OSError) as error:
            messages.append(f"cannot maintain the journal in {self._directory}: {reason_of(error)}")
        return Report(*self._size(), tuple(gaps), tuple(messages), busy)

    def _retain(self, now: int, messages: list[str]) -> list[GapRow]:
        """Delete the oldest segments, of all workers; return the gap that this leaves."""
        with self._lock:
            keep, max_size = self._keep, self._max_size
        deleted = retain(self._directory, now, keep, max_size)
        if not deleted:
            return []
        messages.append(
            f"deleted the oldest segments of the journal in {self._directory}:"
            f" {', '.join(info.file for info in deleted)}"
        )
        if self._share.workers == 1 and not any(info.worker for info in deleted):
            return []
        # What is left of other workers may begin earlier.
        end = max(max(info.complete_to, info.max_ended or 0) for info in deleted)
        return [GapRow(None, end, None, None, "deleted")]

    def _seal(self, now: int, messages: list[str]) -> bool:
        """Seal what is to be sealed; return whether some of it is being read."""
        busy = False
        with self._lock:
            paths = list(self._to_seal)
        for path in paths:
            try:
                Catalogue(self._directory).add(seal(path, now, moved=True))
            except sqlite3.OperationalError as error:
                if os.path.exists(path):
                    if "locked" not in str(error):
                        raise
                    # The next run tries again.
                    busy = True
                    continue
                messages.append(f"the journal's segment {path} was deleted before it was sealed")
            except (*DAMAGE, NotASegment, KeyError) as error:
                # The next start sets it aside.
                messages.append(f"cannot seal the journal's segment {path}: {error}")
            with self._lock:
                self._to_seal.remove(path)
        return busy

    def _size(self) -> tuple[int, int]:
        segments = size = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name):
                    # Of a fixed size, and no history.
                    continue
                segments += entry.name.endswith(SUFFIX)
                with suppress(FileNotFoundError):
                    size += entry.stat().st_size
        return segments, size
