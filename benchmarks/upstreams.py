"""``python -m benchmarks.upstreams``: the CPU of a command with one upstream, and with two.

A file server listens on two ports. Proxies in front of one of them, and of both with health checks,
get bursts of commands in turn, so that whatever else the machine does meets all of them. It prints
the medians of all rounds, their spread, and the ratio of each round. It is one process behind both
ports, because two would reply in parallel: the proxy would then have fewer replies in each turn of
its reactor, which costs more whatever chooses the upstream.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.load.clients import Target
from benchmarks.load.downloads import add_up, downloads
from benchmarks.measure import Processes
from benchmarks.processes import HOST, Daemon, free_port

NAME, SIZE = "small", 4096

SETTLE = 0.1
"""Seconds before and after a burst."""

PATIENCE = 120.0

TWIST = (sys.executable, "-m", "twisted", "--log-level=error")


class Arrangement(NamedTuple):
    """A proxy that is measured.

    :ivar label: in the report.
    :ivar upstreams: file servers behind it.
    :ivar options: of the proxy.
    """

    label: str
    upstreams: int
    options: tuple[str, ...] = ()


ARRANGEMENTS = (
    Arrangement("one upstream", 1),
    Arrangement("two upstreams, health checks", 2),
    Arrangement("two upstreams, no health checks", 2, ("--health-interval=0",)),
)


def start_file_server(directory: Path, ports: Sequence[int], log: Path) -> Daemon:
    """Return a file server that runs."""
    options = (
        *(f"--listen=tcp:{port}:interface={HOST}:backlog=4096" for port in ports),
        f"--files={directory}",
        "--control=none",
    )
    return Daemon([*TWIST, "fileserver", *options], ports[-1], log)


def start_proxy(arrangement: Arrangement, servers: Sequence[int], port: int, log: Path) -> Daemon:
    """Return a proxy that runs."""
    options = (
        f"--listen=tcp:{port}:interface={HOST}:backlog=4096",
        *(f"--upstream=tcp:{HOST}:{one}" for one in servers[: arrangement.upstreams]),
        *("--control=none", "--journal=none", "--max-clients-per-host=0"),
        *arrangement.options,
    )
    return Daemon([*TWIST, "natproxy", *options], port, log)


def cost_of(proxy: Daemon, processes: Processes, clients: int, commands: int) -> float:
    """Return the CPU seconds of one command, of a burst."""
    target = Target(proxy.port, "line", True)
    with downloads(target, NAME, SIZE, clients, max(1, commands // clients), PATIENCE) as crew:
        crew.ready()
        time.sleep(SETTLE)
        before = processes.cpu_seconds()
        crew.go()
        tally = add_up(crew.results())
        time.sleep(SETTLE)
        return (processes.cpu_seconds() - before) / tally.replies


def ports_from(first: int | None) -> Callable[[], int]:
    """Return what returns a port at each call: from a number up, or any that is free."""
    if first is None:
        return free_port
    numbers = iter(range(first, 65_536))
    return lambda: next(numbers)


def measure(
    rounds: int, clients: int, commands: int, next_port: Callable[[], int]
) -> list[list[float]]:
    """Return the cost of a command for each arrangement, in each round."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = place / "files"
        files.mkdir()
        (files / NAME).write_bytes(bytes(SIZE))
        proxies = []
        servers = [next_port(), next_port()]
        server = start_file_server(files, servers, place / "server.log")
        stack.callback(server.stop)
        server.wait_until_ready()
        for number, arrangement in enumerate(ARRANGEMENTS):
            proxy = start_proxy(arrangement, servers, next_port(), place / f"proxy{number}.log")
            stack.callback(proxy.stop)
            proxies.append((proxy, Processes(proxy.pid)))
            proxy.wait_until_ready()
        results: list[list[float]] = [[] for _ in ARRANGEMENTS]
        for number in range(-1, rounds):
            # The order changes, and the first round only warms up.
            for index in sorted(range(len(proxies)), key=lambda i: (i + number) % len(proxies)):
                cost = cost_of(*proxies[index], clients, commands)
                if number >= 0:
                    results[index].append(cost)
        return results


def report(results: Sequence[Sequence[float]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| proxy | CPU µs/command: median | least to most | to one upstream: median | spread |"
    yield "| --- | ---: | --- | ---: | --- |"
    for arrangement, costs in zip(ARRANGEMENTS, results, strict=True):
        ratios = [cost / one for cost, one in zip(costs, results[0], strict=True)]
        yield (
            f"| {arrangement.label} | {median(costs) * 1e6:.1f}"
            f" | {min(costs) * 1e6:.1f} to {max(costs) * 1e6:.1f}"
            f" | {median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |"
        )


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upstreams", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--commands", type=int, default=20_000, help="of one burst")
    parser.add_argument("--port", type=int, help="first of five ports (any that are free)")
    options = parser.parse_args()
    results = measure(options.rounds, options.clients, options.commands, ports_from(options.port))
    print(*report(results), sep="\n")


if __name__ == "__main__":
    main()
