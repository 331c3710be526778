"""What a fleet has done lately: sums by group, of which each reading has only what is new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from natproxy.journal.postgres.connection import connect, errors
from natproxy.journal.postgres.fleet import Proxy, read_proxies
from natproxy.journal.postgres.migrate import check_schema
from natproxy.journal.postgres.rows import ENDED, OPEN, found_of
from natproxy.journal.postgres.search import PAGE, is_storable
from natproxy.records.filter import parse

if TYPE_CHECKING:
    import psycopg

LONGEST = 300
"""Characters of a name at most."""

MOST = 1000
"""Groups of one reading at most by each order: most commands, and most bytes."""

KEYS = {
    "client": "e.client",
    # Of a command of several files it is the first name, and the number of the others.
    "name": f"left(split_part(e.name, ', ', 1), {LONGEST})",
    "verb": "e.verb",
    "outcome": "coalesce(e.outcome, 'open')",
    "proxy": "e.proxy",
}
"""What the sums are of, by the names of the groups."""

_NEW = ENDED.format(table="(select * from entries where ended > %s and ended <= %s)")

_WORKERS = (
    "(select unnest(%s::integer[]) as proxy, unnest(%s::integer[]) as worker,"
    " unnest(%s::bigint[]) as after, unnest(%s::bigint[]) as until) w"
)

COMPLETED = "completed"

RETRIED = "retried"
"""The outcome of an attempt of which another one follows: the command has not ended."""

_COMMANDS = f"count(*) filter (where outcome is distinct from '{RETRIED}')"

_FAILED = f"count(*) filter (where coalesce(outcome, '') not in ('{COMPLETED}', '{RETRIED}'))"


class Sum(NamedTuple):
    """Commands of a group that have ended within a slot of time; several attempts are one command.

    :ivar slot: number of the slot since the epoch.
    :ivar key: of the group; ``None`` for all of the slot.
    :ivar failed: those of them with another outcome than ``completed``.
    :ivar bytes: that were passed on, by all attempts.
    """

    slot: int
    key: str | None
    commands: int
    failed: int
    bytes: int


class Open(NamedTuple):
    """Translations of a group that are open.

    :ivar key: of the group; ``None`` for all.
    :ivar bytes: that had been passed on when they were shipped.
    """

    key: str | None
    number: int
    bytes: int


class Reading(NamedTuple):
    """What a database has at one moment.

    :ivar proxies: that are registered.
    :ivar ended: what has ended since the reading before. Of many groups, it has those with the
        most commands and the most bytes.
    :ivar open: what is open, likewise.
    """

    proxies: list[Proxy]
    ended: list[Sum]
    open: list[Open]


class Activity:
    """Reads what a fleet does, for one thread at a time.

    The record of a worker is read up to the time to which it is complete, so that each command is
    counted once, in whichever order the proxies ship. A failure leaves the position as it was.

    :param url: of the database.
    :param text: of a filter.
    :param key: one of `KEYS`.
    :param slot: microseconds of a slot.
    :raises FilterError: if the filter is malformed.
    :raises PostgresError: if the URL is malformed.
    """

    def __init__(self, url: str, text: str, key: str, slot: int) -> None:
        self._url = url
        self._filter = parse(text)
        self._key = key
        self._slot = slot
        self._connection: psycopg.Connection[Any] | None = None
        # Of each proxy and worker, what ended until then was read.
        self._read_to: dict[tuple[int, int], int] = {}

    def close(self) -> None:
        """Close the connection; the next reading makes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def restart(self, key: str) -> None:
        """Group by another key, and read all again."""
        self._key = key
        self._read_to.clear()

    def read(self, since: int, now: int) -> Reading:
        """Return what is new.

        :param since: what ended before is left out; microseconds since the epoch, as ``now``.
        :raises PostgresError: if the database cannot be used.
        """
        try:
            with errors():
                if self._connection is None:
                    self._connection = connect(self._url)
                    check_schema(self._connection)
                with self._connection.transaction():
                    self._connection.execute(
                        "set transaction isolation level repeatable read, read only"
                    )
                    proxies = read_proxies(self._connection)
                    bounds = list(self._bounds(proxies, since))
                    ended = self._ended(self._connection, bounds, now) if bounds else []
                    found = self._open(self._connection, now)
        except BaseException:
            self.close()
            raise
        for proxy, worker, _, until in bounds:
            self._read_to[proxy, worker] = until
        return Reading(proxies, ended, found)

    def _bounds(self, proxies: list[Proxy], since: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield of each worker from when to when its commands are new."""
        for proxy in proxies:
            for worker, complete_to in proxy.complete_to.items():
                after = max(since, self._read_to.get((proxy.number, worker), since))
                if after < complete_to:
                    yield proxy.number, worker, after, complete_to

    def _ended(
        self,
        connection: psycopg.Connection[Any],
        bounds: list[tuple[int, int, int, int]],
        now: int,
    ) -> list[Sum]:
        workers = [list(column) for column in zip(*bounds, strict=True)]
        first, last = min(bound[2] for bound in bounds), max(bound[3] for bound in bounds)
        where, values, exact = self._condition(now)
        parameters = [self._slot, first, last, *workers, *values]
        # Values are parameters; the rest are texts of this program.
        selected = (
            f"select *, e.ended / %s as slot, {KEYS[self._key]} as key"  # noqa: S608
            f" from ({_NEW} join {_WORKERS} on w.proxy = r.proxy and w.worker = r.worker"
            f" and x.ended > w.after and x.ended <= w.until) e where ({where})"
        )
        if not exact:
            return self._summed(connection, selected, parameters, now)
        statement = (
            f"with new as (select slot, key, {_COMMANDS} as commands, {_FAILED} as failed,"  # noqa: S608
            f" sum(bytes) as bytes from ({selected}) e group by 1, 2),"
            " ranked as (select *, row_number() over (order by commands desc, key) as first,"
            " row_number() over (order by bytes desc, key) as second from new)"
            " select slot, key, commands, failed, bytes::bigint from ranked"
            f" where first <= {MOST} or second <= {MOST}"
            " union all select slot, null, sum(commands)::bigint, sum(failed)::bigint,"
            " sum(bytes)::bigint from new group by slot"
        )
        return [Sum(*row) for row in connection.execute(statement.encode(), parameters)]

    def _open(self, connection: psycopg.Connection[Any], now: int) -> list[Open]:
        where, values, exact = self._condition(now)
        selected = (
            f"select *, 0::bigint as slot, {KEYS[self._key]} as key from ({OPEN}) e"  # noqa: S608
            f" where e.outcome is null and ({where})"
        )
        if not exact:
            summed = self._summed(connection, selected, values, now)
            return [Open(one.key, one.commands, one.bytes) for one in summed]
        statement = (
            "with found as (select key, count(*) as number, sum(bytes)::bigint as bytes"  # noqa: S608
            f" from ({selected}) e group by 1)"
            " (select key, number, bytes from found order by number desc, key"
            f" limit {MOST})"
            " union all select null, sum(number)::bigint, sum(bytes)::bigint from found"
            " having count(*) > 0"
        )
        return [Open(*row) for row in connection.execute(statement.encode(), values)]

    def _summed(
        self,
        connection: psycopg.Connection[Any],
        selected: str,
        parameters: Sequence[Any],
        now: int,
    ) -> list[Sum]:
        """Return the sums of rows of which the database does not know whether they match."""
        sums: dict[tuple[int, str | None], Sum] = {}
        with connection.cursor("activity") as cursor:
            cursor.itersize = PAGE
            for values in cursor.execute(selected.encode(), parameters):
                found = found_of(values)
                row = found.row
                if not self._filter.matches(row.record(found.origin), now):
                    continue
                *_, slot, key = found.rest
                for group in (key, None):
                    if group is None or len(sums) < 2 * MOST or (slot, group) in sums:
                        one = sums.get((slot, group), Sum(slot, group, 0, 0, 0))
                        sums[slot, group] = one._replace(
                            commands=one.commands + (row.outcome != RETRIED),
                            failed=one.failed + (row.outcome not in (COMPLETED, RETRIED)),
                            bytes=one.bytes + row.bytes,
                        )
        return list(sums.values())

    def _condition(self, now: int) -> tuple[str, list[int | str], bool]:
        """Return what selects the rows that match, its values, and whether it selects no others."""
        where, values, exact = self._filter.postgres(now)
        if not all(map(is_storable, values)):
            # PostgreSQL does not take them.
            return "true", [], False
        return where, values, exact
