"""Which client of a fleet was behind a port at a time.

Each proxy has a result of its own, by the rules of `natproxy.journal.whois`; `_joined` has those
for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from natproxy.journal.coverage import Held
from natproxy.journal.postgres.fleet import ProxyRecord, joined, read_records
from natproxy.journal.postgres.partitions import DAY
from natproxy.journal.postgres.rows import ENDED, UNENDED, found_of, held_of
from natproxy.journal.summary import BEGINNING, END
from natproxy.journal.whois import SMALL_STEP, WITH_LAST, Candidate, Search, bounds_of, decide
from natproxy.records.record import Record
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, Gap, WhoisQuery, WhoisReply

if TYPE_CHECKING:
    import psycopg

NO_PROXY = Gap(None, None, "no proxy is registered in the database")

BACK = 3 * DAY
"""Microseconds before an interval in which the last translation of a port is searched."""

# A port is held by one translation of a route at a time: so the entries of a port and a route are
# in the order of their ends and of their starts, but for what a small step of the clock changes.
# The first one that starts after the interval is the end of the search, unless the proxy's clock
# was set by more.
_HOLDERS = ENDED.format(table="""(
    select e.* from unnest(%(routes)s::int[], %(steady)s::bool[]) as wanted (route, steady)
    left join lateral (
        select e.ended from entries e
        where wanted.steady and e.nat_port = %(port)s and e.route = wanted.route
            and e.ended >= %(lower)s and e.ended <= %(end)s and e.started > %(upper)s
        order by e.ended limit 1
    ) later on true
    cross join lateral (
        select * from entries e
        where e.nat_port = %(port)s and e.route = wanted.route
            and e.ended >= %(lower)s and e.ended <= %(end)s
            and e.ended <= coalesce(later.ended + %(step)s, %(end)s) and e.started <= %(upper)s
    ) e
)""")  # fmt: skip

_OPEN = f"{UNENDED} where x.nat_port = %(port)s and x.started <= %(upper)s"

_LAST = ENDED.format(table="""(
    select e.* from unnest(%(routes)s::int[]) as wanted (route)
    cross join lateral (
        select * from entries e
        where e.nat_port = %(port)s and e.route = wanted.route
            and e.ended < %(first)s and e.ended >= %(oldest)s and e.client <> 'erased'
        order by e.ended desc limit 1
    ) e
    order by e.ended desc limit 1
)""")  # fmt: skip


class Fleet(NamedTuple):
    """What all searches of one call need.

    :ivar records: of each proxy.
    :ivar routes: number, proxy and ends of each.
    :ivar unsteady: the proxies whose clock was set.
    :ivar days: each day with a partition, and the earliest start of what ended in it.
    """

    records: dict[int, ProxyRecord]
    routes: list[tuple[Any, ...]]
    unsteady: frozenset[int]
    days: list[tuple[int, int]]

    @classmethod
    def read(cls, connection: psycopg.Connection[Any], searches: list[Search]) -> Fleet:
        """Return what some searches need."""
        return cls(
            read_records(
                connection,
                min(search.first for search in searches),
                max(search.last for search in searches),
            ),
            connection.execute(
                "select id, proxy, nat, upstream, upstream_port from routes"
            ).fetchall(),
            frozenset(
                proxy
                for (proxy,) in connection.execute("select distinct proxy from gaps where doubled")
            ),
            connection.execute("select day, earliest from days").fetchall(),
        )

    def matching(self, search: Search) -> tuple[list[int], list[bool]]:
        """Return the routes with the ends of a search, and whether the clock of each was steady."""
        found = [
            (number, proxy not in self.unsteady)
            for number, proxy, *ends in self.routes
            if search.ends.match(*ends)
        ]
        return [number for number, _ in found], [steady for _, steady in found]

    def latest_end(self, upper: int) -> int:
        """Return a time after which nothing ended that started before another one.

        The partitions of later days are not read.
        """
        days = [day for day, earliest in self.days if earliest <= upper]
        return (max(days) + 1) * DAY - 1 if days else BEGINNING


def whois(
    connection: psycopg.Connection[Any], queries: Sequence[WhoisQuery], now: int
) -> list[WhoisReply]:
    """Return a `WhoisReply` for each `WhoisQuery`, in their order.

    :param connection: in a transaction in which nothing changes.
    :param now: microseconds since the epoch.
    """
    searches = [Search.of(query, now) for query in queries]
    if not searches:
        return []
    fleet = Fleet.read(connection, searches)
    if not fleet.records:
        return [WhoisReply(UNKNOWN, gap=NO_PROXY) for _ in searches]
    with_last = len(searches) <= WITH_LAST
    return [_whois(connection, fleet, search, now, with_last) for search in searches]


def _whois(
    connection: psycopg.Connection[Any], fleet: Fleet, search: Search, now: int, with_last: bool
) -> WhoisReply:
    routes, steady = fleet.matching(search)
    candidates = _candidates(connection, fleet, routes, steady, search)
    replies = [
        (record, candidates.get(number, []), decide(search, candidates.get(number, []), record))
        for number, record in fleet.records.items()
        if number in candidates or _is_doubtful(record, search)
    ]
    reply = _joined(search, replies, now)
    if reply.result == NOBODY and with_last:
        reply = reply._replace(last=_last(connection, routes, search))
    return reply


def _is_doubtful(record: ProxyRecord, search: Search) -> bool:
    return bool(record.gap(search.first, search.last) or record.twice(search.first, search.last))


def _candidates(
    connection: psycopg.Connection[Any],
    fleet: Fleet,
    routes: list[int],
    steady: list[bool],
    search: Search,
) -> dict[int, list[Candidate]]:
    """Return the entries that may have held their ports in the interval, by proxy."""
    bounds = [bounds_of(search, record) for record in fleet.records.values()]
    lower = min(lower for lower, _ in bounds)
    upper = max(upper for _, upper in bounds)
    parameters = {
        "routes": routes,
        "steady": steady,
        "port": search.port,
        "lower": lower,
        "upper": upper,
        "step": 2 * SMALL_STEP,
        "end": fleet.latest_end(upper),
    }
    found: dict[int, list[Candidate]] = {}
    # Planned each time: a plan for all times reads all partitions.
    for values in connection.execute(_HOLDERS, parameters, prepare=False):
        entry = found_of(values)
        ended = entry.row.ended
        assert ended is not None
        found.setdefault(entry.proxy, []).append(
            Candidate(entry.row, entry.origin, Held(ended, ended, None))
        )
    for values in connection.execute(_OPEN, parameters):
        entry = found_of(values)
        if search.selects(entry.row):
            found.setdefault(entry.proxy, []).append(
                Candidate(entry.row, entry.origin, held_of(entry))
            )
    return found


def _joined(
    search: Search, replies: list[tuple[ProxyRecord, list[Candidate], WhoisReply]], now: int
) -> WhoisReply:
    """Return the reply for all proxies.

    A translation is found where one proxy has it. That no client held the port is known only if it
    is of all proxies.
    """
    found = [each for _, _, each in replies if each.result == FOUND]
    unknown = [each for each in replies if each[2].result == UNKNOWN]
    gap = joined(
        [record.explain(each.gap, now) for record, _, each in replies if each.gap is not None]
    )
    if found:
        records = _by_distance(search, [record for each in found for record in each.translations])
        nearer = _nearer(search, records[0])
        if nearer is not None:
            doubts = [
                (record, decide(nearer, candidates, record)) for record, candidates, _ in unknown
            ]
            gaps = [
                record.explain(each.gap, now)
                for record, each in doubts
                if each.result == UNKNOWN and each.gap is not None
            ]
            if gaps:
                possible = [record for _, _, each in unknown for record in each.translations]
                return WhoisReply(
                    UNKNOWN, tuple(_by_distance(search, [*records, *possible])), joined(gaps)
                )
        return WhoisReply(FOUND, tuple(records), gap)
    if unknown:
        possible = [record for _, _, each in unknown for record in each.translations]
        return WhoisReply(UNKNOWN, tuple(_by_distance(search, possible)), gap)
    return WhoisReply(NOBODY)


def _nearer(search: Search, record: Record) -> Search | None:
    """Return the search for what is nearer to the middle of the interval than a record.

    :return: ``None`` if nothing is.
    """
    middle = (search.first + search.last) // 2
    distance = _distance(middle, record)
    if distance <= 0:
        return None
    first, last = middle - distance + 1, middle + distance - 1
    return search._replace(first=max(first, search.first), last=min(last, search.last))


def _by_distance(search: Search, records: list[Record]) -> list[Record]:
    """Return records, the nearest to the middle of the interval first; see `decide`."""
    middle = (search.first + search.last) // 2
    return sorted(records, key=lambda record: _distance(middle, record))


def _distance(middle: int, record: Record) -> int:
    start = record.started or 0
    end = END if record.ended is None else record.ended
    return max(start - middle, middle - end, 0)


def _last(connection: psycopg.Connection[Any], routes: list[int], search: Search) -> Record | None:
    """Return the last translation of the port before the interval, if it is not old."""
    values = connection.execute(
        _LAST,
        {
            "routes": routes,
            "port": search.port,
            "first": search.first,
            "oldest": search.first - BACK,
        },
        prepare=False,
    ).fetchone()
    if values is None:
        return None
    entry = found_of(values)
    return entry.row.record(entry.origin)
