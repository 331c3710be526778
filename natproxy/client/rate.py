"""Transfer rates: the lowest one that counts as progress, and an upper limit."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from natproxy.client.errors import ConnectionBroken, UsageError

MINIMUM_RATE = 1024.0
"""Bytes a second below which a transfer makes no progress."""

RATE_WINDOW = 60.0
"""Seconds over which that rate is measured by default."""

CATCH_UP = 0.5
"""Seconds that a limited transfer may be behind its limit, and catch up afterwards."""


class RateMonitor:
    """Checks that a body is received at `MINIMUM_RATE`; a time-out only detects silence.

    It is for bodies that are held in memory. `natproxy.client.retry.Retrier` checks downloads.

    :param server: its name in messages.
    :param timeout: seconds that silence may last; the rate is measured over at least twice that.
    """

    def __init__(self, server: object, timeout: float) -> None:
        self._server = server
        # The peer may be silent twice in a row.
        self._window = max(RATE_WINDOW, 2 * timeout)
        self._seconds = 0.0
        self._size = 0

    def received(self, size: int, seconds: float) -> None:
        """Count received bytes and the seconds spent waiting for them.

        :raises ConnectionBroken: if the rate over the last window was too low.
        """
        self._seconds += seconds
        self._size += size
        if self._seconds > self._window:
            if self._size < MINIMUM_RATE * self._window:
                raise ConnectionBroken(
                    f"{self._server} sent less than {MINIMUM_RATE:g} bytes a second"
                )
            self._seconds, self._size = 0.0, 0


class RateLimit:
    """Limits the total rate of several transfers. Threads may share it.

    :param rate: bytes a second.
    :param clock: returns seconds, from any origin.
    :raises UsageError: if the rate is not positive and finite.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < rate < math.inf:
            raise UsageError(f"a limit of {rate:g} bytes a second: must be more than 0")
        self.rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock()

    @property
    def chunk_size(self) -> int:
        """Bytes to receive at once, so that the rate is smooth."""
        return max(4096, min(1 << 20, int(self.rate / 10)))

    def take(self, size: int) -> float:
        """Account for received bytes and return the seconds to wait before receiving more."""
        with self._lock:
            now = self._clock()
            # After a wait that lasted too long, the transfer catches up; idle time does not count.
            self._free_at = max(self._free_at, now - CATCH_UP) + size / self.rate
            return max(0.0, self._free_at - now)
