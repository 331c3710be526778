"""When the upstreams are checked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from natproxy.address import Address
from natproxy.nat import TranslationKey
from natproxy.proxy.upstreams.check import HealthCheck
from natproxy.proxy.upstreams.state import Health, Mode
from natproxy.proxy.upstreams.upstream import Upstream

JITTER = 0.1
"""The part of the interval by which each one is longer or shorter, at random: so the checks of
several proxies, and of several upstreams, do not stay in step."""


class HealthChecks:
    """Checks each upstream at an interval of its own, while it runs.

    :param clock: for the intervals and the time-outs.
    :param chance: returns a random number from 0 to 1.
    :ivar running: whether upstreams are checked.
    :ivar connected: the checks that have a connection now; almost always none.
    """

    def __init__(self, clock: IReactorTime, chance: Callable[[], float] = random.random) -> None:
        self.running = False
        self.connected: set[HealthCheck] = set()
        self._clock = clock
        self._chance = chance
        self._health = Health()
        self._series: dict[Upstream, _Series] = {}

    def use(self, upstreams: Iterable[Upstream], health: Health) -> None:
        """Check these upstreams from now on, and no others; none in the mode of maintenance.

        :param health: with another interval, or another time-out, all are checked at once.
        """
        if health[:2] != self._health[:2]:
            self.stop()
        self._health = health
        self.running = health.interval > 0
        checked = [each for each in upstreams if self.running and each.mode is not Mode.MAINTENANCE]
        for upstream in [*self._series]:
            if upstream not in checked:
                self._series.pop(upstream).stop()
        for upstream in checked:
            if upstream not in self._series:
                make = partial(HealthCheck, upstream, self._clock, health.timeout, self.connected)
                series = _Series(make, self._clock, self._interval)
                self._series[upstream] = series
                series.start()

    def forget(self, upstream: Upstream) -> None:
        """Cancel the check of an upstream: another endpoint has its name from now on."""
        series = self._series.pop(upstream, None)
        if series is not None:
            series.stop()

    def stop(self) -> None:
        """Cancel all checks."""
        self.running = False
        for series in self._series.values():
            series.stop()
        self._series.clear()

    def is_own(self, address: Address) -> bool:
        """Return whether an address is this end of a check's connection."""
        return any(each.ends is not None and each.ends.local == address for each in self.connected)

    def ends(self) -> list[TranslationKey]:
        """Return the ends of the checks' connections that have hosts and ports."""
        return [each.ends for each in self.connected if each.ends is not None]

    def _interval(self) -> float:
        return self._health.interval * (1 + JITTER * (2 * self._chance() - 1))


class _Series:
    """The checks of one upstream: one at a time.

    :param make: returns a check, for what it calls when it has ended.
    :param interval: returns the seconds from the beginning of one check to that of the next.
    """

    def __init__(
        self,
        make: Callable[[Callable[[], object]], HealthCheck],
        clock: IReactorTime,
        interval: Callable[[], float],
    ) -> None:
        self._make = make
        self._clock = clock
        self._interval = interval
        self._timer: IDelayedCall | None = None
        self._check: HealthCheck | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin the first check in the next turn."""
        self._timer = self._clock.callLater(0, self._begin)

    def stop(self) -> None:
        """Cancel the check, or the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _begin(self) -> None:
        self._timer = None
        self._due = self._clock.seconds() + self._interval()
        self._check = check = self._make(self._check_ended)
        check.begin()

    def _check_ended(self) -> None:
        if self._check is None:
            # Its result has stopped the series.
            return
        self._check = None
        delay = max(0.0, self._due - self._clock.seconds())
        self._timer = self._clock.callLater(delay, self._begin)
