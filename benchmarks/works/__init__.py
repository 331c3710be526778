"""What is measured, one module for each kind of work."""

from __future__ import annotations

from benchmarks.works.base import Case, Metric, Work
from benchmarks.works.bulk import Relay, Serve
from benchmarks.works.commands import Commands
from benchmarks.works.far import Far
from benchmarks.works.get import Get
from benchmarks.works.growth import Growth
from benchmarks.works.held import Idle, Memory
from benchmarks.works.latency import Latency
from benchmarks.works.many import Many, Resync
from benchmarks.works.observing import Observing, Table

WORKS: dict[str, Work] = {
    work.name: work
    for work in (
        Relay(),
        Serve(),
        Commands(),
        Observing(),
        Table(),
        Idle(),
        Latency(),
        Growth(),
        Memory(),
        Get(),
        Many(),
        Resync(),
        Far(),
    )
}
"""Every work by its name, in the order in which they are done."""

__all__ = ["WORKS", "Case", "Metric", "Work"]
