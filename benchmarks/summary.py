"""Several rounds summed up: medians, and the least and the most."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from benchmarks.peers import PEERS
from benchmarks.session import Sample
from benchmarks.works import Work


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing.

    :ivar count: of them.
    """

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Sum up one or more numbers."""
        return cls(median(values), min(values), max(values), len(values))

    def text(self, digits: int) -> str:
        """Write the median and, if there is more than one measurement, the least and the most."""
        shown = f"{self.median:,.{digits}f}"
        if self.count == 1:
            return shown
        return f"{shown} ({self.least:,.{digits}f} to {self.most:,.{digits}f})"


@dataclass(frozen=True)
class Row:
    """One peer in one case.

    :ivar peer: its name.
    :ivar spreads: by the metric's key.
    :ivar failures: of the rounds that failed.
    """

    peer: str
    spreads: dict[str, Spread]
    failures: list[str]


def rows(samples: list[Sample], work: Work, case: str) -> list[Row]:
    """Sum up one case: a row for each peer that was tried, in the peers' usual order."""
    found = []
    for name in PEERS:
        mine = [s for s in samples if (s.work, s.case, s.peer) == (work.name, case, name)]
        if not mine:
            continue
        spreads = {}
        for metric in work.metrics:
            values = [s.values[metric.key] for s in mine if metric.key in s.values]
            if values:
                spreads[metric.key] = Spread.of(values)
        found.append(Row(name, spreads, [s.failure for s in mine if s.failure is not None]))
    return found


def cases(samples: list[Sample], work: Work) -> list[str]:
    """Give the titles of a work's cases, in the order in which they were done."""
    return list(dict.fromkeys(sample.case for sample in samples if sample.work == work.name))
