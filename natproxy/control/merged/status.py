"""The status of a daemon with workers, and what its processes have counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from natproxy.control.merged.errors import Missing, NoReply
from natproxy.control.merged.workers import Fleet, Gathered
from natproxy.metrics.families import Family, Kind, Sample
from natproxy.metrics.merged import Counters, Report, Totals, families_of
from natproxy.records.upstreams import UpstreamsRecord, merge_upstreams

FAMILIES = "/v1/families"
STATUS = "/v1/status"

INTERVAL = 5.0
"""Seconds between two requests of what the workers have counted."""

SHOWN = (
    "worker",
    "pid",
    "boot",
    "started",
    "uptime",
    "draining",
    "clients",
    "table",
    "ring",
    "control",
)
"""Members of a worker's status that are those of one process."""

LATEST = ("lag",)
"""Members of the status of a journal of which the largest value counts."""


class Tally(Service):
    """What all processes of a daemon have counted, those that have ended too.

    While it runs, it reads from the workers at intervals: of one that is killed, only what it has
    counted since then is missing.

    :param fleet: the workers.
    :param prefix: of the names of the metrics.
    :param own: returns the members of ``/v1/status`` that are the master's.
    """

    _log = Logger()

    def __init__(self, fleet: Fleet, prefix: str, own: Callable[[], dict[str, Any]]) -> None:
        self._fleet = fleet
        self._prefix = prefix
        self._own = own
        self._totals = Totals()
        self._counters = Counters()
        self._loop = LoopingCall(self._poll)
        self._loop.clock = fleet.reactor

    def startService(self) -> None:
        """Begin to read from the workers."""
        super().startService()
        self._loop.start(INTERVAL, now=False)

    def stopService(self) -> None:
        """Read no longer."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def _poll(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.families()).addErrback(
            lambda failure: self._log.failure("cannot read from the workers", failure)
        )

    async def families(self) -> list[Family]:
        """Return the families of the daemon, as of now."""
        gathered = await self._fleet.objects(FAMILIES)
        reports: dict[str, Report] = {}
        counters: dict[str, tuple[str, dict[str, Any]]] = {}
        for worker, found in gathered.results:
            try:
                boot = str(found["boot"])
                reports[worker.path] = Report(worker.number, boot, families_of(found["families"]))
                counters[worker.path] = boot, _counters_of(found)
            except (ValueError, TypeError, KeyError) as error:
                # Another version of the program, after an update: its counts are left out.
                self._log.warn(
                    "worker {number} has sent metrics that are not understood: {error!r}",
                    number=worker.number,
                    error=error,
                )
        present = [worker.path for worker in self._fleet]
        self._totals.update(reports, present)
        self._counters.update(counters, present)
        return [
            *map(self._described, self._totals.families(reports)),
            *self._worker_families(gathered, reports),
        ]

    def _described(self, family: Family) -> Family:
        """Return a family; what describes the processes is one sample with the daemon's boot."""
        if family.kind is not Kind.INFO or "boot" not in family.labels:
            return family
        place = family.labels.index("boot")
        boot = str(self._own().get("boot"))
        values, value = family.samples[0]
        sample: Sample = ((*values[:place], boot, *values[place + 1 :]), value)
        return family._replace(samples=[sample])

    def _worker_families(
        self, gathered: Gathered[dict[str, Any]], reports: Mapping[str, Report]
    ) -> list[Family]:
        prefix = f"{self._prefix}_worker"
        up: dict[str, float] = {str(one.worker): 0.0 for one in gathered.missing}
        up.update({str(worker.number): 1.0 for worker, _ in gathered.results})
        gauges: list[Sample] = [((number,), value) for number, value in sorted(up.items())]
        starts: list[Sample] = [
            ((str(number),), count) for number, count in sorted(self._totals.starts.items())
        ]
        return [
            Family(f"{prefix}_up", Kind.GAUGE, "1 if the worker replies", ("worker",), gauges),
            Family(
                f"{prefix}_starts",
                Kind.COUNTER,
                "Processes that the worker has had since the daemon was started",
                ("worker",),
                starts,
            ),
            *(
                Family(f"{prefix}_{name}", Kind.GAUGE, text, ("worker",), samples)
                for name, text, source in (
                    ("clients", "Clients of the worker", "clients"),
                    ("table_entries", "Translations of the worker", "table_entries"),
                    ("upstreams_up", "Upstreams that are up for the worker", "upstream_up"),
                )
                if (samples := self._of_each(source, reports))
            ),
        ]

    def _of_each(self, name: str, reports: Mapping[str, Report]) -> list[Sample]:
        """Return the value of a gauge of each worker."""
        found: dict[str, float] = {}
        for report in reports.values():
            for family in report.families:
                if family.name == f"{self._prefix}_{name}":
                    for _, value in family.samples:
                        if isinstance(value, (int, float)):
                            number = str(report.worker)
                            found[number] = found.get(number, 0) + value
        return [((number,), value) for number, value in sorted(found.items())]

    async def status(self) -> dict[str, Any]:
        """Return the members of ``/v1/status``."""
        gathered = await self._fleet.objects(STATUS)
        found = {
            worker.path: (str(status.get("boot")), _counters_of(status))
            for worker, status in gathered.results
        }
        self._counters.update(found, [worker.path for worker in self._fleet])
        return merged_status(
            self._own(), gathered.values, self._counters.total(found), gathered.missing
        )


def _counters_of(status: Mapping[str, Any]) -> dict[str, Any]:
    return {name: status[name] for name in ("commands", "counters") if status.get(name)}


def merged_status(
    own: Mapping[str, Any],
    found: list[dict[str, Any]],
    counters: Mapping[str, Any],
    missing: list[Missing],
) -> dict[str, Any]:
    """Return the status of a daemon.

    :param own: the members that are the master's.
    :param found: the status of each worker that has replied.
    :param counters: those of the daemon.
    :param missing: the other workers.
    """
    members = {
        **own,
        "clients": sum(status.get("clients") or 0 for status in found),
        "commands": counters.get("commands"),
        "counters": counters.get("counters"),
    }
    if any("table" in status for status in found):
        members["table"] = sum(status.get("table") or 0 for status in found)
        members["upstream"] = next((status.get("upstream") for status in found), None)
        members["upstreams"] = _upstreams(found)
        positions = [status["position"] for status in found if status.get("position")]
        members["position"] = ",".join(positions) or None
        members["journal"] = merged_journal([status.get("journal") for status in found])
    access = [status["access_log"] for status in found if status.get("access_log")]
    members["access_log"] = _access_log(access)
    members["workers"] = [
        {name: status[name] for name in SHOWN if name in status} for status in found
    ]
    members["missing"] = [one.json() for one in missing]
    return members


def _upstreams(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the upstreams of a daemon; ``None`` if no worker has sent them."""
    records = []
    for status in found:
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            # Another version of the program, after an update, may have none.
            records.append((int(status["worker"]), UpstreamsRecord.from_json(status["upstreams"])))
    return merge_upstreams(records).json() if records else None


def merged_journal(found: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return how the journal of all workers is: complete until the time of the last of them."""
    journals = [each for each in found if each is not None]
    if not journals:
        return None
    return {
        "directory": journals[0].get("directory"),
        # Times of this format are ordered as texts are.
        "complete_to": min(str(each.get("complete_to")) for each in journals),
        "lag": max(each.get("lag") or 0 for each in journals),
        "rows": sum(each.get("rows") or 0 for each in journals),
        "gaps": sum(each.get("gaps") or 0 for each in journals),
        "segments": max(each.get("segments") or 0 for each in journals),
        "bytes": max(each.get("bytes") or 0 for each in journals),
        "error": next((each["error"] for each in journals if each.get("error")), None),
    }


def _access_log(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not found:
        return None
    error = next((each["error"] for each in found if each.get("error")), None)
    return {**found[0], "lost": sum(each.get("lost") or 0 for each in found), "error": error}


async def reason_not_ready(fleet: Fleet) -> str | None:
    """Return why a daemon is not ready: none of its workers is; ``None`` if one is."""
    gathered = await fleet.objects("/readyz")
    if gathered.results:
        return None
    if not gathered.missing:
        return "no worker runs"
    return "; ".join(map(str, gathered.missing))


def refuse_without_reply(gathered: Gathered[Any]) -> None:
    """Check that a worker has replied.

    :raises NoReply: if none has.
    """
    if not gathered.results:
        raise NoReply("; ".join(map(str, gathered.missing)) or "no worker runs")
