"""Deadlines of many connections, with one timer.

All deadlines of a `Deadlines` have the same length, so the one that was set last is due last:
a dictionary in order of insertion is sufficient. ``TimeoutMixin`` uses a timer for each
connection; for a connection with one command that costs more than parsing the command.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

CALLBACKS = 256
"""Callbacks in one turn of the reactor: thousands of clients may have connected at once."""


class Deadlines:
    """Calls back after a time that is the same for all.

    :param clock: schedules the timer.
    :param seconds: seconds from `set` to the callback.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self.seconds = seconds
        self._clock = clock
        self._due: dict[Callable[[], object], float] = {}
        self._timer: IDelayedCall | None = None
        self._expiring = False

    def set(self, callback: Callable[[], object]) -> None:
        """Call back after the time, counted from now. It replaces an earlier deadline."""
        due = self._due
        due.pop(callback, None)
        due[callback] = self._clock.seconds() + self.seconds
        # While callbacks run, another deadline may be due sooner: `_expire` sets the timer.
        if self._timer is None and not self._expiring:
            self._timer = self._clock.callLater(self.seconds, self._expire)

    def cancel(self, callback: Callable[[], object]) -> None:
        """Cancel the deadline of a callback, if it has one."""
        self._due.pop(callback, None)

    def cancel_timer(self) -> None:
        """Cancel the timer if no deadline is pending."""
        if self._timer is not None and not self._due:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        self._expiring = True
        now = self._clock.seconds()
        for _ in range(CALLBACKS):
            if not self._due:
                break
            callback, due = next(iter(self._due.items()))
            if due > now:
                break
            del self._due[callback]
            try:
                callback()
            except Exception:
                self._log.failure("a deadline's callback failed")
        self._expiring = False
        if self._due:
            due = next(iter(self._due.values()))
            self._timer = self._clock.callLater(max(0.0, due - now), self._expire)
