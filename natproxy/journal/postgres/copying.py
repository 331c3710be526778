"""Rows into the database: by COPY; what PostgreSQL refuses is set aside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from natproxy.journal.postgres.connection import driver, reason
from natproxy.journal.rows import Row
from natproxy.journal.summary import END

if TYPE_CHECKING:
    import psycopg

LONGEST = 4000
"""Characters of an entry that was refused, and of the reason."""

_COMMON = (
    "serial, seq, command, attempt, relaying, nat_port, client_port, promised, bytes, duration,"
    " run, route, client, identity, verb, name, outcome, reason"
)

COPY_ENTRIES = f"copy entries (started, ended, {_COMMON}) from stdin"

INSERT_UNENDED = (
    f"insert into unended (started, part, {_COMMON})"  # noqa: S608
    f" values (%s, %s{', %s' * 18})"
    " on conflict (run, serial) do update set relaying = excluded.relaying,"
    " promised = excluded.promised, bytes = excluded.bytes, outcome = excluded.outcome,"
    " reason = excluded.reason, duration = excluded.duration, part = excluded.part"
)

Values = tuple[Any, ...]
"""The values of one row, in the order of a statement's columns."""


def entry_values(row: Row, run: int, route: int) -> Values:
    """Return the values for `COPY_ENTRIES` of a row that has ended."""
    return (row.started, row.ended, *_common(row, run, route))


def unended_values(row: Row, run: int, route: int, part: int) -> Values:
    """Return the values for `INSERT_UNENDED` of a row that is open, or whose end is lost.

    It has to be there until it ends, and is refused then if PostgreSQL cannot take its texts.
    """
    values = (row.started, part, *_common(row, run, route))
    return tuple(storable(value) if isinstance(value, str) else value for value in values)


def storable(text: str) -> str:
    """Return a text without the NUL that PostgreSQL does not take."""
    return str(text).replace("\0", "\\x00")


def _common(row: Row, run: int, route: int) -> Values:
    return (
        row.serial,
        row.seq,
        row.command,
        row.attempt,
        row.relaying,
        row.nat_port,
        row.client_port,
        row.promised,
        row.bytes,
        row.duration,
        run,
        route,
        row.client,
        row.identity,
        row.verb,
        row.name,
        row.outcome,
        row.reason,
    )


class Rows:
    """Writes rows in the transaction of a connection.

    :param around: the time of a row is a gap if it is refused and has no times of its own.
    :ivar refused: rows that were set aside.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], run: int, around: tuple[int, int], now: int
    ) -> None:
        self._connection = connection
        self._run = run
        self._around = around
        self._now = now
        self._refusals = _refusals()
        self.refused = 0

    def copy(self, rows: Sequence[Values]) -> None:
        """Copy rows of ``entries``. A part of them that is refused is divided, and tried again."""
        if not rows:
            return
        try:
            with (
                self._connection.transaction(),
                self._connection.cursor() as cursor,
                cursor.copy(COPY_ENTRIES) as copy,
            ):
                for row in rows:
                    copy.write_row(row)
        except self._refusals as error:
            if len(rows) == 1:
                self._set_aside(rows[0], rows[0][:2], error)
                return
            middle = len(rows) // 2
            self.copy(rows[:middle])
            self.copy(rows[middle:])

    def put(self, rows: Sequence[Values]) -> None:
        """Insert rows of ``unended``, or replace what is known of them."""
        if not rows:
            return
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.executemany(INSERT_UNENDED, rows)
        except self._refusals as error:
            if len(rows) == 1:
                self._set_aside(rows[0], (rows[0][0], END), error)
                return
            middle = len(rows) // 2
            self.put(rows[:middle])
            self.put(rows[middle:])

    def _set_aside(self, row: Values, times: Sequence[Any], error: Exception) -> None:
        first, last = (
            time if isinstance(time, int) else around
            for time, around in zip(times, self._around, strict=True)
        )
        self._connection.execute(
            "insert into refused (run, first, last, refused, reason, entry)"
            " values (%s, %s, %s, %s, %s, %s)",
            [
                self._run,
                min(first, last),
                max(first, last),
                self._now,
                _text(reason(error)),
                _text(repr(row)),
            ],
        )
        self.refused += 1


def _refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions of a row whose content PostgreSQL refuses."""
    psycopg = driver()
    return (psycopg.DataError, psycopg.IntegrityError)


def _text(text: str) -> str:
    return text[:LONGEST].encode("ascii", "backslashreplace").decode()
