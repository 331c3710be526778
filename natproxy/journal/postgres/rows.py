"""Rows of translations from the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from natproxy.journal.coverage import NOT_YET, Held
from natproxy.journal.rows import Row
from natproxy.journal.summary import END
from natproxy.records.record import Origin
from natproxy.records.whois import Gap

_ROW = (
    "x.serial, x.seq, x.command, x.attempt, x.started, x.relaying, {ended} as ended, x.client,"
    " x.client_port, x.identity, t.nat, x.nat_port, t.upstream, t.upstream_port, x.verb, x.name,"
    " x.promised, x.bytes, x.outcome, x.reason, x.duration,"
    " p.name as proxy, r.worker, r.boot, p.id as proxy_id"
)

_FROM = (
    " join runs r on r.id = x.run join proxies p on p.id = r.proxy join routes t on t.id = x.route"
)

ENDED = f"select {_ROW.format(ended='x.ended')}, x.ended as held_to from {{table}} x{_FROM}"  # noqa: S608
"""Selects what has ended; ``{table}`` is ``entries``, or a part of it."""

_UNENDED = f"select {_ROW.format(ended='null::bigint')}, {{extra}} from unended x{_FROM}"  # noqa: S608

UNENDED = _UNENDED.format(
    extra=(
        "x.certain, x.possible, x.since, x.until, x.cause,"
        " (select complete_to from workers w where w.proxy = r.proxy and w.worker = r.worker)"
    )
)
"""Selects what is open, or whose end is lost, with how long it held its port."""

_HELD_TO = f"coalesce(case when x.outcome = 'lost' then x.certain else x.possible end, {END})"

_WANTED = ENDED.format(table="(select * from entries where ended <= %s)")

OPEN = _UNENDED.format(extra=f"{_HELD_TO} as held_to")

ALL = f"({_WANTED} union all {OPEN}) e"
"""All rows, with the alias ``e`` of conditions, and until when they held their ports.

Its parameter is a time after which nothing ended that is wanted: other partitions are not read.
"""


class Found(NamedTuple):
    """A row, and what it comes from.

    :ivar proxy: number of the proxy.
    :ivar rest: the values that the statement has besides.
    """

    row: Row
    origin: Origin
    proxy: int
    rest: tuple[Any, ...]


def found_of(values: Sequence[Any]) -> Found:
    """Return the row of the values of a statement."""
    (serial, seq, command, attempt, started, relaying, ended, *texts) = values[:21]
    row = Row(serial, seq, None, None, command, attempt, started, relaying, ended, *texts)
    return Found(row, Origin(*values[21:24]), values[24], tuple(values[25:]))


def held_of(found: Found) -> Held:
    """Return how long a translation held its port whose end is not known: see `UNENDED`."""
    certain, possible, since, until, cause, complete_to = found.rest
    started = found.row.started
    if certain is None:
        # At least as long as the record of its worker is complete.
        complete = started if complete_to is None else complete_to
        return Held(max(started, complete), END, Gap(complete + 1, None, NOT_YET))
    return Held(certain, possible, Gap(since, until, cause))
