"""The metrics of the upstreams of a proxy, and of the queue before them."""

from __future__ import annotations

from collections.abc import Callable

from natproxy.metrics.families import Family, Kind, Sample, counter, gauge
from natproxy.proxy.upstreams import Mode, State, Upstream, Upstreams

LABEL = ("upstream",)

OF_EACH: tuple[tuple[str, Kind, str, Callable[[Upstream], float]], ...] = (
    (
        "up",
        Kind.GAUGE,
        "1 if the upstream is up, 0 if it is down",
        lambda each: float(each.state is State.UP),
    ),
    (
        "ready",
        Kind.GAUGE,
        "1 if the upstream takes commands, 0 if an administrator has taken it out",
        lambda each: float(each.mode is Mode.READY),
    ),
    ("active", Kind.GAUGE, "Commands that the upstream executes", lambda each: each.active),
    (
        "commands",
        Kind.COUNTER,
        "Tries of commands that were sent to the upstream",
        lambda each: each.commands,
    ),
    (
        "failures",
        Kind.COUNTER,
        "Tries that the upstream has failed to execute",
        lambda each: each.failed_commands,
    ),
    ("checks", Kind.COUNTER, "Health checks of the upstream", lambda each: each.checks),
    (
        "failed_checks",
        Kind.COUNTER,
        "Health checks that the upstream has failed",
        lambda each: each.failed_checks,
    ),
)
"""Names, kinds, helps and values of the families with a sample for each upstream."""


def upstream_families(prefix: str, upstreams: Upstreams) -> list[Family]:
    """Return the families of upstreams; their names in the settings are the values of the label."""
    queue = upstreams.queue
    families = []
    for name, kind, text, value in OF_EACH:
        samples: list[Sample] = [((each.name,), value(each)) for each in upstreams]
        families.append(Family(f"{prefix}_upstream_{name}", kind, text, LABEL, samples))
    return [
        *families,
        gauge(f"{prefix}_queue_commands", "Commands that wait for an upstream", len(queue)),
        gauge(
            f"{prefix}_queue_wait_seconds",
            "Time for which the first of them has waited",
            queue.longest,
        ),
        counter(
            f"{prefix}_queue_waited", "Commands that have waited for an upstream", queue.waited
        ),
        counter(
            f"{prefix}_queue_refused",
            "Commands refused because too many waited, or because they had waited too long",
            queue.full + queue.expired,
        ),
    ]
