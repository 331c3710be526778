"""What a work is, and what it measures with."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load.clients import Target
from benchmarks.load.downloads import Tally, add_up, downloads
from benchmarks.measure import Processes
from benchmarks.peers import Peer
from benchmarks.plan import MIB, Plan


@dataclass(frozen=True)
class Metric:
    """One number that a work gives.

    :ivar key: by which it is stored.
    :ivar title: with the unit.
    :ivar digits: after the point.
    """

    key: str
    title: str
    digits: int = 2


@dataclass(frozen=True)
class Case:
    """One setting of a work.

    :ivar title: what a reader calls it.
    :ivar value: what the work makes of it.
    """

    title: str
    value: Any = None


@dataclass(frozen=True)
class Running:
    """A peer that has been started.

    :ivar peer: itself.
    :ivar target: where its clients go.
    :ivar processes: its own.
    :ivar plan: the amounts.
    :ivar files: the directory that is served.
    :ivar origin: the processes of the file server behind it, if there is one.
    :ivar control: its control socket, if it has one.
    """

    peer: Peer
    target: Target
    processes: Processes
    plan: Plan
    files: Path
    origin: Processes | None = None
    control: Path | None = None


class Work(ABC):
    """Something to measure about each of several peers.

    :cvar name: by which it is asked for on the command line.
    :cvar title: by which it is shown.
    :cvar note: what a reader must know to understand the numbers.
    :cvar peers: names of those that can do it.
    :cvar metrics: that it gives; the first is the one that the chart shows.
    :cvar fresh: whether each case needs a peer that has done nothing before.
    :cvar together: whether its peers run at the same time, and `compare` measures them.
    """

    name: str
    title: str
    note: str
    peers: tuple[str, ...]
    metrics: tuple[Metric, ...]
    fresh = False
    together = False

    @abstractmethod
    def cases(self, plan: Plan) -> Sequence[Case]:
        """Give the settings to measure."""

    @abstractmethod
    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Give the files that are needed: size in bytes, and whether to read them once before."""

    def make_files(self, directory: Path, plan: Plan) -> None:
        """Create the files in an empty directory."""
        for name, (size, read) in self.files(plan).items():
            with (directory / name).open("w+b", buffering=0) as file:
                file.truncate(size)
                if read:
                    buffer = bytearray(min(size, 4 * MIB))
                    while file.readinto(buffer):
                        pass

    def clients(self, plan: Plan) -> int:
        """Give the number of clients that a peer must be able to hold."""
        return 1100

    @abstractmethod
    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Measure one peer; return a number for each metric, none if the case is not for it.

        :raises BenchmarkError: if that fails.
        """

    def compare(
        self, running: Sequence[Running]
    ) -> Iterator[tuple[Case, Running, dict[str, float]]]:
        """Measure peers that run at the same time, if the work is ``together``.

        :raises BenchmarkError: if that fails.
        """
        for each in running:
            for case in self.cases(each.plan):
                yield case, each, self.measure(case, each)


def download(
    running: Running, name: str, size: int, clients: int, times: int
) -> tuple[Tally, float]:
    """Let clients download, and give what they got and the peer's CPU seconds for it."""
    plan = running.plan
    with downloads(running.target, name, size, clients, times, plan.patience) as crew:
        crew.ready()
        time.sleep(plan.settle)
        before = running.processes.cpu_seconds()
        crew.go()
        tally = add_up(crew.results())
        time.sleep(plan.settle)
        return tally, running.processes.cpu_seconds() - before
