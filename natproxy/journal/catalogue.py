"""The catalogue: what is in the sealed segments, so that only those that matter are opened.

It is a copy: if it is missing or damaged, it is rebuilt from the segments.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar
from urllib.parse import quote

from natproxy.journal.files import remove, segment_files
from natproxy.journal.rows import GapRow, Step
from natproxy.journal.schema import CATALOGUE, CATALOGUE_FILE, CATALOGUE_VERSION
from natproxy.journal.segment import (
    BUSY,
    NewerSchema,
    NotASegment,
    check_version,
    connect,
    statements,
    transaction,
)
from natproxy.journal.summary import SegmentInfo, describe

T = TypeVar("T")


class Catalogue:
    """The catalogue of a directory, for those who change it.

    A damaged file is replaced by an empty one, which `refresh` fills.

    A method opens the file, and closes it: that is needed once an hour.

    :param directory: of the journal.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, CATALOGUE_FILE)

    def infos(self) -> list[SegmentInfo]:
        """Return what is known of the sealed segments, those that were opened first first."""
        return self._with_file(_read)

    def add(self, info: SegmentInfo) -> None:
        """Add a sealed segment, or replace what is known of it."""

        def add(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                _delete(connection, info.file)
                connection.execute(
                    f"insert into segments values ({', '.join('?' * 16)})",  # noqa: S608
                    info[:16],
                )
                connection.executemany(
                    "insert into gaps values (?, ?, ?, ?, ?, ?)",
                    [(info.file, *gap) for gap in info.gaps],
                )
                connection.executemany(
                    "insert into steps values (?, ?, ?, ?)",
                    [(info.file, *step) for step in info.steps],
                )

        self._with_file(add)

    def remove(self, file: str) -> None:
        """Remove a segment."""

        def delete(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                _delete(connection, file)

        self._with_file(delete)

    def refresh(self) -> None:
        """Make the catalogue list the segments that are there and sealed, and no others.

        A segment that cannot be read is left out.
        """
        listed = {info.file: info for info in self.infos()}
        there = set(segment_files(self._directory))
        for file in listed.keys() - there:
            self.remove(file)
        for file in sorted(there):
            path = os.path.join(self._directory, file)
            if file in listed and listed[file].bytes == os.path.getsize(path):
                continue
            info = sealed_info(path)
            if info is not None:
                self.add(info)
            elif file in listed:
                self.remove(file)

    def _with_file(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._work(work)
        except sqlite3.OperationalError:
            # The disk is full, or another process has it.
            raise
        except sqlite3.DatabaseError:
            remove(self._path)
            return self._work(work)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with closing(self._open()) as connection:
            return work(connection)

    def _open(self) -> sqlite3.Connection:
        # Not by SQLite, which uses the umask.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self._path, BUSY, isolation_level=None)
        try:
            version = connection.execute("pragma user_version").fetchone()[0]
            if version != CATALOGUE_VERSION:
                if version:
                    raise sqlite3.DatabaseError("the catalogue has another version")
                with transaction(connection):
                    for statement in statements(CATALOGUE):
                        connection.execute(statement)
                    connection.execute(f"pragma user_version = {CATALOGUE_VERSION}")
        except BaseException:
            connection.close()
            raise
        return connection


def read_catalogue(directory: str) -> list[SegmentInfo]:
    """Return what the catalogue lists, without a change of it.

    :return: nothing if it is missing or damaged: the segments have to be opened then.
    """
    path = os.path.abspath(os.path.join(directory, CATALOGUE_FILE))
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", BUSY, uri=True)) as connection:
            if connection.execute("pragma user_version").fetchone()[0] != CATALOGUE_VERSION:
                return []
            return _read(connection)
    except sqlite3.Error:
        return []


def sealed_info(path: str) -> SegmentInfo | None:
    """Return what the catalogue has of a segment; ``None`` if it is not sealed, or not readable."""
    try:
        with closing(connect(path)) as connection:
            check_version(connection, path)
            if not connection.execute("select count(*) from meta where key = 'sealed'").fetchone()[
                0
            ]:
                # To describe it, all of its entries would be read.
                return None
            info = describe(connection, os.path.basename(path))
            in_wal_mode = connection.execute("pragma journal_mode").fetchone()[0] == "wal"
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, NewerSchema, NotASegment, KeyError):
        return None
    return None if info.sealed is None or in_wal_mode else info


def _read(connection: sqlite3.Connection) -> list[SegmentInfo]:
    gaps: dict[str, list[GapRow]] = {}
    for file, *gap in connection.execute(
        "select file, since, until, first_seq, last_seq, cause from gaps order by rowid"
    ):
        gaps.setdefault(file, []).append(GapRow(*gap))
    steps: dict[str, list[Step]] = {}
    for file, *step in connection.execute(
        "select file, time, step, elapsed from steps order by rowid"
    ):
        steps.setdefault(file, []).append(Step(*step))
    return [
        SegmentInfo._make((*row, tuple(gaps.get(row[0], ())), tuple(steps.get(row[0], ()))))
        for row in connection.execute(
            "select file, proxy, worker, boot, part, boot_started, opened, complete_to, stopped,"
            " sealed, min_started, max_ended, rows, bytes, former, beside from segments"
            " order by opened, file"
        )
    ]


def _delete(connection: sqlite3.Connection, file: str) -> None:
    for table in ("segments", "gaps", "steps"):
        connection.execute(f"delete from {table} where file = ?", (file,))  # noqa: S608
