"""What natproxy is to reach, as ratios of medians in one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.session import Findings
from benchmarks.summary import cases, rows
from benchmarks.works import Case


@dataclass(frozen=True)
class Bar:
    """One thing to reach.

    :ivar title: what is compared.
    :ivar value: the ratio, or the number of MiB or milliseconds.
    :ivar limit: that it should not cross.
    :ivar at_least: whether the limit is a least value, and not a most.
    """

    title: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the value is on the right side of the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def limit_text(self) -> str:
        """Write the limit."""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}"


_RATIOS = (
    # Work, number of the case, metric, ours, theirs, limit, at least.
    ("relay", 0, "cpu_s_per_gb", "natproxy", "haproxy-splice", 0.75, False),
    ("relay", 0, "cpu_s_per_gb", "natproxy", "haproxy-splice-always", 0.75, False),
    ("relay", 0, "cpu_s_per_gb", "natproxy", "nginx-stream", 0.35, False),
    ("relay", 0, "cpu_s_per_gb", "natproxy", "splice-floor", 1.4, False),
    ("relay", 0, "gb_per_s", "natproxy", "haproxy-splice", 1.0, True),
    ("relay", 0, "gb_per_s", "natproxy", "haproxy-splice-always", 1.0, True),
    ("relay", 1, "gb_per_s", "natproxy", "haproxy-splice", 1.0, True),
    ("relay", 1, "gb_per_s", "natproxy", "haproxy-splice-always", 1.0, True),
    ("serve", 0, "cpu_s_per_gb", "fileserver", "nginx-http", 1.1, False),
    ("serve", 0, "gb_per_s", "fileserver", "nginx-http", 0.9, True),
    ("serve", 1, "cpu_s_per_gb", "fileserver", "nginx-http", 1.1, False),
    ("serve", 1, "gb_per_s", "fileserver", "nginx-http", 0.9, True),
    ("commands", 0, "cpu_us_per_command", "natproxy", "haproxy-splice", 1.3, False),
    ("idle", 0, "kib_per_client", "natproxy", "haproxy-splice", 1.0, False),
    ("latency", 1, "p99_ms", "natproxy", "haproxy-splice", 1.0, False),
    ("get", 0, "cpu_s_per_gb", "get", "curl", 1.3, False),
    ("get", 0, "cpu_s_per_gb", "get", "wget", 1.3, False),
)


def bars(findings: Findings) -> Iterator[Bar]:
    """Give the bars for which there are numbers."""
    for work, number, metric, ours, theirs, limit, at_least in _RATIOS:
        found = _medians(findings, work, number, metric)
        if ours in found and found.get(theirs):
            title = f"{_title(findings, work, number, metric)}: {ours} / {theirs}"
            yield Bar(title, found[ours] / found[theirs], limit, at_least)
    yield from _growth(findings)
    yield from _observing(findings)
    for metric in ("p99_ms", "kept_p99_ms"):
        for peer, value in _medians(findings, "latency", 2, metric).items():
            yield Bar(f"{_title(findings, 'latency', 2, metric)}: {peer}", value, 50)
    for grown in _medians(findings, "memory", 0, "growth_mib").items():
        if grown[0] == "natproxy":
            yield Bar(f"{_title(findings, 'memory', 0, 'growth_mib')}: natproxy", grown[1], 20)


def _growth(findings: Findings) -> Iterator[Bar]:
    numbers = _cases(findings, "growth")
    if len(numbers) < 3:
        return
    for metric in ("cpu_s_per_gb", "cpu_us_per_command"):
        few = _medians(findings, "growth", 1, metric).get("natproxy")
        many = _medians(findings, "growth", len(numbers) - 1, metric).get("natproxy")
        if few and many is not None:
            clients = f"{numbers[-1].value:,} clients / {numbers[1].value:,} clients"
            yield Bar(f"growth, {metric}: natproxy, {clients}", many / few, 1.5)


def _observing(findings: Findings) -> Iterator[Bar]:
    cost = _medians(findings, "observing", 0, "cpu_us_per_command")
    title = "observing, µs/command"
    bare, observed = cost.get("natproxy"), cost.get("natproxy-observed")
    if bare is not None and observed is not None:
        limit = max(10.0, 0.08 * bare)
        yield Bar(f"{title}: control, metrics and journal", observed - bare, limit)
    if observed is not None and "natproxy-watched" in cost:
        added = cost["natproxy-watched"] - observed
        yield Bar(f"{title}: 1 watcher of everything", added, 35)
    if observed and "natproxy-ignored" in cost:
        ratio = cost["natproxy-ignored"] / observed
        yield Bar("observing, CPU: 50 watchers that do not read / none", ratio, 1.03)
    grown = _medians(findings, "observing", 0, "growth_mib").get("natproxy-ignored")
    if grown is not None:
        yield Bar("observing, MiB: 50 watchers that do not read", grown, 2)
    for number, case in enumerate(_cases(findings, "table")):
        for value in _medians(findings, "table", number, "turn_ms").values():
            yield Bar(f"table, longest turn in ms: {case.title}", value, 10)


def _cases(findings: Findings, work: str) -> list[Case]:
    for each in findings.works:
        if each.name == work:
            done = cases(findings.samples, each)
            return [case for case in each.cases(findings.plan) if case.title in done]
    return []


def _title(findings: Findings, work: str, number: int, metric: str) -> str:
    return f"{work}, {_cases(findings, work)[number].title}, {metric}"


def _medians(findings: Findings, work: str, number: int, metric: str) -> dict[str, float]:
    found = _cases(findings, work)
    if number >= len(found):
        return {}
    for each in findings.works:
        if each.name == work:
            return {
                row.peer: row.spreads[metric].median
                for row in rows(findings.samples, each, found[number].title)
                if metric in row.spreads
            }
    return {}
