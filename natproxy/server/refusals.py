"""Log refused connections: one line per interval, however many there are."""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.logger import Logger

REFUSAL_INTERVAL = 10.0
"""Seconds between two lines in the log about refusals of one kind."""


class RefusalLog:
    """Logs the refusals of one kind, and counts those that it suppresses.

    :param seconds: returns the time in seconds.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._suppressed = 0
        self._logged = -math.inf

    def suppress(self) -> None:
        """Count a refusal that is not logged."""
        self._suppressed += 1

    def warn(self, log: Logger, text: str, **fields: object) -> None:
        """Log a refusal with the number of those suppressed before, or suppress it.

        :param text: format of the line.
        :param fields: fields of the event.
        """
        now = self._seconds()
        if now - self._logged < REFUSAL_INTERVAL:
            self.suppress()
            return
        others = f" (and {self._suppressed} others before)" if self._suppressed else ""
        log.warn(f"{text}{{others}}", others=others, **fields)
        self._suppressed = 0
        self._logged = now
