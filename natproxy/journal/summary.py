"""What a segment contains, without its rows: for the catalogue, and for searches."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from natproxy.journal.rows import GapRow, Step
from natproxy.records.record import Origin

BEGINNING, END = -(1 << 62), 1 << 62
"""Before and after every time."""

ORDER = 60_000_000
"""Microseconds by which the order of times may differ from that of serials.

The clock may be set by less than what is noted, and a failed command has its serial at its end.
"""


class SegmentInfo(NamedTuple):
    """What the catalogue has of a segment; see `natproxy.journal.schema`.

    :ivar sealed: ``None`` for a live segment.
    """

    file: str
    proxy: str
    worker: int
    boot: str
    part: int
    boot_started: int
    opened: int
    complete_to: int
    stopped: int | None
    sealed: int | None
    min_started: int | None
    max_ended: int | None
    rows: int
    bytes: int
    former: str | None = None
    beside: str | None = None
    gaps: tuple[GapRow, ...] = ()
    steps: tuple[Step, ...] = ()


class Summary(NamedTuple):
    """What a segment contains, without its rows. Times are microseconds since the epoch.

    :ivar name: its file name.
    :ivar proxy: the daemon's name.
    :ivar worker: number of the process.
    :ivar boot: one run of the daemon.
    :ivar part: number of the segment in its worker and boot, from 1.
    :ivar boot_started: when the daemon started.
    :ivar opened: from when on the segment is complete.
    :ivar complete_to: until when it is complete.
    :ivar sealed: when it was sealed; ``None`` while it is live.
    :ivar stopped: when the daemon stopped in order; ``None`` if it did not, or did so later.
    :ivar gaps: its incomplete times.
    :ivar steps: the steps of the wall clock.
    :ivar earliest: a time before which nothing in its entries is, if the clock was not set.
    :ivar latest: a time after which nothing in its entries is, likewise.
    :ivar listed: whether the two are from the catalogue, and hold if the clock was set, too.
    :ivar former: name of the worker's newest segment before; ``None`` if there was none.
    :ivar beside: boots of other processes with the worker's number that ran when it started.
    """

    name: str
    proxy: str
    worker: int
    boot: str
    part: int
    boot_started: int
    opened: int
    complete_to: int
    sealed: int | None
    stopped: int | None
    gaps: tuple[GapRow, ...] = ()
    steps: tuple[Step, ...] = ()
    earliest: int = BEGINNING
    latest: int = END
    listed: bool = False
    former: str | None = None
    beside: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: SegmentInfo) -> Summary:
        """Return the summary of what the catalogue has."""
        return cls(
            info.file,
            info.proxy,
            info.worker,
            info.boot,
            info.part,
            info.boot_started,
            info.opened,
            info.complete_to,
            info.sealed,
            info.stopped,
            info.gaps,
            info.steps,
            # Without entries, every time is after the latest one.
            END if info.min_started is None else info.min_started,
            BEGINNING if info.max_ended is None else info.max_ended,
            True,
            info.former,
            _words(info.beside),
        )

    @classmethod
    def read(cls, connection: sqlite3.Connection, name: str) -> Summary:
        """Return the summary of a segment, without reading its rows.

        :param connection: to the segment.
        :param name: its file name.
        :raises KeyError: if its table ``meta`` is incomplete.
        :raises ValueError: if a value in it is malformed.
        :raises TypeError: likewise.
        """
        # One transaction, so that all of it is of one moment.
        connection.execute("begin")
        try:
            meta, gaps, steps = _meta(connection), _gaps(connection), _steps(connection)
            # Serials are in the order of starts.
            first = connection.execute(
                "select started from entries order by serial limit 1"
            ).fetchone()
        finally:
            connection.execute("commit")
        return cls(
            name,
            str(meta["proxy"]),
            int(meta["worker"]),
            str(meta["boot"]),
            int(meta["part"]),
            int(meta["boot_started"]),
            int(meta["opened"]),
            int(meta["complete_to"]),
            _optional(meta.get("sealed")),
            _optional(meta.get("stopped")),
            gaps,
            steps,
            min(int(meta["opened"]), END if first is None else first[0]) - ORDER,
            int(meta["complete_to"]) + ORDER,
            former=meta.get("former"),
            beside=_words(meta.get("beside")),
        )

    @property
    def origin(self) -> Origin:
        """The worker and boot whose translations it has."""
        return Origin(self.proxy, self.worker, self.boot)


def describe(connection: sqlite3.Connection, file: str) -> SegmentInfo:
    """Return what the catalogue has of a segment: reads all of its entries.

    :param connection: to the segment.
    :param file: its name in the directory.
    """
    meta = _meta(connection)
    rows, min_started, min_ended, max_started, max_ended = connection.execute(
        "select count(*), min(started), min(ended), max(started), max(ended) from entries"
    ).fetchone()
    if min_ended is not None:
        # The clock may have been set back in between.
        min_started, max_ended = min(min_started, min_ended), max(max_started, max_ended)
    elif rows:
        max_ended = max_started
    pages, size = (
        connection.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    return SegmentInfo(
        file,
        meta["proxy"],
        meta["worker"],
        meta["boot"],
        meta["part"],
        meta["boot_started"],
        meta["opened"],
        meta["complete_to"],
        meta.get("stopped"),
        meta.get("sealed"),
        min_started,
        max_ended,
        rows,
        pages * size,
        meta.get("former"),
        meta.get("beside"),
        _gaps(connection),
        _steps(connection),
    )


def _meta(connection: sqlite3.Connection) -> dict[str, Any]:
    return dict(connection.execute("select key, value from meta"))


def _gaps(connection: sqlite3.Connection) -> tuple[GapRow, ...]:
    found = connection.execute(
        "select since, until, first_seq, last_seq, cause from gaps order by rowid"
    )
    return tuple(map(GapRow._make, found))


def _steps(connection: sqlite3.Connection) -> tuple[Step, ...]:
    found = connection.execute("select time, step, elapsed from steps order by rowid")
    return tuple(map(Step._make, found))


def _words(text: Any) -> tuple[str, ...]:
    return tuple(text.split()) if isinstance(text, str) else ()


def _optional(value: Any) -> int | None:
    return None if value is None else int(value)
