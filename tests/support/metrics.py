"""Look-ups in families of metrics."""

from __future__ import annotations

from collections.abc import Iterable

from natproxy.metrics.families import Buckets, Family


def values(families: Iterable[Family], name: str) -> dict[tuple[str, ...], float | Buckets]:
    """Return the values of the one family of a name, by the values of its labels."""
    (family,) = [family for family in families if family.name == name]
    found = dict(family.samples)
    assert len(found) == len(family.samples), f"{name}: two samples have the same labels"
    return found


def value(families: Iterable[Family], name: str, *labels: str) -> float:
    """Return one value of a counter or a gauge."""
    found = values(families, name)[labels]
    assert not isinstance(found, Buckets)
    return found


def buckets(families: Iterable[Family], name: str, *labels: str) -> Buckets:
    """Return the state of one histogram."""
    found = values(families, name)[labels]
    assert isinstance(found, Buckets)
    return found
