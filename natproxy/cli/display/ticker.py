"""A thread that does the same thing again and again, until it is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ticker:
    """Calls a function at an interval, in a thread of its own.

    :param interval: in seconds.
    :param tick: must not raise.
    """

    def __init__(self, interval: float, tick: Callable[[], object]) -> None:
        self._interval = interval
        self._tick = tick
        self._stopped = threading.Event()
        # A caller that dies without closing must not be kept alive.
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        """Begin; the first call comes after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """Wait until the last call has returned; whether or not it was started."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self._tick()
