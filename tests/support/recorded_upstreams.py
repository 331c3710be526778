"""Records of upstreams, and what has them in place of a proxy."""

from __future__ import annotations

from natproxy.records.upstreams import DOWN, QueueRecord, UpstreamRecord, UpstreamsRecord

SINCE = 1_700_000_000_000_000
"""2023-11-14T22:13:20Z."""


def two(**members: object) -> UpstreamsRecord:
    """Return two upstreams, of which the second one is down.

    :param members: of the first one, in place of those of the example.
    """
    first = UpstreamRecord(
        "files-a",
        "tcp:10.0.0.9:9001",
        since=SINCE,
        active=3,
        commands=1204,
        failures=2,
        checks=30,
        last_check=SINCE + 60_000_000,
        version=2,
        verbs=("GET", "LS"),
    )
    second = UpstreamRecord(
        "files-b",
        "tcp:files-b.example:9001",
        health=DOWN,
        since=SINCE + 5_000_000,
        commands=812,
        failures=4,
        failures_in_row=3,
        checks=30,
        failed_checks=3,
        last_check=SINCE + 61_000_000,
        last_error="connection refused",
        addresses=("10.0.0.10",),
    )
    return UpstreamsRecord((first._replace(**members), second), QueueRecord(0, 100))


class RecordedUpstreams:
    """The upstreams of a process; see `natproxy.control.interfaces.UpstreamSource`.

    :ivar now: what `record` returns.
    :ivar set: the modes that were set.
    """

    def __init__(self) -> None:
        self.now = two()
        self.set: list[tuple[str, str]] = []

    def record(self) -> UpstreamsRecord:
        return self.now

    def set_mode(self, name: str, mode: str) -> None:
        self.set.append((name, mode))
        changed = (
            each._replace(mode=mode) if each.name == name else each for each in self.now.upstreams
        )
        self.now = self.now._replace(upstreams=tuple(changed))
