"""``python -m benchmarks.sizing``: how many machines so many clients need, from measured costs.

It prints the tables of ``docs/scaling.md``, or with ``--write docs/scaling.md`` replaces them
there: each one is between ``<!-- sizing: NAME -->`` and ``<!-- end -->``. Two parts of it are
simulated with random numbers, from a fixed seed: how long commands wait in front of a worker, and
how unevenly the kernel spreads clients among workers. The rest is arithmetic.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

LOCAL_PORTS = 28_232
"""Local ports for each pair of a local address and an upstream (32768 to 60999)."""

SEED = 13


class Cost(NamedTuple):
    """What one thing takes on one machine.

    :ivar value: in the unit of the text.
    :ivar text: what it is.
    :ivar source: where the figure comes from.
    """

    value: float
    text: str
    source: str


PERFORMANCE = "[performance.md](performance.md)"
FLEET_JOURNAL = "[report](reports/fleet-journal.md)"

COSTS = {
    "proxy_command": Cost(164, "CPU µs of a command in the proxy, all defaults", PERFORMANCE),
    "server_command": Cost(
        90, "CPU µs of a command in the file server, with access log", "4 KiB files, 16 clients"
    ),
    "proxy_byte": Cost(0.63, "CPU s/GB relayed, 16 streams", PERFORMANCE),
    "server_byte": Cost(0.27, "CPU s/GB served from the page cache, 16 streams", PERFORMANCE),
    "workers": Cost(
        1.11, "CPU of a command with several workers / with one", f"2 workers, {PERFORMANCE}"
    ),
    "client": Cost(2.3, "KiB of an idle client in the proxy", PERFORMANCE),
    "daemon": Cost(57, "MiB of a process with control socket and journal", PERFORMANCE),
    "journal_row": Cost(
        147, "bytes of a command in a sealed segment", "[journal report](reports/journal.md)"
    ),
    "database_row": Cost(242, "bytes of a command in PostgreSQL, with its index", FLEET_JOURNAL),
    "database_rows": Cost(
        90_000, "rows/s that PostgreSQL takes by COPY, fsync off, 2 busy cores", FLEET_JOURNAL
    ),
}
"""The tables follow from them."""


class Machine(NamedTuple):
    """A machine of the fleet.

    :ivar cores: each has a worker.
    :ivar network: bytes/s of its interface in each direction.
    """

    cores: int = 16
    network: float = 25e9 / 8


class Load(NamedTuple):
    """What the clients do together.

    :ivar clients: that are connected.
    :ivar rate: commands/s of one client, on average.
    :ivar size: bytes of a reply, on average.
    :ivar line: bytes/s of a client's own line.
    """

    clients: int
    rate: float = 0.1
    size: float = 100e3
    line: float = 20e6 / 8

    @property
    def commands(self) -> float:
        """Commands/s."""
        return self.clients * self.rate

    @property
    def bytes(self) -> float:
        """Bytes/s."""
        return self.commands * self.size

    @property
    def in_flight(self) -> float:
        """Commands at a time, each of which has a port: their rate times their duration."""
        return self.commands * (0.05 + self.size / self.line)


class Fleet(NamedTuple):
    """What a load needs.

    :ivar proxies: machines, with one to spare if there are several; likewise ``servers``.
    :ivar ports: local ports of all proxies for all file servers.
    :ivar memory: bytes of the proxy's processes on one machine.
    :ivar journal: bytes that one proxy keeps.
    :ivar database: bytes that PostgreSQL keeps.
    """

    proxy_cores: float
    proxies: int
    server_cores: float
    servers: int
    in_flight: float
    ports: int
    memory: float
    journal: float
    database: float
    databases: int


BUSY = 0.6
"""The share of a worker's time that is planned: see the table of waiting times."""

KEPT = 90
"""Days that the journals and the database keep."""


def fleet(load: Load, machine: Machine = Machine()) -> Fleet:  # noqa: B008  # immutable
    """Return what a load needs."""
    proxy, server = (
        load.commands * value(f"{kind}_command") * 1e-6 * value("workers")
        + load.bytes / 1e9 * value(f"{kind}_byte")
        for kind in ("proxy", "server")
    )
    # A proxy receives each byte and sends it: each direction of its interface carries it once.
    by_network = load.bytes / (machine.network * BUSY)
    proxies, servers = (
        spare(max(cores / (machine.cores * BUSY), by_network)) for cores in (proxy, server)
    )
    memory = load.clients / proxies * value("client") * 1024
    memory += (machine.cores if proxy > BUSY else 1) * value("daemon") * (1 << 20)
    return Fleet(
        proxy,
        proxies,
        server,
        servers,
        load.in_flight,
        # With one address each: every proxy has so many ports for each file server.
        proxies * servers * LOCAL_PORTS,
        memory,
        load.commands * 86_400 * KEPT * value("journal_row") / proxies,
        load.commands * 86_400 * KEPT * value("database_row"),
        ceil(load.commands / (value("database_rows") * BUSY)),
    )


def spare(machines: float) -> int:
    """Return whole machines; with one to spare if there must be several."""
    return 1 if machines <= 1 else ceil(machines) + 1


def value(name: str) -> float:
    """Return the figure of a cost."""
    return COSTS[name].value


# What is simulated.


def waiting(busy: float, commands: int = 200_000) -> tuple[float, float, float]:
    """Return p50, p99 and p99.9 of the milliseconds from a command's arrival to its end.

    Commands arrive at random at one worker, which executes one at a time; one in ten is behind a
    turn of a bulk relay of 1 MiB.

    :param busy: the share of the worker's time that is used.
    """
    chance = random.Random(SEED)
    short = value("proxy_command") / 1000
    bulk = (1 << 20) / 1e9 * value("proxy_byte") * 1000
    apart = (0.9 * short + 0.1 * (short + bulk)) / busy
    wait = 0.0
    spent = []
    for _ in range(commands):
        service = short + (bulk if chance.random() < 0.1 else 0.0)
        spent.append(wait + service)
        wait = max(0.0, wait + service - chance.expovariate(1 / apart))
    spent.sort()
    return spent[commands // 2], spent[commands * 99 // 100], spent[commands * 999 // 1000]


def unevenness(clients: int, workers: int, rounds: int = 40) -> float:
    """Return how much the busiest worker has, as a multiple of the mean, in 95 % of all cases.

    The kernel assigns each connection to a worker at random. The clients differ: a few have most of
    the commands (Pareto, 80 % of 20 %).
    """
    chance = random.Random(SEED)
    busiest = []
    for _ in range(rounds):
        work = [0.0] * workers
        for _ in range(clients):
            # One client does not have more than the rate limit of a hundred ordinary ones.
            work[chance.randrange(workers)] += min(chance.paretovariate(1.16), 100.0)
        busiest.append(max(work) * workers / sum(work))
    busiest.sort()
    return busiest[round(rounds * 0.95) - 1]


# The tables.


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table; columns of numbers are aligned to the right."""
    yield f"| {' | '.join(heads)} |"
    yield f"| --- | {' | '.join('---:' for _ in heads[1:])} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def costs() -> Iterator[str]:
    """Yield the table of what everything is computed from."""
    yield "| cost | figure | from |"
    yield "| --- | ---: | --- |"
    for cost in COSTS.values():
        yield f"| {cost.text} | {cost.value:,g} | {cost.source} |"


def sizes() -> Iterator[str]:
    """Yield the table from one machine to a million clients."""
    loads = [Load(clients) for clients in (1_000, 10_000, 100_000, 300_000, 1_000_000)]
    found = [(load, fleet(load)) for load in loads]
    lines: list[tuple[str, Callable[[Load, Fleet], str]]] = [
        ("commands/s", lambda load, _: f"{load.commands:,.0f}"),
        ("Gbit/s", lambda load, _: f"{load.bytes * 8 / 1e9:,g}"),
        ("commands in flight", lambda _, one: f"{one.in_flight:,.0f}"),
        ("cores for the proxies", lambda _, one: f"{one.proxy_cores:,.1f}"),
        ("machines with proxies", lambda _, one: f"{one.proxies}"),
        ("cores for the file servers", lambda _, one: f"{one.server_cores:,.1f}"),
        ("machines with file servers", lambda _, one: f"{one.servers}"),
        ("memory of a proxy, MiB", lambda _, one: f"{one.memory / (1 << 20):,.0f}"),
        ("local ports, one address each", lambda _, one: f"{one.ports:,}"),
        (f"journal of a proxy for {KEPT} days, GB", lambda _, one: f"{one.journal / 1e9:,.0f}"),
        (f"PostgreSQL for {KEPT} days, GB", lambda _, one: f"{one.database / 1e9:,.0f}"),
        ("PostgreSQL servers (shards)", lambda _, one: f"{one.databases}"),
    ]
    rows = [[title, *(shown(load, one) for load, one in found)] for title, shown in lines]
    return table(["clients", *(f"{load.clients:,}" for load in loads)], rows)


def ports() -> Iterator[str]:
    """Yield the table of the commands that can be in flight."""
    pairs = [(1, 1), (1, 2), (2, 1), (2, 4), (8, 8)]
    rows = [
        [
            str(upstreams),
            str(sources),
            f"{LOCAL_PORTS * upstreams * sources:,}",
            f"{LOCAL_PORTS * upstreams * sources / 0.1:,.0f}",
        ]
        for upstreams, sources in pairs
    ]
    heads = ["addresses of file servers", "`--source`", "commands in flight", "commands/s of 0.1 s"]
    return table(heads, rows)


def waits() -> Iterator[str]:
    """Yield the table of waiting times."""
    rows = [
        [f"{busy:.0%}", *(f"{milliseconds:.2f}" for milliseconds in waiting(busy))]
        for busy in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
    ]
    return table(["a worker is busy", "p50 ms", "p99 ms", "p99.9 ms"], rows)


def spread() -> Iterator[str]:
    """Yield the table of the busiest worker."""
    rows = [
        [f"{clients:,}", *(f"{unevenness(clients, workers):.2f}" for workers in (2, 4, 16))]
        for clients in (30, 300, 3_000)
    ]
    return table(["clients", "2 workers", "4 workers", "16 workers"], rows)


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "costs": costs,
    "sizes": sizes,
    "ports": ports,
    "waits": waits,
    "spread": spread,
}


def with_tables(page: str) -> str:
    """Return a page with its tables computed anew.

    :raises KeyError: if it names a table that does not exist.
    """

    def replaced(found: re.Match[str]) -> str:
        lines = "\n".join(TABLES[found[2]]())
        return f"{found[1]}{lines}\n{found[3]}"

    pattern = r"(<!-- sizing: (\w+) -->\n).*?(<!-- end -->)"
    return re.sub(pattern, replaced, page, flags=re.DOTALL)


def main() -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument("--write", metavar="PAGE", type=Path, help="replace the tables of a page")
    page = parser.parse_args().write
    if page is not None:
        page.write_text(with_tables(page.read_text()))
        return
    for name, lines in TABLES.items():
        print(f"{name}\n")
        print("\n".join(lines()), end="\n\n")


if __name__ == "__main__":
    main()
