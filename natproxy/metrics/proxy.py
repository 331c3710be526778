"""The metrics of the proxy: a subscriber of its NAT table, and the families that it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.journal.status import JournalStatus
from natproxy.metrics.commands import CommandCounters
from natproxy.metrics.daemon import DaemonMetrics
from natproxy.metrics.families import Family, Histogram, counter, gauge, histogram
from natproxy.metrics.kernel import PortReader
from natproxy.metrics.reconcile import Reconciler
from natproxy.metrics.upstreams import upstream_families
from natproxy.nat import Event, Failed, NATEntry, NATTable, Outcome, TranslationKey
from natproxy.nat.events import total_of
from natproxy.nat.ring import EventRing
from natproxy.proxy.factory import ProxyFactory
from natproxy.records.record import Origin
from natproxy.server.threads import InThread, Threads

MOST_UPSTREAMS = 16
"""Addresses of the upstream that are remembered, for the figures of the kernel."""

RECONCILE_INTERVAL = 60.0
"""Seconds between two comparisons of the table with the sockets."""

_SAMPLE = 100
"""Entries of the table whose upstreams are added to them at a time."""


BATCH = 64
"""Commands that are counted at once, at the latest.

In the path of a command only the entry is kept. To count many, one after the other, takes a third
of the time that it takes between two commands, when neither code nor data are in the CPU's cache.
"""


class ShownJournal(Protocol):
    """The part of a journal that the metrics use."""

    def status(self) -> JournalStatus:
        """Return how the journal is now."""
        ...


@dataclass(frozen=True)
class Recorders:
    """What records the events of the proxy.

    :ivar ring: the last events; ``None`` if there is no ring.
    :ivar journal: ``None`` if there is no journal.
    """

    ring: EventRing | None = None
    journal: ShownJournal | None = None


class ProxyMetrics(DaemonMetrics):
    """The metrics of a proxy; it subscribes at once.

    :param factory: the proxy.
    :param origin: the daemon's name, worker and boot.
    :param recorders: may be replaced later, as an attribute.
    :param in_thread: where the kernel's lists are read; by default, one thread of its own.
    :ivar commands: counters by verb.
    :ivar reconciler: compares the table with the sockets, each minute while the service runs.
    :ivar connect: time from the start of a command to its upstream connection, in seconds.
    """

    prefix = "natproxy"

    def __init__(
        self,
        factory: ProxyFactory,
        origin: Origin,
        recorders: Recorders | None = None,
        in_thread: InThread | None = None,
    ) -> None:
        relays = factory.resources.relays
        super().__init__(factory, relays, origin)
        self.recorders = recorders or Recorders()
        self.commands = CommandCounters()
        self.connect = Histogram()
        self._upstreams: set[Address] = set()
        self._last_key: TranslationKey | None = None
        self.in_thread = in_thread or Threads(self.clock, 1, "metrics")
        self._table = factory.table
        self._pool = relays.pool
        self._group = factory.resources.upstreams
        self._retries = factory.resources.retries
        self._ports = PortReader(self.upstreams, self.in_thread, self.clock.seconds)
        self.reconciler = Reconciler(
            factory.table,
            self.upstreams,
            self.in_thread,
            self.clock,
            without_entry=factory.resources.upstreams.checks.ends,
        )
        self._checks: LoopingCall = LoopingCall(self.reconciler.compare)
        self._checks.clock = self.clock
        # Entries that were removed, and when, in seconds of the table's clock.
        self._ended: list[tuple[NATEntry, float]] = []
        self._ends += self._count_commands(factory.table)

    def startService(self) -> None:
        """Begin to measure, and to compare the table with the sockets."""
        super().startService()
        self._checks.start(RECONCILE_INTERVAL, now=False)

    def stopService(self) -> None:
        """End the measurements."""
        super().stopService()
        if self._checks.running:
            self._checks.stop()

    def refresh(self) -> Deferred[object]:
        """Read the kernel's figures of ports, unless they were read a moment ago."""
        return cast("Deferred[object]", self._ports.figures())

    def _count_commands(self, table: NATTable) -> tuple[Callable[[], None], ...]:
        """Subscribe; return what ends the subscriptions."""
        ended = self._ended
        append = ended.append

        def removed(entry: NATEntry, wall: float, now: float) -> None:
            append((entry, now))
            if len(ended) == BATCH:
                self._count_ended()

        def failed(event: Event) -> None:
            assert type(event) is Failed
            if event.outcome is Outcome.RETRIED:
                return
            counters = self.commands.by_verb.get(event.command.verb, self.commands.other)
            counters.count(event.outcome, total_of(event), event.monotonic - event.started_at)

        return (
            table.count(removed),
            table.subscribe(failed, (Failed,)),
        )

    def _count_ended(self) -> None:
        """Count the commands that have ended since the last call."""
        counters_of, other = self.commands.by_verb.get, self.commands.other
        connect, retried = self.connect.observe, Outcome.RETRIED
        for entry, now in self._ended:
            started, relaying, outcome = entry.started_at, entry.relaying_at, entry.outcome
            self._last_key = entry.key
            counters = counters_of(entry.command[0], other)
            earlier = entry.earlier
            if outcome is not None and outcome is not retried:
                counters.count(outcome, entry.total, now - started)
            if earlier is None:
                connect(entry.registered_at - started)
            if relaying is not None and (earlier is None or not earlier.bytes):
                counters.first_byte.observe(relaying - started)
        self._ended.clear()

    def upstreams(self) -> frozenset[Address]:
        """Return the addresses of the upstream that commands were sent to; no UNIX sockets.

        They are taken from some commands only: a set that grows with each would cost more.
        """
        self._count_ended()
        keys = [entry.key for entry in islice(self._table, _SAMPLE)]
        if self._last_key is not None:
            keys.append(self._last_key)
        for _, upstream in keys:
            if upstream.port < FIRST_STAND_IN_PORT and len(self._upstreams) < MOST_UPSTREAMS:
                self._upstreams.add(upstream)
        return frozenset(self._upstreams)

    def reconcile(self) -> Deferred[dict[str, Any]]:
        """Compare the table with the sockets; return the members of ``/v1/reconcile``."""
        return self.reconciler.compare().addCallback(lambda found: found.json())

    def families(self) -> list[Family]:
        """Return all families."""
        self._count_ended()
        prefix, pool = self.prefix, self._pool
        return [
            *self._common_families(),
            *self.commands.families(prefix, first_byte=True),
            histogram(
                f"{prefix}_connect_seconds",
                "Time from the start of a command to its upstream connection",
                self.connect,
            ),
            gauge(f"{prefix}_table_entries", "Translations that exist now", len(self._table)),
            *self._ports.last.families(prefix),
            *upstream_families(prefix, self._group),
            gauge(f"{prefix}_pipes_used", "Pipes that hold bytes of bodies", pool.lent),
            gauge(f"{prefix}_pipes_pooled", "Empty pipes that are kept", pool.kept),
            counter(
                f"{prefix}_pipes_refused",
                "Pieces of bodies that were copied because there was no pipe for them",
                pool.refused,
            ),
            *self._retry_families(),
            gauge(
                f"{prefix}_reconcile_defects",
                "Entries without a socket and sockets without an entry, in the last comparison",
                None if self.reconciler.last is None else self.reconciler.last.differences,
            ),
            *self._ring_families(),
            *self._journal_families(),
        ]

    def counters(self) -> dict[str, Any]:
        """Return the counters for ``/v1/status``; the figures of ports may be seconds old."""
        self.refresh()
        self._count_ended()
        pool = self._pool
        return {
            **self._common_counters(),
            "commands": self.commands.json(),
            "connect": self.connect.buckets().json(),
            "ports": self._ports.last.json(),
            "pipes": {"used": pool.lent, "pooled": pool.kept, "refused": pool.refused},
            "retries": {**self._retries.json(), "waiting": len(self._table.waiting)},
        }

    def _retry_families(self) -> list[Family]:
        prefix, retries = self.prefix, self._retries
        return [
            counter(
                f"{prefix}_retries",
                "Further attempts of commands of which no reply had been received",
                retries.retried,
            ),
            counter(
                f"{prefix}_interruptions",
                "Bodies whose upstream has failed, and whose rest was requested",
                retries.interrupted,
            ),
            counter(
                f"{prefix}_resumes",
                "Bodies that were continued on another upstream connection",
                retries.resumed,
            ),
            counter(
                f"{prefix}_resumed_bytes",
                "Bytes of bodies that were passed on after an interruption",
                retries.resumed_bytes,
            ),
        ]

    def _ring_families(self) -> list[Family]:
        prefix, ring = self.prefix, self.recorders.ring
        return [
            counter(
                f"{prefix}_events",
                "Events of the NAT table since the start, of which the ring has the last ones",
                None if ring is None else ring.next - 1,
            ),
            gauge(
                f"{prefix}_ring_events",
                "Events that the ring holds",
                None if ring is None else ring.next - ring.first,
            ),
            gauge(
                f"{prefix}_watchers",
                "Clients that follow the events",
                None if ring is None else ring.watchers,
            ),
        ]

    def _journal_families(self) -> list[Family]:
        prefix, journal = self.prefix, self.recorders.journal
        status = None if journal is None else journal.status()
        return [
            gauge(
                f"{prefix}_journal_lag_seconds",
                "Age of the oldest event that is not in the journal yet",
                status and status.lag,
            ),
            counter(
                f"{prefix}_journal_rows",
                "Rows written to the journal since the start",
                status and status.rows,
            ),
            counter(
                f"{prefix}_journal_gaps",
                "Gaps that the journal has marked since the start",
                status and status.gaps,
            ),
            gauge(
                f"{prefix}_journal_segments",
                "Segments of the journal",
                status and status.segments,
            ),
            gauge(f"{prefix}_journal_size_bytes", "Size of the journal", status and status.bytes),
            gauge(
                f"{prefix}_journal_failed",
                "1 while the journal cannot be written, else 0",
                status and float(status.error is not None),
            ),
        ]
