"""Deadlines of many connections, with one timer.

All deadlines of a `Deadlines` have the same length, so the one that was set last is due last:
a dictionary in order of insertion is sufficient. ``TimeoutMixin`` uses a timer for each connection;
for a connection with one command that costs more than parsing the command.

A reload may change the length. The deadlines that were set before it are then in a dictionary of
their own until they are due or cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

CALLBACKS = 256
"""Callbacks in one turn of the reactor: thousands of clients may have connected at once."""


class Expiry(Enum):
    """Why a client was disconnected; the values are those of the label of the metric."""

    FIRST_COMMAND = "first-command"
    LINE = "line"
    IDLE = "idle"
    BODY = "body"
    MIN_RATE = "min-rate"


class Deadlines:
    """Calls back after a time that is the same for all.

    :param clock: schedules the timer.
    :param seconds: seconds from `set` to the callback.
    :ivar seconds: likewise; `change` sets it.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self.seconds = seconds
        self._clock = clock
        self._due: dict[Callable[[], object], float] = {}
        # Those of other lengths; almost always empty.
        self._earlier: list[dict[Callable[[], object], float]] = []
        self._timer: IDelayedCall | None = None
        self._expiring = False

    def set(self, callback: Callable[[], object]) -> None:
        """Call back after the time, counted from now. It replaces an earlier deadline."""
        due = self._due
        due.pop(callback, None)
        if self._earlier:
            self._cancel_earlier(callback)
        due[callback] = self._clock.seconds() + self.seconds
        # While callbacks run, another deadline may be due sooner: `_expire` sets the timer.
        if self._timer is None and not self._expiring:
            self._timer = self._clock.callLater(self.seconds, self._expire)

    def cancel(self, callback: Callable[[], object]) -> None:
        """Cancel the deadline of a callback, if it has one."""
        self._due.pop(callback, None)
        if self._earlier:
            self._cancel_earlier(callback)

    def change(self, seconds: float) -> None:
        """Change the time for the deadlines that are set from now on.

        With 0, none may be set.
        """
        if seconds == self.seconds:
            return
        self.seconds = seconds
        if self._due:
            self._earlier.append(self._due)
            self._due = {}
        if self._timer is not None and 0 < seconds < self._timer.getTime() - self._clock.seconds():
            self._timer.reset(seconds)

    def cancel_timer(self) -> None:
        """Cancel the timer if no deadline is pending."""
        if self._timer is not None and not self._due and not self._earlier:
            self._timer.cancel()
            self._timer = None

    def _cancel_earlier(self, callback: Callable[[], object]) -> None:
        for due in self._earlier:
            due.pop(callback, None)
        self._earlier = [due for due in self._earlier if due]

    def _soonest(self) -> dict[Callable[[], object], float]:
        """Return the dictionary whose first deadline is due first; empty if there is none."""
        if not self._earlier:
            return self._due
        self._earlier = [due for due in self._earlier if due]
        pending = [due for due in (*self._earlier, self._due) if due]
        return min(pending, key=lambda due: next(iter(due.values())), default=self._due)

    def _expire(self) -> None:
        self._timer = None
        self._expiring = True
        now = self._clock.seconds()
        for _ in range(CALLBACKS):
            soonest = self._soonest()
            if not soonest:
                break
            callback, due = next(iter(soonest.items()))
            if due > now:
                break
            del soonest[callback]
            try:
                callback()
            except Exception:
                self._log.failure("a deadline's callback failed")
        self._expiring = False
        soonest = self._soonest()
        if soonest:
            delay = max(0.0, next(iter(soonest.values())) - now)
            if self._earlier and self.seconds:
                # `set` relies on it: no deadline that is set meanwhile is due before the timer.
                delay = min(delay, self.seconds)
            self._timer = self._clock.callLater(delay, self._expire)
