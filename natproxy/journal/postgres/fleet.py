"""The proxies that are registered in the database, and of which times it has their records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from natproxy.journal.coverage import NOT_YET, OLDEST
from natproxy.journal.spans import Completeness, Span, merged, span
from natproxy.journal.summary import BEGINNING, END
from natproxy.records.record import format_time
from natproxy.records.whois import Gap

if TYPE_CHECKING:
    import psycopg

NAMED = 5
"""Proxies that one text names at most."""


class Proxy(NamedTuple):
    """A proxy as its shipper has registered it. Times are microseconds since the epoch.

    :ivar number: in the database.
    :ivar name: of the daemon.
    :ivar host: where its shipper runs.
    :ivar directory: of its journal there.
    :ivar version: of natproxy there.
    :ivar addresses: of the proxy, to its upstreams.
    :ivar heartbeat: of the shipper.
    :ivar shipped: rows.
    :ivar refused: rows that PostgreSQL refused.
    :ivar retired: whether it is no longer waited for.
    :ivar complete_to: until when the record of each worker has everything, but for the gaps.
    """

    number: int
    name: str
    host: str
    directory: str
    version: str
    addresses: list[str]
    heartbeat: int
    shipped: int
    refused: int
    retired: bool
    complete_to: dict[int, int]

    @property
    def horizon(self) -> int:
        """Until when the record of all workers has everything, but for the gaps."""
        return END if self.retired else min(self.complete_to.values(), default=BEGINNING)

    def json(self) -> dict[str, Any]:
        """Return the object for JSON."""
        complete_to = min(self.complete_to.values(), default=BEGINNING)
        return {
            "proxy": self.name,
            "host": self.host,
            "directory": self.directory,
            "version": self.version,
            "addresses": self.addresses,
            "heartbeat": format_time(self.heartbeat),
            "complete_to": None if complete_to <= BEGINNING else format_time(complete_to),
            "workers": len(self.complete_to),
            "shipped": self.shipped,
            "refused": self.refused,
            "retired": self.retired,
        }


def read_proxies(connection: psycopg.Connection[Any]) -> list[Proxy]:
    """Return the proxies, by their names."""
    complete_to: dict[int, dict[int, int]] = {}
    for proxy, worker, time in connection.execute("select proxy, worker, complete_to from workers"):
        complete_to.setdefault(proxy, {})[worker] = time
    rows = connection.execute(
        "select id, name, host, directory, version, addresses, heartbeat, shipped, refused, retired"
        " from proxies order by name"
    )
    return [Proxy._make((*row, complete_to.get(row[0], {}))) for row in rows]


class ProxyRecord(Completeness):
    """Of which times the record of one proxy is complete, as far as an interval needs it.

    :param gaps: of it, in any order.
    :param doubled: the times that the clock showed twice.
    """

    def __init__(self, proxy: Proxy, gaps: Iterable[Span], doubled: Iterable[Span]) -> None:
        self.proxy = proxy
        found = list(gaps)
        if proxy.horizon < END:
            found.append(span(proxy.horizon + 1, END, NOT_YET))
        self.gaps = sorted(found, key=lambda gap: gap.first)
        self.doubled = merged(sorted(doubled, key=lambda zone: zone[:2]))

    def explain(self, gap: Gap, now: int) -> Gap:
        """Return a gap of the record with the proxy in its cause.

        :param now: microseconds since the epoch.
        """
        return gap._replace(cause=self._cause(gap, now))

    def _cause(self, gap: Gap, now: int) -> str:
        if gap.cause != NOT_YET:
            return f"{self.proxy.name}: {gap.cause}"
        return lag_text(self.proxy, now)


def read_records(
    connection: psycopg.Connection[Any], first: int, last: int
) -> dict[int, ProxyRecord]:
    """Return the record of each proxy, with the gaps that overlap an interval.

    :param first: its first microsecond.
    :param last: its last one.
    """
    gaps: dict[int, list[Span]] = {}
    doubled: dict[int, list[Span]] = {}
    for proxy, begin, end, twice, cause in connection.execute(
        "select proxy, first, last, doubled, cause from gaps where last >= %s and first <= %s",
        [first, last],
    ):
        (doubled if twice else gaps).setdefault(proxy, []).append(span(begin, end, cause))
    row = connection.execute("select max(since) from retention").fetchone()
    assert row is not None
    oldest = [] if row[0] <= BEGINNING else [span(BEGINNING, row[0] - 1, OLDEST)]
    return {
        proxy.number: ProxyRecord(
            proxy, [*gaps.get(proxy.number, ()), *oldest], doubled.get(proxy.number, ())
        )
        for proxy in read_proxies(connection)
    }


def joined(gaps: Sequence[Gap]) -> Gap | None:
    """Return one gap for those of several proxies; ``None`` if there are none."""
    if len(gaps) < 2:
        return next(iter(gaps), None)
    causes = list(dict.fromkeys(gap.cause for gap in gaps))
    text = ", ".join(causes[:NAMED])
    if len(causes) > NAMED:
        text += f", and {len(causes) - NAMED} more"
    since = [gap.since for gap in gaps]
    until = [gap.until for gap in gaps]
    return Gap(
        None if None in since else min(each for each in since if each is not None),
        None if None in until else max(each for each in until if each is not None),
        text,
    )


def lag_text(proxy: Proxy, now: int) -> str:
    """Return how far the record of a proxy is behind, for people.

    :param now: microseconds since the epoch.
    """
    if proxy.horizon <= BEGINNING:
        return f"nothing of {proxy.name} was shipped yet"
    return f"{proxy.name} is {behind(now - proxy.horizon)} behind"


def behind(microseconds: int) -> str:
    """Return a duration for people, in one unit."""
    seconds = max(microseconds, 0) / 1e6
    for unit, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
