"""Deadlines of many connections, kept by one timer.

They all get the same time, so the one that was set last is due last: a dictionary in
order of insertion is the whole wheel. ``TimeoutMixin`` has a timer for each, which costs
a connection that lives for one command more than the command's parsing does.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger


class Deadlines:
    """Calls back when a time has passed that is the same for all.

    :param clock: whose timer is used.
    :param seconds: from `set` to the call.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self.seconds = seconds
        self._clock = clock
        self._due: dict[Callable[[], object], float] = {}
        self._timer: IDelayedCall | None = None
        self._ringing = False

    def set(self, callback: Callable[[], object]) -> None:
        """Call back after the time, counted from now; an earlier deadline is replaced."""
        self._due.pop(callback, None)
        self._due[callback] = self._clock.seconds() + self.seconds
        # While callbacks run, another deadline may be due sooner: `_ring` sets the timer.
        if self._timer is None and not self._ringing:
            self._timer = self._clock.callLater(self.seconds, self._ring)

    def cancel(self, callback: Callable[[], object]) -> None:
        """Do not call back."""
        self._due.pop(callback, None)

    def rest(self) -> None:
        """Cancel the timer if no deadline is pending."""
        if self._timer is not None and not self._due:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._ringing = True
        now = self._clock.seconds()
        while self._due:
            callback, due = next(iter(self._due.items()))
            if due > now:
                break
            del self._due[callback]
            try:
                callback()
            except Exception:
                self._log.failure("a deadline's callback failed")
        self._ringing = False
        if self._due:
            due = next(iter(self._due.values()))
            self._timer = self._clock.callLater(due - now, self._ring)
