"""Which segments a directory has, and what each contains."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from natproxy.journal.catalogue import read_catalogue
from natproxy.journal.directory import JournalError, unwritten_starts
from natproxy.journal.files import ALL, DAMAGED, SUFFIX, Share, file_name, worker_of
from natproxy.journal.ports import LivePorts
from natproxy.journal.reader import OPEN, Readers, SegmentReader, SegmentRemoved, UnreadableSegment
from natproxy.journal.summary import Summary
from natproxy.records.record import Origin

RECENT = 10_000_000_000
"""Nanoseconds after a change of a file in which it may not be readable yet."""

ATTEMPTS = 20
"""Times that such a file is opened."""

PAUSE = 0.01
"""Seconds between them."""

Identity = tuple[int, int, int]
"""Inode, size and time of the last change of a file."""


class Contents(NamedTuple):
    """The segments of a directory at one moment, in the order of their names.

    :ivar segments: those that can be read.
    :ivar unreadable: the others.
    :ivar files: all of them.
    :ivar unwritten: the worker's number, and the time in microseconds since the epoch, of each
        run that has started and has not written a segment.
    """

    segments: tuple[Summary, ...]
    unreadable: tuple[UnreadableSegment, ...]
    files: dict[str, Identity]
    unwritten: tuple[tuple[int, int], ...] = ()


class Directory:
    """The directory of a journal.

    :param path: of it.
    :param live: the ports of the segment that this process writes; ``None`` if it does not.
    :param share: whose segments are read.
    :ivar path: likewise.
    :ivar live: likewise.
    :ivar readers: its open segments.
    """

    def __init__(
        self,
        path: str,
        most: int = OPEN,
        live: LivePorts | None = None,
        share: Share = ALL,
    ) -> None:
        self._share = share
        self.path = path
        self.live = live
        self.readers = Readers(path, most)
        # Sealed segments do not change; their summaries are read once, if not from the catalogue.
        self._sealed: dict[str, tuple[Identity, Summary]] = {}

    def close(self) -> None:
        """Close the segments."""
        self.readers.close()

    def files(self) -> dict[str, Identity]:
        """Return the files of the segments, in the order of their names.

        :raises JournalError: if the directory cannot be read.
        """
        found = []
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if entry.name.endswith((SUFFIX, SUFFIX + DAMAGED)) and self._share.owns(
                        worker_of(entry.name)
                    ):
                        try:
                            found.append((entry.name, identity(entry.stat())))
                        except FileNotFoundError:
                            continue
        except FileNotFoundError:
            raise JournalError(
                f"there is no journal in {self.path}: the directory does not exist"
            ) from None
        except NotADirectoryError:
            raise JournalError(
                f"there is no journal in {self.path}: it is not a directory"
            ) from None
        except OSError as error:
            raise JournalError(
                f"cannot read the journal in {self.path}: {error.strerror}; its owner can"
            ) from None
        return dict(sorted(found))

    def contents(self) -> Contents:
        """Return the segments and what they contain.

        :raises JournalError: if the directory cannot be read.
        """
        # Before the files: it is there until the segment is.
        unwritten = tuple(unwritten_starts(self.path, self._share).items())
        files = self.files()
        if files.keys() - self._sealed.keys():
            self._sealed.update(_catalogued(self.path, files))
        segments: list[Summary] = []
        unreadable: list[UnreadableSegment] = []
        for name, found in list(files.items()):
            known = self._sealed.get(name)
            if known is not None and known[0] == found:
                segments.append(known[1])
                continue
            if name.endswith(DAMAGED):
                unreadable.append(UnreadableSegment(name, "it was damaged, and set aside"))
                continue
            try:
                summary = self._summary(name, found[2])
            except SegmentRemoved:
                del files[name]
                continue
            except UnreadableSegment as error:
                unreadable.append(error)
                continue
            if summary.sealed is not None:
                self._sealed[name] = found, summary
            segments.append(summary)
        self.readers.keep(files)
        for name in self._sealed.keys() - files.keys():
            del self._sealed[name]
        return Contents(tuple(segments), tuple(unreadable), files, unwritten)

    def without(self, contents: Contents, error: UnreadableSegment) -> Contents:
        """Return contents without a segment that turned out to be damaged."""
        return contents._replace(
            segments=tuple(segment for segment in contents.segments if segment.name != error.name),
            unreadable=(*contents.unreadable, error),
        )

    def _summary(self, name: str, changed: int) -> Summary:
        """Return what a segment contains.

        :param changed: when the file was changed, in nanoseconds since the epoch.
        """
        attempts = ATTEMPTS if abs(time.time_ns() - changed) < RECENT else 1
        while True:
            attempts -= 1
            try:
                reader = SegmentReader(self.path, name)
            except UnreadableSegment:
                # It may be about to be created, or sealed.
                if not attempts:
                    raise
                time.sleep(PAUSE)
            else:
                reader.close()
                return reader.summary


def identity(status: os.stat_result) -> Identity:
    """Return what changes if a file is replaced."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _catalogued(directory: str, files: dict[str, Identity]) -> dict[str, tuple[Identity, Summary]]:
    """Return what the catalogue has of the segments; nothing if it is missing or damaged.

    What it has of a segment is used only if it agrees with the file's size and name.
    """
    return {
        info.file: (files[info.file], Summary.of(info))
        for info in read_catalogue(directory)
        if info.file in files
        and files[info.file][1] == info.bytes
        and file_name(Origin(info.proxy, info.worker, info.boot), info.opened) == info.file
    }
