"""How long to wait: between two tries, and to stay below a rate."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from natproxy.client.errors import CannotConnect, ClientError, GaveUp, Interrupted

FIRST_WAIT = 0.5
"""Seconds between the first two tries, give or take a half; then twice as long each time."""

LONGEST_WAIT = 30.0
"""Seconds between two tries at most, give or take a half."""

LATE = 0.5
"""Seconds that a transfer may be behind its rate and still catch up."""

_Result = TypeVar("_Result")


class Stop:
    """Ends what several threads are doing: each looks at it, and none sleeps through it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End everything, as soon as may be."""
        self._event.set()

    def check(self) -> None:
        """Go on, or don't.

        :raises Interrupted: after `set`.
        """
        if self._event.is_set():
            raise Interrupted("interrupted")

    def sleep(self, seconds: float) -> None:
        """Wait.

        :raises Interrupted: as soon as `set` is called.
        """
        self._event.wait(seconds)
        self.check()


class Backoff:
    """Waits that grow from one failure to the next (exponential, with jitter).

    :param retries: failures in a row that are put up with.
    :param chance: gives a number from 0 to 1.
    """

    def __init__(self, retries: int, chance: Callable[[], float] = random.random) -> None:
        self._retries = retries
        self._chance = chance
        self._failures = 0

    def progressed(self) -> None:
        """The last try was not in vain: begin to count anew."""
        self._failures = 0

    def wait(self, error: ClientError) -> float:
        """Give the seconds until the next try.

        :raises GaveUp: if there is to be none; the error itself if none was ever wanted.
        """
        if not self._retries:
            raise error
        if self._failures == self._retries:
            tries = f"{self._failures + 1} tries"
            raise GaveUp(f"{error} (gave up after {tries})") from error
        # No power of two is needed that no float can hold.
        middle = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(self._failures, 16))
        self._failures += 1
        # A thousand clients of one restarted proxy should not come back at once.
        return middle * (0.5 + self._chance())


class Persistence:
    """Takes a step again and again until it succeeds, or all patience is used up.

    What has never worked is not tried again: a server that can't be connected to from the
    first is more likely misspelt than restarting.

    :param retries: failures in a row that are put up with.
    :param tell: is told what has failed, and when the next try will be.
    :ivar received: bytes; with more of them, failures are counted anew.
    """

    def __init__(self, retries: int, stop: Stop, tell: Callable[[str], object]) -> None:
        self.received = 0
        self._retries = retries
        self._stop = stop
        self._tell = tell
        self._in_touch = False

    def __call__(self, step: Callable[[], _Result]) -> _Result:
        """Take a step and give its result.

        :raises ClientError: as the step does, if trying again is no use; `GaveUp`, if it
            was of none; `Interrupted`.
        """
        backoff = Backoff(self._retries)
        while True:
            self._stop.check()
            received = self.received
            try:
                result = step()
            except ClientError as error:
                self._stop.check()
                # Whatever else goes wrong, goes wrong on a connection.
                self._in_touch = self._in_touch or not isinstance(error, CannotConnect)
                if not error.passing or not self._in_touch:
                    raise
                if self.received > received:
                    backoff.progressed()
                seconds = backoff.wait(error)
                self._tell(f"{error}; trying again in {seconds:.1f} s")
                self._stop.sleep(seconds)
            else:
                self._in_touch = True
                return result


class Limit:
    """Keeps the bytes of all transfers together below a rate.

    :param rate: bytes a second.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        # Several threads take from it.
        self._lock = threading.Lock()
        self._free_at = clock()

    @property
    def piece(self) -> int:
        """Bytes to receive at once, so that the rate is smooth."""
        return max(4096, min(1 << 20, int(self.rate / 10)))

    def take(self, size: int) -> float:
        """Account for bytes received; give the seconds to wait before any more."""
        with self._lock:
            now = self._clock()
            # What was lost by waking up late may be made good; real idleness is not saved up.
            self._free_at = max(self._free_at, now - LATE) + size / self.rate
            return max(0.0, self._free_at - now)
