"""`Watchers`: wakes the watchers of a ring few times a second, however many events there are."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from natproxy.control.encoding import EventLines
from natproxy.nat.ring import EventRing

INTERVAL = 0.02
"""Seconds from an event until the watchers read it, and those after it."""

HEARTBEAT = 15.0
"""Seconds without an event after which watchers are woken all the same."""


class Watchers:
    """The watchers that have read everything, and wait for more.

    Only they cost anything: watchers that are paused wait for nothing.

    :ivar ring: the events.
    :ivar lines: their JSON, shared by all watchers.
    """

    def __init__(self, ring: EventRing, reactor: IReactorTime) -> None:
        self.ring = ring
        self.lines = EventLines(ring)
        self._reactor = reactor
        self._waiting: set[Deferred[object]] = set()
        self._call: IDelayedCall | None = None
        self._heartbeat: IDelayedCall | None = None

    def __len__(self) -> int:
        """Return the number of watchers that wait."""
        return len(self._waiting)

    def wait(self) -> Deferred[object]:
        """Wait for events after those that the ring has now.

        :return: fires soon after the first one, or after `HEARTBEAT`; it can be cancelled.
        """
        deferred: Deferred[object] = Deferred(self._cancel)
        if not self._waiting:
            self.ring.wake(self._woken)
            self._heartbeat = self._reactor.callLater(HEARTBEAT, self._fire)
        self._waiting.add(deferred)
        return deferred

    def _woken(self) -> None:
        """Schedule the reading: this is the path of a command."""
        self._call = self._reactor.callLater(INTERVAL, self._fire)

    def _fire(self) -> None:
        waiting = self._waiting
        self._stop()
        for deferred in waiting:
            deferred.callback(None)

    def _cancel(self, deferred: Deferred[object]) -> None:
        self._waiting.discard(deferred)
        if not self._waiting:
            self._stop()

    def _stop(self) -> None:
        """Wait for nothing, until there is a watcher that does."""
        self._waiting = set()
        self.ring.cancel_wake(self._woken)
        for call in (self._call, self._heartbeat):
            if call is not None and call.active():
                call.cancel()
        self._call = self._heartbeat = None
