"""Which segments a directory has, and what each contains."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from natproxy.journal.reader import (
    BEGINNING,
    END,
    JournalError,
    Readers,
    SegmentReader,
    SegmentRemoved,
    Summary,
    UnreadableSegment,
)
from natproxy.journal.schema import CATALOGUE_FILE, DAMAGED, SUFFIX
from natproxy.journal.segment import GapRow, Step, file_name
from natproxy.records.record import Origin

META = ", ".join(Summary._fields[1:10])
"""The columns of the catalogue, and the keys of ``meta``, from which a summary is made."""

Identity = tuple[int, int, int]
"""Inode, size and time of the last change of a file."""


class Contents(NamedTuple):
    """The segments of a directory at one moment, in the order of their names.

    :ivar segments: those that can be read.
    :ivar unreadable: the others.
    :ivar files: all of them.
    """

    segments: tuple[Summary, ...]
    unreadable: tuple[UnreadableSegment, ...]
    files: dict[str, Identity]


class Directory:
    """The directory of a journal.

    :param path: of it.
    :ivar path: likewise.
    :ivar readers: its open segments.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.readers = Readers(path)
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
                    if entry.name.endswith((SUFFIX, SUFFIX + DAMAGED)):
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
                summary = self._summary(name)
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
        return Contents(tuple(segments), tuple(unreadable), files)

    def without(self, contents: Contents, error: UnreadableSegment) -> Contents:
        """Return contents without a segment that turned out to be damaged."""
        return Contents(
            tuple(segment for segment in contents.segments if segment.name != error.name),
            (*contents.unreadable, error),
            contents.files,
        )

    def _summary(self, name: str) -> Summary:
        reader = SegmentReader(self.path, name)
        reader.close()
        return reader.summary


def identity(status: os.stat_result) -> Identity:
    """Return what changes if a file is replaced."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _catalogued(directory: str, files: dict[str, Identity]) -> dict[str, tuple[Identity, Summary]]:
    """Return what the catalogue has of the segments; nothing if it is missing or damaged.

    What it has of a segment is used only if it agrees with the file's size and name.
    """
    path = Path(directory, CATALOGUE_FILE).absolute()
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                f"select file, bytes, min_started, max_ended, {META} from segments"  # noqa: S608
            ).fetchall()
            gaps: dict[str, list[GapRow]] = {}
            for file, *gap in connection.execute(
                "select file, since, until, first_seq, last_seq, cause from gaps order by rowid"
            ):
                gaps.setdefault(file, []).append(GapRow(*gap))
            steps: dict[str, list[Step]] = {}
            for file, *step in connection.execute(
                "select file, time, step from steps order by rowid"
            ):
                steps.setdefault(file, []).append(Step(*step))
    except sqlite3.Error:
        return {}
    known: dict[str, tuple[Identity, Summary]] = {}
    for file, size, earliest, latest, *values in rows:
        found = files.get(file)
        if found is None or found[1] != size:
            continue
        summary = Summary._make(
            (
                file,
                *values,
                tuple(gaps.get(file, ())),
                tuple(steps.get(file, ())),
                # Without entries, every time is after the latest one.
                END if earliest is None else earliest,
                BEGINNING if latest is None else latest,
            )
        )
        if file == file_name(Origin(*summary[1:4]), summary.opened):
            known[file] = found, summary
    return known
