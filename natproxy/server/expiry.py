"""Tokens that expire: connections whose clients have sent them lose the identity.

A command costs nothing for it: there is one timer, while a client has a token that expires.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from natproxy.tokens.entries import TokenEntry

Client = TypeVar("Client")

LOOK = 60.0
"""Seconds between two looks at the time of day, at most: the clock of the system may be set."""

AT_ONCE = 256
"""Connections that lose their identity in one turn of the reactor."""


class Expiries(Generic[Client]):
    """The clients whose tokens expire, and a line in the log for each token that does.

    :param clock: schedules the timer.
    :param wall_clock: returns seconds since the epoch.
    :param expired: called with each client whose token has expired.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        expired: Callable[[Client], object],
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._expired = expired
        # There are as many tokens as a file may have; a set has no order, a dictionary has.
        self._clients: dict[TokenEntry, dict[Client, None]] = {}
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def add(self, client: Client, entry: TokenEntry) -> None:
        """Call back when a client's token has expired, if it does."""
        if entry.expires is None:
            return
        clients = self._clients.setdefault(entry, {})
        if not clients:
            self._schedule()
        clients[client] = None

    def discard(self, client: Client, entry: TokenEntry) -> None:
        """Do not call back for a client: it has another token, or none, or is gone."""
        clients = self._clients.get(entry)
        if clients is None:
            return
        clients.pop(client, None)
        if not clients:
            del self._clients[entry]
            self._schedule()

    def _schedule(self) -> None:
        """Set the timer for the token that expires first."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ends = [entry.expires for entry in self._clients if entry.expires is not None]
        if ends:
            delay = min(max(0.0, min(ends) - self._wall_clock()), LOOK)
            self._timer = self._clock.callLater(delay, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._wall_clock()
        left = AT_ONCE
        for entry in [entry for entry in self._clients if entry.expired(now)]:
            clients = list(islice(self._clients.get(entry, ()), left))
            left -= len(clients)
            for client in clients:
                self.discard(client, entry)
                self._expired(client)
            if clients:
                text = "the token of {name} has expired: clients without it now: {count}"
                self._log.info(text, name=entry.name, count=len(clients))
        self._schedule()
