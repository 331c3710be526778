"""Rates, latencies, clients and errors of a daemon with workers, for the page.

Each worker sums its own, and the master reads them once a second. A median of all workers is
estimated as the mean of theirs by the number of commands, and the 99th percentile as the largest.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.server import Request

from natproxy.control.json_resource import Context, JSONResource
from natproxy.control.merged.errors import NoReply
from natproxy.control.merged.history import target_of
from natproxy.control.merged.workers import Fleet, Worker
from natproxy.control.parameters import read_worker
from natproxy.records.record import format_time, microseconds_of
from natproxy.web.rates import CLIENTS, ERRORS, SECONDS, SUMS, Rates, Second

PATH = "/v1/rates"

LATE = 2
"""Seconds after which what a worker has not reported of a second is left out of it."""

read_tick = read_worker
"""Returns a whole number from 0."""


class WorkerRates(JSONResource):
    """The rates of a worker, for its master; they are summed from the first request on."""

    path = PATH
    summary = "of a worker, for its master: what its page would show"
    parameters = {"GET": {"after": read_tick, "error": read_tick}}

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._rates: Rates | None = None

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return the seconds after one, and the errors if there are newer ones."""
        if self._rates is None:
            observed, context = self.context.observed, self.context
            assert observed.table is not None
            assert observed.ring is not None
            self._rates = Rates(observed.table, observed.ring, context.reactor, context.wall_clock)
            self._rates.start()
        return self._rates.json(values.get("after", 0), values.get("error", 0))

    def stop(self) -> None:
        """Sum them no longer."""
        if self._rates is not None:
            self._rates.stop()


class _Source:
    """What the master has of one worker.

    :ivar boot: of its process.
    :ivar tick: number of its last second.
    :ivar error: number of the event of its newest error.
    """

    def __init__(self) -> None:
        self.boot = ""
        self.tick = 0
        self.error = 0
        self.clients: list[dict[str, Any]] = []
        self.lost = 0


class MergedRates:
    """The sums of the last `natproxy.web.rates.SECONDS` of all workers.

    :param fleet: the workers.
    :param boot: the run of the daemon.
    :param wall_clock: returns seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self, fleet: Fleet, boot: str, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._fleet = fleet
        self._boot = boot
        self._wall_clock = wall_clock
        self._sources: dict[str, _Source] = {}
        # By the second: what each worker has reported of it.
        self._pending: dict[int, list[dict[str, Any]]] = {}
        self._seconds: deque[Second] = deque(maxlen=SECONDS)
        self._errors: deque[dict[str, Any]] = deque(maxlen=ERRORS)
        self._tick = 0
        self._lost = 0
        self._loop = LoopingCall(self._poll)
        self._loop.clock = fleet.reactor

    def start(self) -> None:
        """Begin to read from the workers."""
        self._loop.start(1.0, now=False)

    def stop(self) -> None:
        """Read no longer."""
        if self._loop.running:
            self._loop.stop()

    def _poll(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.read()).addErrback(
            lambda failure: self._log.failure("cannot read from the workers", failure)
        )

    async def read(self) -> None:
        """Read what is new from all workers."""

        async def call(worker: Worker) -> None:
            source = self._sources.setdefault(worker.path, _Source())
            found = await worker.read(target_of(PATH, after=source.tick, error=source.error))
            try:
                if found["boot"] != source.boot:
                    # Another process: its seconds and events begin anew.
                    self._lost += source.lost
                    self._sources[worker.path] = source = _Source()
                    source.boot = str(found["boot"])
                self._add(source, found)
            except (KeyError, TypeError, ValueError, IndexError):
                raise NoReply("it has sent malformed rates") from None

        await self._fleet.gather(call)
        present = {worker.path for worker in self._fleet}
        for path in self._sources.keys() - present:
            self._lost += self._sources.pop(path).lost
        self._finish()

    def _add(self, source: _Source, found: dict[str, Any]) -> None:
        for values in found["seconds"]:
            second = dict(zip(found["fields"], values, strict=True))
            source.tick = max(source.tick, int(second["tick"]))
            self._pending.setdefault(int(second["time"]) // 1000, []).append(second)
        source.clients = list(found["clients"])
        source.lost = int(found["lost"])
        if found["errors"]:
            newer = [each for each in found["errors"] if (each["seq"] or 0) > source.error]
            source.error = max(source.error, found["errors"][0]["seq"] or 0)
            merged = sorted([*self._errors, *newer], key=lambda each: str(each.get("time")))
            self._errors = deque(merged, maxlen=ERRORS)

    def _finish(self) -> None:
        """Sum the seconds of which nothing more is expected."""
        latest = int(self._wall_clock()) - LATE
        for number in sorted(self._pending):
            if number > latest:
                break
            self._tick += 1
            parts = self._pending.pop(number)
            self._seconds.append(summed(self._tick, number * 1000, parts))

    def json(self, after: int = 0, error: int = 0) -> dict[str, Any]:
        """Return the object for the page; see `Rates.json`."""
        errors = None
        if not self._errors or self._errors[-1]["seq"] != error:
            errors = list(reversed(self._errors))
        return {
            "boot": self._boot,
            "now": format_time(microseconds_of(self._wall_clock())),
            "fields": list(Second._fields),
            "seconds": [list(second) for second in self._seconds if second.tick > after],
            "clients": self._clients(),
            "errors": errors,
            "lost": self._lost + sum(source.lost for source in self._sources.values()),
        }

    def _clients(self) -> list[dict[str, Any]]:
        """Return the clients that a worker has among its first ones, and the rest as one."""
        found: dict[str | None, dict[str, Any]] = {}
        for source in self._sources.values():
            for client in source.clients:
                known = found.setdefault(
                    client["client"], {"client": client["client"], **dict.fromkeys(SUMS, 0)}
                )
                for name in SUMS:
                    known[name] += client[name]
        # The rest is the last one.
        return sorted(found.values(), key=lambda each: each["client"] is None)[:CLIENTS]


def summed(tick: int, moment: int, parts: list[dict[str, Any]]) -> Second:
    """Return the sums of one second from those of the workers.

    :param tick: its number.
    :param moment: milliseconds since the epoch.
    """

    def total(name: str) -> float:
        return float(sum(part[name] for part in parts))

    def mean(name: str) -> float | None:
        weighted = [(part[name], part["commands"] or 1) for part in parts if part[name] is not None]
        weight = sum(each for _, each in weighted)
        return round(sum(value * each for value, each in weighted) / weight, 6) if weight else None

    def most(name: str) -> float | None:
        return max((part[name] for part in parts if part[name] is not None), default=None)

    return Second(
        tick,
        moment,
        round(total("commands"), 2),
        round(total("errors"), 2),
        int(total("bytes")),
        int(total("entries")),
        mean("first_byte"),
        most("first_byte_p99"),
        mean("duration"),
        most("duration_p99"),
    )
