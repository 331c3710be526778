"""Wait until a source has sent much: ``SO_RCVLOWAT``, for sources that send fast.

A socket with a low-water mark of many bytes is readable only when it has received so many, or when
the other end has closed the connection. So a body is moved in few large slices. But bytes below
the mark wait, so the mark is never above the rest of the body, and it is lowered to one byte when
it has not been reached for `DELAY`. It is raised again when the source sends as fast as before.
"""

from __future__ import annotations

import socket

from twisted.internet.interfaces import IDelayedCall, IReactorTime

MARK = 512 * 1024
"""Bytes of the low-water mark: about as many as a receiving socket has space for."""

LEAST = 64 * 1024
"""Rest of a body in bytes for which no mark is set: one read of a transport returns so many."""

FAST = 256 * 1024
"""Bytes moved at once that show that a source sends fast."""

DELAY = 0.05
"""Seconds that bytes below the mark wait at most, about."""


class LowWater:
    """The sources of one daemon whose marks are not reached yet, with one timer for all.

    :param clock: for the timer.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._due: dict[Mark, float] = {}
        self._timer: IDelayedCall | None = None

    def of(self, source: socket.socket) -> Mark:
        """Return the mark of a source; it is one byte until `Mark.wait` is called."""
        return Mark(source, self)

    def seconds(self) -> float:
        """Return the clock's time."""
        return self._clock.seconds()

    def set(self, mark: Mark) -> None:
        """Lower a mark after `DELAY`, unless `cancel` is called before."""
        # All delays are of the same length: the first in the dictionary is due first.
        self._due[mark] = self._clock.seconds() + DELAY
        if self._timer is None:
            self._timer = self._clock.callLater(DELAY, self._expire)

    def cancel(self, mark: Mark) -> None:
        """Leave a mark as it is."""
        self._due.pop(mark, None)

    def close(self) -> None:
        """Cancel the timer."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        while self._due:
            mark, due = next(iter(self._due.items()))
            if due > now:
                self._timer = self._clock.callLater(due - now, self._expire)
                return
            del self._due[mark]
            mark.lower()


class Mark:
    """The low-water mark of one source.

    :param source: its socket.
    :param low_water: of the daemon.
    :ivar value: the mark, in bytes.
    """

    __slots__ = ("_begun", "_fast", "_low_water", "_refused", "_since", "_source", "value")

    def __init__(self, source: socket.socket, low_water: LowWater) -> None:
        self._source = source
        self._low_water = low_water
        self._refused = False
        self._fast = True
        self._begun = low_water.seconds()
        self._since = 0
        self.value = 1

    def wait(self, remaining: int) -> None:
        """Set the mark: the relay is going to wait for the source.

        :param remaining: bytes of the body that are still to come.
        """
        self._set(min(MARK, remaining) if self._fast and remaining > LEAST else 1)
        if self.value > 1:
            self._low_water.set(self)

    def reached(self) -> None:
        """End the wait: the source is readable."""
        if self.value > 1:
            self._low_water.cancel(self)

    def moved(self, size: int) -> None:
        """Note bytes that came from the source."""
        self._since += size
        if size >= FAST:
            self._fast = True
        elif self._since >= MARK:
            now = self._low_water.seconds()
            self._fast = now - self._begun <= DELAY
            self._begun, self._since = now, 0

    def lower(self) -> None:
        """Set the mark to one byte, for this wait and those after it: the source sends slowly."""
        self._fast = False
        self._begun, self._since = self._low_water.seconds(), 0
        self._set(1)

    def close(self) -> None:
        """Reset the mark to one byte."""
        self._low_water.cancel(self)
        self._set(1)

    def _set(self, value: int) -> None:
        if value == self.value or self._refused:
            return
        try:
            self._source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, value)
        except OSError:
            # Not every kernel has it; and a socket may be closed.
            self._refused = True
        else:
            self.value = value
