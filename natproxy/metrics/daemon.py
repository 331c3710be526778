"""What the metrics of both daemons have in common."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

import twisted
from natproxy import __version__
from natproxy.access import limit_of
from natproxy.metrics.families import (
    Family,
    Histogram,
    Kind,
    Sample,
    counter,
    gauge,
    histogram,
    info,
    labelled,
)
from natproxy.records.record import Origin
from natproxy.relay import Relays
from natproxy.server.admission import TOO_FAST, TOO_MANY, TOO_MANY_OF_HOST
from natproxy.server.factory import CommandFactory

_REFUSALS = {TOO_MANY: "clients", TOO_MANY_OF_HOST: "host", TOO_FAST: "rate"}
"""The labels of refused clients."""

DELAY_INTERVAL = 1.0
"""Seconds between two measurements of the reactor's delay."""

LIMITED_CLIENTS = 10
"""Clients that ``/v1/status`` lists because they were over a limit: the last ones."""

DELAYS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds of the buckets of delays."""


class DaemonMetrics(Service, ABC):
    """The metrics of one daemon. As a service it measures the delay of the reactor.

    :param factory: of the daemon's connections.
    :param relays: of the daemon.
    :param origin: the daemon's name, worker and boot.
    :cvar prefix: of the names.
    :ivar certificate_expiry: returns the time, in seconds since the epoch, at which the first of
        the certificates of the daemon's endpoints expires; ``None`` without TLS.
    :ivar delay: by how much calls were late that the reactor was to make each second.
    :ivar access_lost: returns how many lines of the access log were lost; ``None`` if there is no
        such log.
    """

    prefix: str

    def __init__(self, factory: CommandFactory, relays: Relays, origin: Origin) -> None:
        self.clock = factory.clock
        self.delay = Histogram(DELAYS)
        self.access_lost: Callable[[], int] | None = None
        self._factory = factory
        self._relays = relays
        self._origin = origin
        self._timer: IDelayedCall | None = None
        # What ends the subscriptions of a subclass.
        self._ends: list[Callable[[], object]] = []
        self.certificate_expiry: Callable[[], float | None] = lambda: None

    def startService(self) -> None:
        """Begin to measure."""
        super().startService()
        self._schedule()

    def stopService(self) -> None:
        """End the measurements."""
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Count no longer."""
        while self._ends:
            self._ends.pop()()

    @abstractmethod
    def families(self) -> list[Family]:
        """Return all families, with the figures that `refresh` has read last."""

    @abstractmethod
    def counters(self) -> dict[str, Any]:
        """Return the counters for ``/v1/status``, for JSON."""

    def refresh(self) -> Deferred[object]:
        """Read what is read in threads; the Deferred does not fail."""
        return succeed(None)

    def _schedule(self) -> None:
        due = self.clock.seconds() + DELAY_INTERVAL
        self._timer = self.clock.callLater(DELAY_INTERVAL, self._measure, due)

    def _measure(self, due: float) -> None:
        self.delay.observe(max(0.0, self.clock.seconds() - due))
        self._schedule()

    def _common_families(self) -> list[Family]:
        prefix, factory = self.prefix, self._factory
        admission = factory.admission
        return [
            info(
                f"{prefix}_build",
                "The program and this run of it",
                {
                    "version": __version__,
                    "python": platform.python_version(),
                    "twisted": twisted.__version__,
                    "name": self._origin.proxy,
                    "boot": self._origin.boot,
                },
            ),
            gauge(f"{prefix}_clients", "Clients that are connected", admission.admitted),
            gauge(
                f"{prefix}_clients_limit", "Clients that are admitted at most", admission.clients
            ),
            counter(f"{prefix}_connections", "Connections of clients so far", admission.entered),
            labelled(
                Kind.COUNTER,
                f"{prefix}_clients_refused",
                "Clients refused, by the reason: a limit, a PROXY header, or TLS",
                "reason",
                self._refused(),
            ),
            labelled(
                Kind.COUNTER,
                f"{prefix}_clients_disconnected",
                "Clients disconnected by a time-out, or because they read too slowly",
                "reason",
                {reason.value: count for reason, count in factory.disconnected.items()},
            ),
            labelled(
                Kind.COUNTER,
                f"{prefix}_auth",
                "Commands AUTH so far, by their result",
                "result",
                self._authentications(),
            ),
            labelled(
                Kind.COUNTER,
                f"{prefix}_denied",
                "Commands denied, by the number of the rule, or by what else denies them",
                "rule",
                self._denied(),
            ),
            Family(
                f"{prefix}_limited",
                Kind.COUNTER,
                "Commands refused because they are over a limit",
                ("scope", "limit"),
                _samples(factory.counts.refused),
            ),
            Family(
                f"{prefix}_delayed",
                Kind.COUNTER,
                "Commands delayed because they are over a limit",
                ("scope", "limit"),
                _samples(factory.counts.delayed),
            ),
            gauge(
                f"{prefix}_connections_delayed",
                "Connections whose next command is delayed",
                len(factory.delays),
            ),
            gauge(
                f"{prefix}_connections_waiting",
                "Connections whose commands wait for a later turn of the reactor",
                len(factory.rotation),
            ),
            histogram(
                f"{prefix}_reactor_delay_seconds",
                "By how much calls were late that the reactor was to make each second",
                self.delay,
            ),
            counter(
                f"{prefix}_access_log_lost_lines",
                "Lines of the access log that were lost",
                None if self.access_lost is None else self.access_lost(),
            ),
            *self._relay_families(),
            *self._certificate_families(),
        ]

    def _certificate_families(self) -> list[Family]:
        expiry = self.certificate_expiry()
        if expiry is None:
            return []
        name = f"{self.prefix}_certificate_expiry_seconds"
        return [
            gauge(name, "Time, since the epoch, at which the first certificate expires", expiry)
        ]

    def _refused(self) -> dict[str, float | Any]:
        refused: dict[str, float | Any] = {
            _REFUSALS[message]: count for message, count in self._factory.admission.refusals.items()
        }
        refused["proxy-header"] = self._factory.refused_headers
        refused["tls-handshake"] = self._factory.failed_handshakes
        return refused

    def _authentications(self) -> dict[str, float]:
        results = self._factory.authenticator.results
        return {result.value: count for result, count in results.items()}

    def _denied(self) -> dict[str, float | Any]:
        gate = self._factory.rules
        return {**dict.fromkeys(gate.rules.deciders, 0), **gate.denied}

    def _limits(self) -> dict[str, Any]:
        counts, now = self._factory.counts, self.clock.seconds()
        return {
            "waiting": len(self._factory.delays),
            "delayed": {reason: n for reason, n in counts.delayed.items() if limit_of(reason)},
            "refused": {reason: n for reason, n in counts.refused.items() if limit_of(reason)},
            "clients": [
                {
                    "client": client.host or "unix",
                    "identity": client.identity,
                    "delayed": client.delayed,
                    "refused": client.refused,
                    "limit": client.reason,
                    "age": now - client.at,
                }
                for client in counts.clients()
                if limit_of(client.reason)
            ][:LIMITED_CLIENTS],
        }

    def _relay_families(self) -> list[Family]:
        prefix, tallies = self.prefix, self._relays.tallies
        return [
            labelled(
                Kind.COUNTER,
                f"{prefix}_relays",
                "Bodies that needed a relay, by its kind",
                "kind",
                {kind: tally.begun for kind, tally in tallies.items()},
            ),
            labelled(
                Kind.GAUGE,
                f"{prefix}_relays_active",
                "Bodies that are being relayed, by the kind of the relay",
                "kind",
                {kind: tally.begun - tally.ended for kind, tally in tallies.items()},
            ),
            labelled(
                Kind.COUNTER,
                f"{prefix}_relay_bytes",
                "Bytes that relays have moved so far, by the kind of the relay",
                "kind",
                {kind: tally.sent for kind, tally in tallies.items()},
            ),
        ]

    def _common_counters(self) -> dict[str, Any]:
        admission = self._factory.admission
        return {
            "clients": {
                "now": admission.admitted,
                "limit": admission.clients,
                "total": admission.entered,
                "refused": self._refused(),
            },
            "authentication": self._authentications(),
            "denied": self._denied(),
            "relays": {
                kind: {"total": t.begun, "active": t.begun - t.ended, "bytes": t.sent}
                for kind, t in self._relays.tallies.items()
                if t.begun
            },
            "limits": self._limits(),
            "reactor_delay": self.delay.buckets().json(),
        }


def _samples(counts: Mapping[str, int]) -> list[Sample]:
    """Return the counts of limits with their two labels."""
    found = ((limit_of(reason), count) for reason, count in counts.items())
    return [(labels, count) for labels, count in found if labels is not None]
