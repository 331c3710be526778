"""Partitions of the table ``entries``: one for each day, UTC, of the end of translations."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from natproxy.journal.postgres.migrate import LOCK
from natproxy.journal.summary import BEGINNING, END
from natproxy.records.record import EPOCH

if TYPE_CHECKING:
    import psycopg

DAY = 86_400_000_000
"""Microseconds."""

AHEAD = 3
"""Days for which partitions are made ahead."""

LAST = (date(2200, 1, 1) - EPOCH.date()).days
"""The first day that has none: what ends later, or before 1970, is refused."""

WAIT = "3s"
"""How long to wait for those who use a table that is to be deleted, before it is left."""


def day_of(time: int) -> int:
    """Return the day of a time, in days since the epoch."""
    return time // DAY


def partition_name(day: int) -> str:
    """Return the name of the partition of a day."""
    return f"entries_{EPOCH.date() + timedelta(days=day):%Y%m%d}"


def partitions(connection: psycopg.Connection[Any]) -> dict[int, str]:
    """Return the partitions that exist, by their days, in the order of these."""
    days = [day for (day,) in connection.execute("select day from days order by day")]
    return {day: partition_name(day) for day in days}


def latest_end(connection: psycopg.Connection[Any], upper: int) -> int:
    """Return a time after which nothing ended that started before another one, or then."""
    row = connection.execute("select max(day) from days where earliest <= %s", [upper]).fetchone()
    assert row is not None
    return BEGINNING if row[0] is None else (int(row[0]) + 1) * DAY - 1


def make_partitions(connection: psycopg.Connection[Any], days: Iterable[int]) -> None:
    """Make the partitions of some days that do not exist.

    A table is made, and then attached: others read and write ``entries`` meanwhile.
    """
    wanted = {day for day in days if 0 <= day < LAST}
    if not wanted:
        return
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
        for day in sorted(wanted - partitions(connection).keys()):
            name = partition_name(day)
            # Names and numbers only.
            connection.execute(
                f"create table {name} (like entries including defaults including constraints)"
            )
            connection.execute(
                f"alter table entries attach partition {name}"
                f" for values from ({day * DAY}) to ({(day + 1) * DAY})"
            )
            connection.execute("insert into days values (%s, %s)", [day, END])


def retain(connection: psycopg.Connection[Any], since: int) -> list[str]:
    """Delete what ended before the day of a time; return the names of the partitions deleted.

    Shippers that run meanwhile notice it by the revision of their positions.

    :param since: microseconds since the epoch.
    """
    first = max(day_of(since), 0)
    since = first * DAY
    deleted = []
    with connection.transaction():
        connection.execute(f"set local lock_timeout = '{WAIT}'")
        connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
        row = connection.execute("select max(since) from retention").fetchone()
        assert row is not None
        if since <= row[0] and row[0] > BEGINNING:
            return []
        for day, name in partitions(connection).items():
            if day < first:
                connection.execute(f"drop table {name}")
                connection.execute("delete from days where day = %s", [day])
                deleted.append(name)
        connection.execute("update retention set since = %s", [since])
        connection.execute("update proxies set revision = revision + 1")
        connection.execute("delete from gaps where last < %s", [since])
        connection.execute("delete from refused where last < %s", [since])
        connection.execute("delete from unended where possible < %s", [since])
        connection.execute("delete from segments where done and complete_to < %s", [since])
    return deleted
