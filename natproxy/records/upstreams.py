"""`UpstreamsRecord`: the upstreams of a proxy, with the members that every output has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from natproxy.records.record import format_time, parse_time

UP = "up"
DOWN = "down"

READY = "ready"
DRAIN = "drain"
MAINTENANCE = "maintenance"

MODES = (READY, DRAIN, MAINTENANCE)
"""The modes that an administrator sets, from that with all commands to that with nothing."""


class UpstreamRecord(NamedTuple):
    """One upstream. Its fields have the names and the order of the members in JSON.

    Times are microseconds since the epoch (UTC) here, and ISO 8601 texts in JSON.

    :ivar name: unique among those of the proxy.
    :ivar endpoint: where it is, as configured.
    :ivar health: ``up`` or ``down``.
    :ivar mode: one of `MODES`.
    :ivar since: when the health has changed last, or the daemon was started.
    :ivar active: commands that are sent to it, or wait for its reply, now.
    :ivar limit: commands that it may have at the same time; ``None`` for any number.
    :ivar commands: tries of commands so far.
    :ivar failures: those of them that have failed.
    :ivar failures_in_row: tries that have failed since the last one that did not.
    :ivar checks: health checks so far.
    :ivar failed_checks: those of them that have failed.
    :ivar last_check: when the last one ended; ``None`` if there was none.
    :ivar last_error: the last failure; ``None`` if there was none.
    :ivar version: of its protocol; ``None`` if it is not known.
    :ivar verbs: that it has, by its last check; ``None`` if they are not known.
    :ivar addresses: of its host name, by the last look-up; none for an address.
    :ivar workers: of a daemon with workers, the members of each that may differ.
    """

    name: str
    endpoint: str
    health: str = UP
    mode: str = READY
    since: int | None = None
    active: int = 0
    limit: int | None = None
    commands: int = 0
    failures: int = 0
    failures_in_row: int = 0
    checks: int = 0
    failed_checks: int = 0
    last_check: int | None = None
    last_error: str | None = None
    version: int | None = None
    verbs: tuple[str, ...] | None = None
    addresses: tuple[str, ...] = ()
    workers: tuple[Mapping[str, Any], ...] = ()

    @property
    def takes_commands(self) -> bool:
        """Whether commands are sent to it while there are others like it."""
        return self.health == UP and self.mode == READY

    def json(self) -> dict[str, Any]:
        """Return the object for JSON; it has ``workers`` only if the daemon has."""
        members = self._asdict()
        for member in ("since", "last_check"):
            if members[member] is not None:
                members[member] = format_time(members[member])
        members["verbs"] = None if self.verbs is None else list(self.verbs)
        members["addresses"] = list(self.addresses)
        members["workers"] = list(self.workers)
        if not self.workers:
            del members["workers"]
        return members

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> UpstreamRecord:
        """Return the record of an object that `json` returned; unknown members are ignored.

        :raises ValueError: if it is malformed; also ``TypeError`` and ``KeyError``.
        """
        known = {member: members[member] for member in cls._fields if member in members}
        for member in ("since", "last_check"):
            if known.get(member) is not None:
                known[member] = parse_time(known[member])
        for member in ("verbs", "addresses", "workers"):
            if known.get(member) is not None:
                known[member] = tuple(known[member])
        for member in ("active", "commands", "failures", "failures_in_row", "checks"):
            if type(known.get(member, 0)) is not int:
                raise ValueError(f"{member} is no number")
        if not isinstance(known["name"], str) or not all(
            isinstance(each, Mapping) for each in known.get("workers", ())
        ):
            raise ValueError("an upstream is malformed")
        return cls(**known)


class QueueRecord(NamedTuple):
    """The commands that wait until an upstream has a place.

    :ivar length: how many wait.
    :ivar limit: how many may; ``None`` if that is not known.
    :ivar longest_wait: seconds for which the first of them has waited.
    :ivar waited: commands that have waited so far, and have been sent.
    :ivar refused: commands that were refused: the queue was full, or they had waited too long.
    """

    length: int = 0
    limit: int | None = None
    longest_wait: float = 0.0
    waited: int = 0
    refused: int = 0


class UpstreamsRecord(NamedTuple):
    """All upstreams of a proxy, and the queue before them."""

    upstreams: tuple[UpstreamRecord, ...] = ()
    queue: QueueRecord = QueueRecord()

    def find(self, name: str) -> UpstreamRecord | None:
        """Return the upstream with a name; ``None`` if there is none."""
        return next((each for each in self.upstreams if each.name == name), None)

    @property
    def names(self) -> str:
        """The names, as an error lists them."""
        return ", ".join(each.name for each in self.upstreams) or "none"

    def json(self) -> dict[str, Any]:
        """Return the object for JSON."""
        return {
            "upstreams": [each.json() for each in self.upstreams],
            "queue": self.queue._asdict(),
        }

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> UpstreamsRecord:
        """Return the record of an object that `json` returned; unknown members are ignored.

        :raises ValueError: if it is malformed; also ``TypeError`` and ``KeyError``.
        """
        queue = members["queue"]
        if not isinstance(queue, Mapping):
            raise ValueError("the queue is malformed")
        known = {member: queue[member] for member in QueueRecord._fields if member in queue}
        if not all(isinstance(each, (int, float, type(None))) for each in known.values()):
            raise ValueError("the queue is malformed")
        return cls(tuple(map(UpstreamRecord.from_json, members["upstreams"])), QueueRecord(**known))


OF_WORKER = ("health", "mode", "active", "last_error")
"""Members of an upstream that the merged record has of each worker."""


def merge_upstreams(found: Sequence[tuple[int, UpstreamsRecord]]) -> UpstreamsRecord:
    """Return the upstreams of a daemon from those of its workers, by their numbers.

    An upstream is down if it is for one worker; its mode is that of the most workers. The rest is
    summed, or is that of the worker that has it latest.
    """
    by_name: dict[str, list[tuple[int, UpstreamRecord]]] = {}
    for worker, record in found:
        for each in record.upstreams:
            by_name.setdefault(each.name, []).append((worker, each))
    queues = [record.queue for _, record in found]
    limits = [queue.limit for queue in queues if queue.limit is not None]
    return UpstreamsRecord(
        tuple(map(_merged, by_name.values())),
        QueueRecord(
            sum(queue.length for queue in queues),
            sum(limits) if limits else None,
            max((queue.longest_wait for queue in queues), default=0.0),
            sum(queue.waited for queue in queues),
            sum(queue.refused for queue in queues),
        ),
    )


def _merged(parts: Sequence[tuple[int, UpstreamRecord]]) -> UpstreamRecord:
    """Return one upstream from those of the workers."""
    records = [record for _, record in parts]
    down = [record for record in records if record.health == DOWN]
    decisive = down or records
    modes = [record.mode for record in records]
    # Of two modes that as many have, the stricter one.
    limits = [record.limit for record in records if record.limit is not None]
    latest = max(records, key=lambda record: record.last_check or 0)
    known = next((record for record in records if record.verbs is not None), latest)
    return records[0]._replace(
        health=DOWN if down else UP,
        mode=max(reversed(MODES), key=modes.count),
        since=_latest(record.since for record in decisive),
        active=sum(record.active for record in records),
        limit=sum(limits) if len(limits) == len(records) else None,
        commands=sum(record.commands for record in records),
        failures=sum(record.failures for record in records),
        failures_in_row=max(record.failures_in_row for record in records),
        checks=sum(record.checks for record in records),
        failed_checks=sum(record.failed_checks for record in records),
        last_check=latest.last_check,
        last_error=next((each.last_error for each in decisive if each.last_error), None),
        version=known.version,
        verbs=known.verbs,
        addresses=tuple(dict.fromkeys(one for each in records for one in each.addresses)),
        workers=tuple(
            {"worker": worker, **{name: getattr(record, name) for name in OF_WORKER}}
            for worker, record in parts
        ),
    )


def _latest(times: Iterable[int | None]) -> int | None:
    return max((time for time in times if time is not None), default=None)
