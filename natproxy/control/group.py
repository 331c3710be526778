"""The upstreams of this process, as records, and the events of their health."""

from __future__ import annotations

import time
from collections.abc import Callable

from natproxy.nat.ring import EventRing
from natproxy.proxy.upstreams import Mode, State, Upstream, Upstreams
from natproxy.proxy.upstreams.group import Changed
from natproxy.records.record import microseconds_of
from natproxy.records.upstreams import QueueRecord, UpstreamRecord, UpstreamsRecord

HEALTH_EVENTS = {State.UP: "upstream-up", State.DOWN: "upstream-down"}
"""The event of an upstream that has become healthy, or has ceased to be."""


class LocalUpstreams:
    """The upstreams of one process; a `natproxy.control.interfaces.UpstreamSource`.

    :param wall_clock: returns seconds since the epoch.
    :ivar addresses: returns what is known of the name in an endpoint's string.
    """

    def __init__(self, group: Upstreams, wall_clock: Callable[[], float] = time.time) -> None:
        self.addresses: Callable[[str], tuple[str, ...]] = lambda endpoint: ()
        self._group = group
        self._wall_clock = wall_clock

    def record(self) -> UpstreamsRecord:
        """Return how the upstreams are now."""
        # What the wall clock is ahead of the group's clock.
        offset = self._wall_clock() - self._group.seconds()
        queue = self._group.queue
        return UpstreamsRecord(
            tuple(
                _record_of(each, offset, self.addresses(each.description)) for each in self._group
            ),
            QueueRecord(
                len(queue),
                queue.length,
                round(queue.longest, 6),
                queue.waited,
                queue.full + queue.expired,
            ),
        )

    def set_mode(self, name: str, mode: str) -> None:
        """Set the mode of an upstream.

        :raises KeyError: if there is none with the name.
        """
        if not self._group.set_mode(name, Mode(mode)):
            raise KeyError(name)


def _record_of(upstream: Upstream, offset: float, addresses: tuple[str, ...]) -> UpstreamRecord:
    """Return the record of an upstream.

    :param offset: seconds to add to a time of the group's clock.
    :param addresses: of its host name.
    """
    abilities, checked = upstream.abilities, upstream.last_check
    return UpstreamRecord(
        name=upstream.name,
        endpoint=upstream.description,
        health=upstream.state.value,
        mode=upstream.mode.value,
        since=microseconds_of(upstream.since + offset),
        active=upstream.active,
        limit=upstream.limit or None,
        commands=upstream.commands,
        failures=upstream.failed_commands,
        failures_in_row=upstream.failures,
        checks=upstream.checks,
        failed_checks=upstream.failed_checks,
        last_check=None if checked is None else microseconds_of(checked + offset),
        last_error=upstream.last_error,
        version=None if abilities is None else abilities.version,
        verbs=None
        if abilities is None
        else tuple(sorted(verb.decode("ascii") for verb in abilities.verbs)),
        addresses=addresses,
    )


class HealthEvents:
    """Adds an event to a ring whenever the health of an upstream changes.

    :param wall_clock: returns seconds since the epoch.
    :ivar close: adds them no longer.
    """

    def __init__(
        self, group: Upstreams, ring: EventRing, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._ring = ring
        self._wall_clock = wall_clock
        # Of the upstreams that were not up when they have changed last.
        self._down: set[str] = set()
        self.close = group.subscribe(self._changed)

    def _changed(self, event: Changed) -> None:
        name, down = event.upstream.name, event.state is State.DOWN
        if down is (name in self._down):
            # Its mode has changed: the event of that has the administrator.
            return
        (self._down.add if down else self._down.discard)(name)
        wall = self._wall_clock()
        self._ring.act(HEALTH_EVENTS[event.state], wall, None, None, f"{name}: {event.reason}")
