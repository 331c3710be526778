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
    :ivar rounds: the values of the rounds, where they can be compared round by round.
    """

    title: str
    value: float
    limit: float
    at_least: bool = False
    rounds: tuple[float, ...] = ()

    @property
    def value_text(self) -> str:
        """Write the value and, of more than one round, the least and the most."""
        if len(self.rounds) < 2:
            return f"{self.value:,.2f}"
        return f"{self.value:,.2f} ({min(self.rounds):,.2f} to {max(self.rounds):,.2f})"

    @property
    def reached(self) -> bool:
        """Whether the value is on the right side of the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def limit_text(self) -> str:
        """Write the limit."""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}"


@dataclass(frozen=True)
class Ratio:
    """A bar that compares two peers.

    :ivar work: name of the work.
    :ivar number: of the case.
    :ivar metric: its key.
    :ivar ours: name of one peer.
    :ivar theirs: name of the other.
    :ivar limit: of ours by theirs.
    :ivar at_least: whether the limit is a least value.
    """

    work: str
    number: int
    metric: str
    ours: str
    theirs: str
    limit: float
    at_least: bool = False


_RATIOS = (
    Ratio("relay", 0, "cpu_s_per_gb", "natproxy", "haproxy-splice", 0.75),
    Ratio("relay", 0, "cpu_s_per_gb", "natproxy", "haproxy-splice-always", 0.65),
    Ratio("relay", 1, "cpu_s_per_gb", "natproxy", "haproxy-splice-always", 0.4),
    Ratio("relay", 0, "cpu_s_per_gb", "natproxy", "nginx-stream", 0.35),
    Ratio("relay", 0, "cpu_s_per_gb", "natproxy", "splice-floor", 1.4),
    Ratio("relay", 0, "gb_per_s", "natproxy", "haproxy-splice", 1.0, at_least=True),
    Ratio("relay", 0, "gb_per_s", "natproxy", "haproxy-splice-always", 1.3, at_least=True),
    Ratio("relay", 1, "gb_per_s", "natproxy", "haproxy-splice", 1.0, at_least=True),
    Ratio("relay", 1, "gb_per_s", "natproxy", "haproxy-splice-always", 2.0, at_least=True),
    Ratio("serve", 0, "cpu_s_per_gb", "fileserver", "nginx-http", 1.1),
    Ratio("serve", 0, "gb_per_s", "fileserver", "nginx-http", 0.9, at_least=True),
    Ratio("serve", 1, "cpu_s_per_gb", "fileserver", "nginx-http", 0.8),
    Ratio("serve", 1, "gb_per_s", "fileserver", "nginx-http", 0.9, at_least=True),
    Ratio("commands", 0, "cpu_us_per_command", "natproxy", "haproxy-splice", 1.25),
    Ratio("commands", 0, "cpu_us_per_command", "natproxy", "haproxy-splice-always", 1.25),
    Ratio("commands", 0, "cpu_us_per_command", "natproxy-log", "haproxy-log", 1.35),
    Ratio("commands", 0, "cpu_us_per_command", "natproxy-limits", "natproxy", 1.05),
    Ratio("commands", 0, "cpu_us_per_command", "natproxy-workers", "natproxy-observed", 1.1),
    Ratio("commands", 0, "cpu_us_per_command", "natproxy-defaults", "haproxy-log", 1.5),
    Ratio("idle", 0, "kib_per_client", "natproxy", "haproxy-splice", 1.0),
    Ratio("latency", 1, "p99_ms", "natproxy", "haproxy-splice", 1.0),
    Ratio("latency", 1, "p99_ms", "natproxy", "haproxy-splice-always", 1.0),
    Ratio("get", 0, "cpu_s_per_gb", "get", "curl", 1.3),
    Ratio("get", 0, "cpu_s_per_gb", "get", "wget", 1.3),
    Ratio("many", 0, "seconds", "sync", "rsync", 1.2),
    Ratio("many", 0, "seconds", "sync", "rclone", 0.7),
    Ratio("many", 1, "seconds", "sync", "rsync", 1.25),
    Ratio("many", 1, "seconds", "sync", "rclone", 0.5),
    Ratio("resync", 0, "seconds", "sync", "rsync", 2.0),
    Ratio("resync", 0, "seconds", "sync", "rclone", 0.4),
)

_MOST = (
    # Work, number of the case, metric, peer, limit.
    ("many", 1, "proxy_us", "sync", 8.0),
    ("many", 1, "server_us", "sync", 30.0),
    ("many", 1, "client_us", "sync", 60.0),
    ("latency", 2, "p99_ms", "natproxy", 50.0),
    ("latency", 2, "p99_ms", "fileserver", 50.0),
    ("latency", 2, "kept_p99_ms", "natproxy", 50.0),
    ("latency", 2, "kept_p99_ms", "fileserver", 50.0),
    ("memory", 0, "growth_mib", "natproxy", 20.0),
)


def bars(findings: Findings) -> Iterator[Bar]:
    """Give the bars for which there are numbers."""
    for ratio in _RATIOS:
        yield from _compared(findings, ratio)
    yield from _far(findings)
    yield from _growth(findings)
    yield from _observing(findings)
    for work, number, metric, peer, most in _MOST:
        value = _medians(findings, work, number, metric).get(peer)
        if value is not None:
            yield Bar(f"{_title(findings, work, number, metric)}: {peer}", value, most)


def _compared(findings: Findings, ratio: Ratio) -> Iterator[Bar]:
    work, metric, ours, theirs = ratio.work, ratio.metric, ratio.ours, ratio.theirs
    found = _medians(findings, work, ratio.number, metric)
    if ours not in found or not found.get(theirs):
        return
    case = _cases(findings, work)[ratio.number].title
    measured: dict[str, dict[int, float]] = {ours: {}, theirs: {}}
    for sample in findings.samples:
        if (sample.work, sample.case) == (work, case) and metric in sample.values:
            measured.get(sample.peer, {})[sample.round] = sample.values[metric]
    rounds = tuple(
        mine / measured[theirs][number]
        for number, mine in measured[ours].items()
        if measured[theirs].get(number)
    )
    title = f"{_title(findings, work, ratio.number, metric)}: {ours} / {theirs}"
    yield Bar(title, found[ours] / found[theirs], ratio.limit, ratio.at_least, rounds)


def _far(findings: Findings) -> Iterator[Bar]:
    for number, case in enumerate(_cases(findings, "far")):
        if case.value.tree is not None:
            yield from _compared(findings, Ratio("far", number, "seconds", "sync", "rsync", 1.2))
            continue
        found = _medians(findings, "far", number, "seconds")
        if "curl" in found and "get-proxied" in found:
            added = found["get-proxied"] - found["curl"]
            yield Bar(f"far, {case.title}, seconds: get-proxied less curl", added, 0.15)


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
