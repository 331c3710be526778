"""``python -m benchmarks.fleet_journal --to URL``: searches among a fleet's rows in PostgreSQL.

Fills an empty database as the shippers of many proxies do, ships segments of its own to it, and
measures `whois` and `history`.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

from benchmarks.journal import START as FIRST
from benchmarks.journal import Times, history_row, make, row, timed
from benchmarks.machine import facts
from natproxy.journal.postgres.connection import connect
from natproxy.journal.postgres.migrate import migrate
from natproxy.journal.postgres.partitions import DAY, day_of, make_partitions
from natproxy.journal.postgres.search import FleetJournal
from natproxy.journal.postgres.shipper import Settings, Shipper
from natproxy.records.queries import HistoryQuery
from natproxy.records.whois import FOUND, NOBODY, WhoisQuery

START = day_of(FIRST) * DAY

LONGEST = 2_000_000
"""Microseconds of the longest translation."""

PORTS = 28_232
"""Ports of each proxy."""

LIMIT = 50.0
"""Milliseconds that a search may take."""

PROXIES = """
with new as (
    insert into proxies (name, host, directory, version, heartbeat, checked, addresses)
    select
        'edge-' || n, 'edge-' || n, '/var/lib/natproxy/edge-' || n, 'benchmark', %(end)s, %(end)s,
        array['10.255.' || n / 250 || '.' || n %% 250]
    from generate_series(1, %(proxies)s) as n returning id, addresses
), added as (
    insert into routes (proxy, nat, upstream, upstream_port)
    select id, addresses[1], '10.254.0.1', 9001 from new
), complete as (
    insert into workers select id, 0, %(end)s from new
), began as (
    insert into gaps
    select id, -4611686018427387904, %(start)s - 1, false, 'the journal does not reach back so far'
    from new
)
insert into runs (proxy, worker, boot) select id, 0, '1f2e3d4c' from new
"""

ROWS = """
insert into entries (
    started, ended, serial, seq, nat_port, client_port, promised, bytes, duration, relaying,
    run, route, client, verb, name, outcome
)
select
    started, started + 5000 + (n * 7919) %% %(longest)s, n, 3 * n, 32768 + n %% %(ports)s,
    20000 + n %% 40000, 4096 + n %% 1000000, 4120 + n %% 1000000,
    5200 + (n * 7919) %% %(longest)s, 150 + n %% 90, r.id, t.id,
    '10.' || n %% 200 / 250 || '.' || n %% 250 || '.7', 'GET',
    'images/2026/item-' || lpad(((n * 104729) %% 3000000)::text, 7, '0') || '.iso', 'completed'
from generate_series(%(first)s::bigint, %(last)s::bigint) as n
cross join runs r join routes t on t.proxy = r.proxy
cross join lateral (select %(start)s + n * %(apart)s + r.id * 997 as started) s
order by n
"""


class Load:
    """The rows of a fleet.

    :param proxies: number of them.
    :param rows: of all of them.
    :param days: in which they began.
    """

    def __init__(self, proxies: int, rows: int, days: int) -> None:
        self.proxies = proxies
        self.each = rows // proxies
        self.days = days
        self.apart = days * DAY // self.each
        self.end = START + days * DAY

    def fill(self, connection: Any) -> float:
        """Write the rows, day by day; return how many a second."""
        make_partitions(connection, range(day_of(START), day_of(self.end) + 2))
        connection.execute(
            PROXIES, {"proxies": self.proxies, "start": START, "end": self.end + DAY}
        )
        begun = time.monotonic()
        for day in range(self.days):
            first, last = day * self.each // self.days, (day + 1) * self.each // self.days
            connection.execute(
                ROWS,
                {
                    "first": first + 1,
                    "last": last,
                    "start": START,
                    "apart": self.apart,
                    "longest": LONGEST,
                    "ports": PORTS,
                },
            )
            print(f"\rday {day + 1} of {self.days}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        seconds = time.monotonic() - begun
        connection.execute("update days set earliest = day * %s - %s", [DAY, 2 * LONGEST])
        connection.execute("analyze")
        return self.each * self.proxies / seconds

    def query(self, chance: random.Random, *, found: bool, nat: bool) -> WhoisQuery:
        """Return a query about a translation, or about a time at which its port is free."""
        n = chance.randrange(1, self.each)
        number = chance.randrange(1, self.proxies + 1)
        started = START + n * self.apart + number * 997
        moment = started + 100 if found else started + LONGEST + 3_000_000
        address = f"10.255.{number // 250}.{number % 250}"
        return WhoisQuery(
            32_768 + n % PORTS, nat=address if nat else None, since=moment, until=moment
        )


def whois_rows(url: str, load: Load, questions: int) -> Iterator[str]:
    """Measure the search for a port."""
    chance = random.Random(13)
    with closing(FleetJournal(url)) as journal:
        for nat in (True, False):
            for found, result in ((True, FOUND), (False, NOBODY)):
                queries = [load.query(chance, found=found, nat=nat) for _ in range(questions)]
                wrong = sum(journal.whois_all([query])[0].result != result for query in queries)
                # Another proxy may have the same port at that time.
                assert not nat or not wrong, (result, wrong)
                times = [timed(lambda: journal.whois_all([query])) for query in queries]  # noqa: B023
                name = "address and port" if nat else f"port of any of {load.proxies} proxies"
                yield row(f"{result}: {name}", times)
        several = [load.query(chance, found=True, nat=True) for _ in range(500)]
        yield row("each of 500 at once", [timed(lambda: journal.whois_all(several)).each(500)])


def history_rows(url: str, load: Load) -> Iterator[str]:
    """Measure the first and the hundredth row of `FleetJournal.history`."""
    middle = START + load.days // 2 * DAY
    for name, query in (
        ("everything", HistoryQuery()),
        ("the newest 100", HistoryQuery(limit=100)),
        ("a client in ten minutes", HistoryQuery("client 10.0.99.7", middle, middle + 600_000_000)),
        ("a client in a day", HistoryQuery("client 10.0.99.7", middle, middle + DAY)),
    ):
        with closing(FleetJournal(url)) as journal:
            yield history_row(name, journal.history(query))


def shipped(url: str, rows: int) -> Times:
    """Ship a sealed and a live segment; return the seconds for each row."""
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), 1, rows)
        shipper = Shipper(Settings(url, once=True), lambda: [name], lambda message: None, Event())
        seconds = timed(shipper.run)
    return seconds.each(2 * rows)


def report(url: str, load: Load, segment: int, questions: int) -> Iterator[str]:
    """Fill the database, measure, and return the lines of the report."""
    with closing(connect(url)) as connection:
        migrate(connection)
        if connection.execute("select 1 from proxies").fetchone() is not None:
            raise SystemExit("the database is not empty")
        inserted = load.fill(connection)
        sizes = connection.execute(
            "select sum(pg_relation_size(i.inhrelid)), sum(pg_indexes_size(i.inhrelid)),"
            " current_setting('server_version'), current_setting('fsync'),"
            " current_setting('shared_buffers')"
            " from pg_inherits i where i.inhparent = 'entries'::regclass"
        ).fetchone()
        assert sizes is not None
    total = load.each * load.proxies
    table, index, version = float(sizes[0]), float(sizes[1]), sizes[2]
    settings = f"fsync {sizes[3]}, shared_buffers {sizes[4]}"
    whois = list(whois_rows(url, load, questions))
    past = list(history_rows(url, load))
    # Last: these rows are of another proxy, which is behind.
    speed = shipped(url, segment)
    yield "# The journal of a fleet in PostgreSQL"
    yield ""
    yield (
        f"{load.proxies} proxies, {total:,} rows in {load.days} days; PostgreSQL on the same"
        f" machine, with {settings}; written by `python -m benchmarks.fleet_journal`."
    )
    yield ""
    yield "| machine |  |"
    yield "| --- | --- |"
    yield from (f"| {name} | {value} |" for name, value in facts().items())
    yield f"| PostgreSQL | {version} |"
    yield f"| load at the end | {os.getloadavg()[0]:.1f} |"
    yield ""
    yield (
        f"A row takes {table / total:.0f} bytes, and {index / total:.0f} in its indexes. The server"
        f" alone writes {inserted:,.0f} rows/s; one shipper writes"
        f" {1 / speed.wall:,.0f} rows/s from segments of {segment:,} rows, with"
        f" {speed.cpu * 1e6:.0f} µs of its CPU for each."
    )
    yield ""
    yield f"## whois: the limit is {LIMIT:.0f} ms"
    yield ""
    yield "| query | number | median ms | p99 ms | worst ms | median CPU ms of the client |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    yield from whois
    yield ""
    yield "## history"
    yield ""
    yield "| query | first row ms | hundredth row ms |"
    yield "| --- | ---: | ---: |"
    yield from past


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", metavar="URL", required=True, help="an empty database")
    parser.add_argument("--proxies", type=int, default=100)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--segment", type=int, default=500_000, help="rows of a shipped segment")
    parser.add_argument("--questions", type=int, default=300, help="searches of each kind")
    parser.add_argument("--output", metavar="FILE", help="(default: standard output)")
    arguments = parser.parse_args()
    load = Load(arguments.proxies, arguments.rows, arguments.days)
    text = "".join(
        f"{line}\n" for line in report(arguments.to, load, arguments.segment, arguments.questions)
    )
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        Path(arguments.output).write_text(text)


if __name__ == "__main__":
    main()
