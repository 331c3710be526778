"""The metrics of several workers as those of one daemon.

Counters and histograms are summed, and never go down: what a process has counted last is kept when
it has ended, and is added to what the others count. Of a process that was killed, what it had
counted since the last request is missing. A gauge is summed over the processes that have replied
just now, but for those that describe what all of them share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from natproxy.metrics.families import Buckets, Family, Kind, Sample

LARGEST = (
    "journal_lag_seconds",
    "journal_segments",
    "journal_size_bytes",
    "journal_failed",
    "upstream_ports",
    "upstream_ports_used",
    "upstream_time_wait",
    "queue_wait_seconds",
)
"""Gauges, without the prefix, of which the largest value counts: of a directory, or of the host."""

SMALLEST = (
    "certificate_expiry_seconds",
    "upstream_ports_free",
    "upstream_up",
    "upstream_ready",
)
"""Likewise, the smallest one: an upstream is up if it is for every worker."""

SHARED = frozenset(("bounds", "ports"))
"""Members of which those of one process count: the ports are those of the host."""

NOW = frozenset(
    ("now", "limit", "active", "waiting", "used", "pooled", "busy", "hanging", "queued")
)
"""Members of the counters in ``/v1/status`` that are gauges: those of ended processes count 0."""

Values = dict[tuple[str, ...], "float | Buckets"]


class Report(NamedTuple):
    """What one process has counted.

    :ivar worker: its number.
    :ivar boot: the process.
    :ivar families: for ``/metrics``.
    """

    worker: int
    boot: str
    families: list[Family]


class Totals:
    """The metrics of all processes of a daemon, those that have ended too."""

    def __init__(self) -> None:
        # By what a process is known by: its control socket.
        self._last: dict[str, Report] = {}
        self._ended: dict[str, Values] = {}
        self.starts: dict[int, int] = {}

    def update(self, reports: Mapping[str, Report], present: Iterable[str]) -> None:
        """Take what processes have counted.

        :param reports: by the paths of their control sockets; only those that have replied.
        :param present: the paths of all that there are.
        """
        for path, report in reports.items():
            before = self._last.get(path)
            if before is None or before.boot != report.boot:
                self.starts[report.worker] = self.starts.get(report.worker, 0) + 1
            if before is not None and before.boot != report.boot:
                self._end(before)
            self._last[path] = report
        for path in self._last.keys() - set(present):
            self._end(self._last.pop(path))

    def families(self, replied: Iterable[str]) -> list[Family]:
        """Return the families of the daemon.

        :param replied: the paths of those that have replied just now, whose gauges count.
        """
        now = set(replied)
        found: dict[str, tuple[Family, Values]] = {}
        for path, report in self._last.items():
            for family in report.families:
                if family.kind in (Kind.GAUGE, Kind.INFO) and path not in now:
                    continue
                _, values = found.setdefault(family.name, (family, {}))
                _add(values, family)
        for name, ended in self._ended.items():
            if name in found:
                family, values = found[name]
                _add(values, family._replace(samples=list(ended.items())))
        return [family._replace(samples=list(values.items())) for family, values in found.values()]

    def _end(self, report: Report) -> None:
        for family in report.families:
            if family.kind in (Kind.COUNTER, Kind.HISTOGRAM):
                _add(self._ended.setdefault(family.name, {}), family)


def _add(values: Values, family: Family) -> None:
    """Add the samples of a family to the values of the same family."""
    for labels, value in family.samples:
        known = values.get(labels)
        if known is None or family.kind is Kind.INFO:
            values[labels] = value
        elif isinstance(value, Buckets) and isinstance(known, Buckets):
            values[labels] = _sum_of(known, value)
        elif not isinstance(value, Buckets) and not isinstance(known, Buckets):
            values[labels] = _joined(family, known, value)


def _joined(family: Family, known: float, value: float) -> float:
    if family.kind is Kind.GAUGE:
        if family.name.endswith(LARGEST):
            return max(known, value)
        if family.name.endswith(SMALLEST):
            return min(known, value)
    return known + value


def _sum_of(one: Buckets, other: Buckets) -> Buckets:
    """Return the sum of two histograms with the same bounds; of others, the second one."""
    if list(one.bounds) != list(other.bounds):
        return other
    counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
    return Buckets(one.bounds, counts, one.sum + other.sum)


def families_json(families: Iterable[Family]) -> list[Any]:
    """Return families for JSON."""
    return [
        [
            name,
            kind.value,
            text,
            list(labels),
            [
                [list(values), value.json() if isinstance(value, Buckets) else value]
                for values, value in samples
            ],
        ]
        for name, kind, text, labels, samples in families
    ]


def families_of(found: Any) -> list[Family]:
    """Return the families of what `families_json` has returned.

    :raises ValueError: if it is malformed; also ``TypeError`` and ``KeyError``.
    """
    families = []
    for name, kind, text, labels, samples in found:
        values: list[Sample] = []
        for names, value in samples:
            if isinstance(value, dict):
                value = Buckets(value["bounds"], value["counts"], float(value["sum"]))
            values.append((tuple(map(str, names)), value))
        families.append(Family(str(name), Kind(kind), str(text), tuple(labels), values))
    return families


class Counters:
    """The counters of ``/v1/status``, summed likewise."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, dict[str, Any]]] = {}
        self._ended: dict[str, Any] = {}

    def update(
        self, found: Mapping[str, tuple[str, dict[str, Any]]], present: Iterable[str]
    ) -> None:
        """Take the counters of processes.

        :param found: boot and counters, by the paths of their control sockets.
        :param present: the paths of all processes that there are.
        """
        for path, (boot, counters) in found.items():
            before = self._last.get(path)
            if before is not None and before[0] != boot:
                self._ended = added(self._ended, ended(before[1]))
            self._last[path] = boot, counters
        for path in self._last.keys() - set(present):
            self._ended = added(self._ended, ended(self._last.pop(path)[1]))

    def total(self, replied: Iterable[str]) -> dict[str, Any]:
        """Return the counters of the daemon.

        :param replied: the paths of those that have replied just now, whose gauges count.
        """
        now = set(replied)
        total = self._ended
        for path, (_, counters) in self._last.items():
            total = added(total, counters if path in now else ended(counters))
        return total


def added(one: Any, other: Any) -> Any:
    """Return the sum of two JSON values: of numbers, by the members of objects.

    Lists of numbers as long as each other are summed by their places, other lists are joined; of
    bounds, texts and flags the first one counts.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return {
            name: (
                one[name]
                if name in SHARED and name in one
                else added(one.get(name), other.get(name))
            )
            for name in {**one, **other}
        }
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, list) and isinstance(other, list):
        if len(one) == len(other) and all(_is_number(each) for each in (*one, *other)):
            return [a + b for a, b in zip(one, other, strict=True)]
        return [*one, *other]
    return one + other if _is_number(one) and _is_number(other) else one


def ended(value: Any) -> Any:
    """Return counters without what a process that has ended has no longer."""
    if not isinstance(value, dict):
        return value
    return {
        name: ended(each)
        for name, each in value.items()
        if name not in NOW and (name in ("bounds", "counts") or not isinstance(each, list))
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
