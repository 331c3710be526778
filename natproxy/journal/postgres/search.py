"""`FleetJournal`: the search in the database of a fleet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from natproxy.journal.postgres.connection import connect, errors
from natproxy.journal.postgres.fleet import Proxy, read_proxies, read_records
from natproxy.journal.postgres.migrate import check_schema
from natproxy.journal.postgres.partitions import DAY, latest_end, partitions
from natproxy.journal.postgres.rows import ALL, found_of
from natproxy.journal.postgres.whois import whois
from natproxy.journal.summary import BEGINNING
from natproxy.journal.translations import Selection
from natproxy.journal.whois import SMALL_STEP
from natproxy.records.queries import HistoryQuery, windows
from natproxy.records.record import Record
from natproxy.records.whois import Gap, WhoisQuery, WhoisReply

PAGE = 2000
"""Rows that are received at once."""

USUAL = 30_000_000
"""Microseconds by which a record may be behind now without being reported."""

ORDER = "e.started {0}, e.proxy {0}, e.worker {0}, e.boot {0}, e.serial {0}"


class _Bounds(NamedTuple):
    """The times of rows that can be selected.

    :ivar lower: none of them ended before.
    :ivar upper: none of them started later.
    :ivar zones: the times that a clock showed twice.
    """

    lower: int
    upper: int
    zones: list[tuple[int, int]]

    def earliest_end(self, begin: int, end: int) -> int:
        """Return a time before which nothing ended that started in an interval."""
        firsts = [first for first, last in self.zones if first < end and last >= begin]
        return min([begin, *firsts]) - SMALL_STEP


class FleetJournal:
    """The journal of a fleet in PostgreSQL, for one thread at a time.

    All methods raise `natproxy.journal.postgres.connection.PostgresError` if the database cannot
    be used.

    :param url: of the database.
    """

    def __init__(self, url: str) -> None:
        self._connection = connect(url)
        try:
            check_schema(self._connection)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def whois_all(self, queries: Sequence[WhoisQuery]) -> list[WhoisReply]:
        """Return a `WhoisReply` for each `WhoisQuery`; see `natproxy.journal.postgres.whois`."""
        with self._snapshot():
            return whois(self._connection, queries, _now())

    def history(self, query: HistoryQuery) -> Iterator[Record]:
        """Return the records of translations, oldest first.

        :raises FilterError: if the filter is malformed.
        """
        selection = Selection.of(query.filter, query.since, query.until)
        with errors():
            bounds = self._bounds(selection)
            if query.limit is None:
                for begin, end in self._days(bounds):
                    yield from self._records(selection, bounds, begin, end)
                return
            newest: list[Record] = []
            for begin, end in self._newest(bounds):
                newest += self._records(selection, bounds, begin, end, query.limit - len(newest))
                if len(newest) >= query.limit:
                    break
            yield from reversed(newest)

    def gaps(self, since: int | None = None, until: int | None = None) -> list[Gap]:
        """Return the times in an interval of which a record is not complete, oldest first.

        Without an end of the interval, that a record is a few seconds behind is left out.
        """
        first = BEGINNING if since is None else since
        now = _now()
        last = now - USUAL if until is None else until - 1
        with self._snapshot():
            records = read_records(self._connection, first, last)
        found = {
            record.explain(gap.gap, now): gap.first
            for record in records.values()
            for gap in (*record.gaps, *record.doubled)
            if gap.overlaps(first, last)
        }
        return sorted(found, key=lambda gap: (found[gap], gap.cause))

    def proxies(self) -> list[Proxy]:
        """Return the proxies that are registered, by their names."""
        with self._snapshot():
            return read_proxies(self._connection)

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Run statements that all see the same moment."""
        with errors(), self._connection.transaction():
            self._connection.execute("set transaction isolation level repeatable read, read only")
            yield

    def _bounds(self, selection: Selection) -> _Bounds:
        """Return the times of rows that can be selected."""
        zones = [
            (first, last)
            for first, last in self._connection.execute(
                "select first, last from gaps where doubled and last >= %s and first <= %s",
                [selection.since, selection.until],
            )
        ]
        return _Bounds(
            min([selection.since, *(first for first, _ in zones)]),
            max([selection.until, *(last for _, last in zones)]),
            zones,
        )

    def _days(self, bounds: _Bounds) -> Iterator[tuple[int, int]]:
        """Yield intervals of starts: a sort has one day, and the first rows come soon."""
        begin = BEGINNING
        for day in partitions(self._connection):
            start = day * DAY
            if bounds.lower < start <= bounds.upper:
                yield begin, start
                begin = start
        yield begin, bounds.upper + 1

    def _newest(self, bounds: _Bounds) -> Iterator[tuple[int, int]]:
        """Yield intervals of starts, the newest first; those of a day grow."""
        latest = bounds._replace(upper=min(bounds.upper, _now() + DAY))
        for begin, end in reversed(list(self._days(latest))):
            if begin > BEGINNING:
                yield from windows(begin, end)
            else:
                yield begin, end

    def _records(
        self,
        selection: Selection,
        bounds: _Bounds,
        begin: int,
        end: int,
        newest: int | None = None,
    ) -> Iterator[Record]:
        """Yield the selected records that started in an interval.

        :param newest: number of records at most, the newest first; ``None`` for all, oldest first.
        """
        where, values, exact = selection.filter.postgres(selection.now)
        if not all(map(is_storable, values)):
            # PostgreSQL does not take them.
            where, values, exact = "true", [], False
        statement = (
            f"select * from {ALL} where ({where})"  # noqa: S608
            " and e.started >= %s and e.started < %s and e.held_to >= %s"
            f" order by {ORDER.format('asc' if newest is None else 'desc')}"
        )
        if exact and newest is not None:
            statement += f" limit {newest:d}"
        parameters = [
            latest_end(self._connection, end),
            *values,
            begin,
            end,
            max(bounds.lower, bounds.earliest_end(begin, end)),
        ]
        count = 0
        with (
            self._connection.transaction(),
            self._connection.cursor("translations") as cursor,
        ):
            cursor.itersize = PAGE
            for row in cursor.execute(statement, parameters):
                found = found_of(row)
                record = found.row.record(found.origin)
                if exact or selection.filter.matches(record, selection.now):
                    yield record
                    count += 1
                    if count == newest:
                        return


def is_storable(value: int | str) -> bool:
    """Return whether a value can be a parameter of a statement."""
    if isinstance(value, int):
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _now() -> int:
    return time.time_ns() // 1000
