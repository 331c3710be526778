"""Log refused connections: one line in some seconds, however many there are."""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.logger import Logger

REFUSAL_INTERVAL = 10.0
"""Seconds between two lines in the log about refusals of one kind."""


class RefusalLog:
    """Logs the refusals of one kind, and counts those that it leaves out.

    :param seconds: returns the time.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._left_out = 0
        self._logged = -math.inf

    def leave_out(self) -> None:
        """Count a refusal that is not logged."""
        self._left_out += 1

    def warn(self, log: Logger, text: str, **fields: object) -> None:
        """Log a refusal, with the number of those left out before, or leave it out.

        :param text: format of the line.
        """
        now = self._seconds()
        if now - self._logged < REFUSAL_INTERVAL:
            self.leave_out()
            return
        others = f" (and {self._left_out} others before)" if self._left_out else ""
        log.warn(f"{text}{{others}}", others=others, **fields)
        self._left_out = 0
        self._logged = now
