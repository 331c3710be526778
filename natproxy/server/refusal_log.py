"""Lines in the log about clients that are refused, at a limited rate: a flood must not fill it."""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.logger import Logger

from natproxy.access import host_of
from natproxy.address import Address
from natproxy.counts import counted

REFUSAL_INTERVAL = 10.0
"""Seconds between two lines in the log about refusals of one kind."""

LOGGED_HOSTS = 64
"""Hosts whose refusals are logged each at its own rate; those of further hosts share one."""


class RefusalLog:
    """Logs the refusals of one kind, and counts those that it suppresses.

    :param seconds: returns the time in seconds.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._suppressed = 0
        self._logged = -math.inf

    @property
    def idle(self) -> bool:
        """Whether the next refusal will be logged."""
        return self._seconds() - self._logged >= REFUSAL_INTERVAL

    def suppress(self) -> None:
        """Count a refusal that is not logged."""
        self._suppressed += 1

    def warn(self, log: Logger, text: str, **fields: object) -> None:
        """Log a refusal with the number of those suppressed before, or suppress it.

        :param text: format of the line.
        :param fields: fields of the event.
        """
        now = self._seconds()
        if not self.idle:
            self.suppress()
            return
        others = f" (and {counted(self._suppressed, 'other')} before)" if self._suppressed else ""
        log.warn(f"{text}{{others}}", others=others, **fields)
        self._suppressed = 0
        self._logged = now


class HostRefusalLog:
    """Logs the refusals of one kind, those of each host at a limited rate.

    :param seconds: returns the time in seconds.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._hosts: dict[str, RefusalLog] = {}
        self._others = RefusalLog(seconds)

    def warn(self, log: Logger, client: Address, text: str, **fields: object) -> None:
        """Log a refusal of a client; see `RefusalLog.warn`."""
        host = host_of(client)
        known = self._hosts.get(host)
        if known is None:
            for other in [name for name, each in self._hosts.items() if each.idle]:
                del self._hosts[other]
            if len(self._hosts) < LOGGED_HOSTS:
                known = self._hosts[host] = RefusalLog(self._seconds)
        (known or self._others).warn(log, text, client=client, **fields)
