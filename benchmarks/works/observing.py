"""What it costs to be observed: journal, metrics and watchers, beside none of them."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.load.downloads import Bursts
from benchmarks.load.watchers import watchers
from benchmarks.plan import MIB, Plan, count_text
from benchmarks.works.base import Case, Metric, Running, Work
from benchmarks.works.commands import SMALL, SMALL_NAME, send_commands

WATCHERS = {"natproxy-watched": (1, True), "natproxy-ignored": (50, False)}
"""Number of watchers of a peer, and whether they read."""

BURST = 120
"""Commands of each client in one burst: some 0.4 s, so that the journal is written under load."""

FILL = 1.5
"""Commands before, in relation to those that are measured: in the full benchmark, the ring of
events is full then, so that what it grows by does not belong to the watchers."""


class Observing(Work):
    """Short commands, with journal, metrics and watchers, or without."""

    name = "observing"
    title = "The cost of being observed"
    note = (
        "Short commands as in `commands`. `natproxy` has neither control socket nor journal "
        "nor metrics; the others have all three. A watcher follows every event. The peers run at "
        "the same time and receive bursts of some 0.4 s in turn, so that what else the machine "
        "does affects all alike. The CPU time is that of the proxy's process, the journal's "
        "thread included; the memory is what its resident set grows while the watchers are "
        "connected."
    )
    peers = ("natproxy", "natproxy-observed", *WATCHERS)
    metrics = (
        Metric("cpu_us_per_command", "CPU µs/command", 1),
        Metric("growth_mib", "MiB grown", 2),
    )
    together = True

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Return the one case."""
        return [Case(f"4 KiB files, {count_text(plan.clients, 'client')}")]

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Return the small file."""
        return {SMALL_NAME: (SMALL, True)}

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Measure one peer alone."""
        return send_commands(running, running.plan.clients, running.plan.commands)

    def compare(
        self, running: Sequence[Running]
    ) -> Iterator[tuple[Case, Running, dict[str, float]]]:
        """Send bursts of commands to one peer after the other."""
        plan = running[0].plan
        (case,) = self.cases(plan)
        with ExitStack() as stack:
            loads = [Bursts(each.target, SMALL_NAME, SMALL, plan.clients) for each in running]
            for load in loads:
                load.send(max(1, round(FILL * plan.commands / plan.clients)))
            memory = [each.processes.resident_bytes() for each in running]
            for each in running:
                count, reads = WATCHERS.get(each.peer.name, (0, False))
                if count and each.control is not None:
                    crew = watchers(each.control, count, reads, plan.patience)
                    stack.enter_context(crew)
                    crew.ready()
                    crew.go()
            for load in loads:
                # The buffers of those that do not read are full afterwards.
                load.send(BURST)
            time.sleep(plan.settle)
            before = [each.processes.cpu_seconds() for each in running]
            bursts = max(1, plan.commands // (plan.clients * BURST))
            for number in range(bursts):
                first = number % len(loads)
                for load in loads[first:] + loads[:first]:
                    load.send(BURST)
            time.sleep(plan.settle + 0.3)
            for each, seconds, grown in zip(running, before, memory, strict=True):
                cost = (each.processes.cpu_seconds() - seconds) / (bursts * BURST * plan.clients)
                found = {"cpu_us_per_command": cost * 1e6}
                if each.peer.name in WATCHERS:
                    found["growth_mib"] = (each.processes.resident_bytes() - grown) / MIB
                yield case, each, found


class Table(Work):
    """The table of 10,000 translations, on the control socket."""

    name = "table"
    title = "The table"
    note = (
        "One client of the control socket reads the whole table. A turn is what the reactor "
        "does between two calls of `epoll_wait`, by its own clock; other programs on the machine "
        "prolong it, but not its CPU time."
    )
    peers = ("natproxy-table",)
    metrics = (
        Metric("turn_ms", "longest turn, ms", 1),
        Metric("turn_cpu_ms", "its CPU, ms", 1),
        Metric("seconds", "seconds", 2),
    )

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Return the requests."""
        return [
            Case("10,000 entries", "/v1/table"),
            Case("with a filter", "/v1/table?filter=client+10.0.0.0/24+and+age+%3E+0s"),
        ]

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Return none."""
        return {}

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Read the table."""
        assert running.control is not None
        get(running.control, "/v1/status")
        begun = time.monotonic()
        entries = json.loads(get(running.control, case.value))
        seconds = time.monotonic() - begun
        if len(entries) != 10_000:
            raise BenchmarkError(f"the table has {len(entries)} entries")
        status = json.loads(get(running.control, "/v1/status"))
        return {
            "turn_ms": status["longest_turn"] * 1000,
            "turn_cpu_ms": status["longest_turn_cpu"] * 1000,
            "seconds": seconds,
        }


def get(control: Path, target: str) -> bytes:
    """Return the body of a resource of a control socket."""
    connection = http.client.HTTPConnection("natproxy")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(control))
        connection.request("GET", target)
        return connection.getresponse().read()
    finally:
        connection.close()
