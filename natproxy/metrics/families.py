"""Families of samples, as plain data: `natproxy.metrics.resource` encodes them for Prometheus.

The daemons count without prometheus_client, which is an optional extra: its counters take 50
times as long to increment as an attribute.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0)
"""Upper bounds of the buckets of durations."""


class Kind(enum.Enum):
    """What the samples of a family are."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Buckets(NamedTuple):
    """The state of a `Histogram` at one moment.

    :ivar bounds: the upper bounds of the buckets; the last bucket has none.
    :ivar counts: observations in each bucket, one more than ``bounds``.
    :ivar sum: of all observations.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float

    def json(self) -> dict[str, Any]:
        """Return the object for JSON."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum}


class Histogram:
    """Counts observations by buckets.

    :param bounds: the upper bounds of the buckets, in their order.
    :ivar counts: observations in each bucket; the last one is of those above all bounds.
    :ivar sum: of all observations.
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count an observation."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> Buckets:
        """Return the present state."""
        return Buckets(self._bounds, tuple(self.counts), self.sum)


Sample = tuple[tuple[str, ...], "float | Buckets"]
"""The values of the labels, and the value."""


class Family(NamedTuple):
    """Samples of one name.

    :ivar name: without the suffix ``_total`` that a counter has when it is shown.
    :ivar help: one sentence, without a full stop.
    :ivar labels: names of the labels.
    :ivar samples: none if the value is not known.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    samples: list[Sample]


def gauge(name: str, text: str, value: float | None) -> Family:
    """Return a gauge without labels; without a sample if the value is ``None``."""
    return Family(name, Kind.GAUGE, text, (), [] if value is None else [((), value)])


def counter(name: str, text: str, value: float | None) -> Family:
    """Return a counter without labels; without a sample if the value is ``None``."""
    return Family(name, Kind.COUNTER, text, (), [] if value is None else [((), value)])


def labelled(
    kind: Kind, name: str, text: str, label: str, values: Mapping[str, float | Buckets]
) -> Family:
    """Return a family with one label, by the values of the label."""
    samples: list[Sample] = [((key,), value) for key, value in values.items()]
    return Family(name, kind, text, (label,), samples)


def histogram(name: str, text: str, value: Histogram) -> Family:
    """Return a histogram without labels."""
    return Family(name, Kind.HISTOGRAM, text, (), [((), value.buckets())])


def info(name: str, text: str, labels: Mapping[str, str]) -> Family:
    """Return labels that describe a daemon; their value is 1."""
    return Family(name, Kind.INFO, text, tuple(labels), [(tuple(labels.values()), 1)])
