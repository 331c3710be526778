"""How long a short command takes: alone, beside bulk downloads, and beside flooders."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import quantiles

from benchmarks.load.crew import Crew
from benchmarks.load.downloads import downloads
from benchmarks.load.flooders import flooders
from benchmarks.load.probes import probes
from benchmarks.plan import Plan, count_text
from benchmarks.works.base import Case, Metric, Running, Work
from benchmarks.works.commands import SMALL, SMALL_NAME

_BULK = "bulk"
_FLOOD = "flood"
_FLOODED = ("natproxy", "fileserver")
_FOR_EVER = 1_000_000


class Latency(Work):
    """Time to the first byte of the reply to a short command."""

    name = "latency"
    title = "Time to first byte of a short command"
    note = (
        "One client sends one command for 4 KiB after another, 1 ms apart. For every peer "
        "the time runs from before the connect to the first byte; `kept` is the same without "
        "the connect, for clients that keep their connection to natproxy. A flooder writes short "
        "commands or blank lines without a pause, and reads the replies; only natproxy's own "
        "daemons are measured beside those."
    )
    peers = (
        "natproxy",
        "natproxy-copy",
        "haproxy-splice",
        "haproxy-splice-always",
        "nginx-stream",
        "portforward",
        "fileserver",
    )
    metrics = (
        Metric("p99_ms", "p99 ms", 2),
        Metric("p50_ms", "p50 ms", 2),
        Metric("kept_p99_ms", "kept, p99 ms", 2),
        Metric("kept_p50_ms", "kept, p50 ms", 2),
    )

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Return the three cases."""
        return [
            Case("alone"),
            Case(f"beside {count_text(plan.bulk_beside, 'bulk download')}", _BULK),
            Case(f"beside {count_text(plan.flooders, 'flooder')}", _FLOOD),
        ]

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Give the small file and the large one."""
        return {SMALL_NAME: (SMALL, True), _BULK: (plan.bulk[0].size, True)}

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Time commands; the other load goes on until that is done."""
        plan = running.plan
        if case.value == _FLOOD and running.peer.name not in _FLOODED:
            return {}
        with ExitStack() as stack:
            if case.value:
                load = self._load(case, running)
                stack.enter_context(load)
                load.ready()
                load.go()
                time.sleep(5 * plan.settle)
            found = self._times(running, keeps=False, prefix="")
            if running.target.keeps:
                found |= self._times(running, keeps=True, prefix="kept_")
        return found

    @staticmethod
    def _load(case: Case, running: Running) -> Crew:
        plan = running.plan
        if case.value == _FLOOD:
            return flooders(running.target.port, plan.flooders, plan.patience, plan.patience)
        size, streams = plan.bulk[0].size, plan.bulk_beside
        return downloads(running.target, _BULK, size, streams, _FOR_EVER, plan.patience)

    @staticmethod
    def _times(running: Running, *, keeps: bool, prefix: str) -> dict[str, float]:
        plan = running.plan
        target = replace(running.target, keeps=keeps)
        with probes(target, SMALL_NAME, SMALL, plan.probes, plan.patience) as crew:
            crew.ready()
            crew.go()
            seconds = crew.results()[0]
        percentiles = quantiles(seconds, n=100, method="inclusive")
        return {f"{prefix}p50_ms": percentiles[49] * 1e3, f"{prefix}p99_ms": percentiles[98] * 1e3}
