"""Counts of the commands that gates have delayed and refused, by reason and by client."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from natproxy.access.caller import Caller
from natproxy.access.verdict import Verdict
from natproxy.nat import Outcome

CLIENTS = 256
"""Clients whose last refusals and delays are kept."""


class Stopped(NamedTuple):
    """The commands of one client that were delayed or refused because of limits.

    :ivar host: see `natproxy.access.host_of`; empty for clients of a UNIX socket.
    :ivar identity: of the last command; ``None`` if it had none.
    :ivar delayed: commands that were delayed.
    :ivar refused: commands that were refused.
    :ivar reason: of the last one.
    :ivar at: time of the last one, in seconds of the clock.
    """

    host: str
    identity: str | None
    delayed: int
    refused: int
    reason: str
    at: float


class Counts:
    """Counts the commands of one daemon that gates did not let begin at once.

    :param seconds: returns the time in seconds.
    :ivar delayed: commands that were delayed, by the reason of the first verdict.
    :ivar refused: commands that were refused, by reason; some of them had been delayed.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.delayed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._seconds = seconds
        self._clients: OrderedDict[str, Stopped] = OrderedDict()

    def delay(self, verdict: Verdict, client: Caller) -> None:
        """Count a command that is delayed, at its first verdict."""
        self.delayed[verdict.reason] += 1
        self._note(verdict, client, 1, 0)

    def refuse(self, verdict: Verdict, client: Caller) -> None:
        """Count a command that is refused; with its client, unless a rule denies it."""
        self.refused[verdict.reason] += 1
        if verdict.outcome is Outcome.LIMITED:
            self._note(verdict, client, 0, 1)

    def clients(self) -> list[Stopped]:
        """Return the last clients that were stopped, up to `CLIENTS`; the most recent one first."""
        return list(reversed(self._clients.values()))

    def _note(self, verdict: Verdict, client: Caller, delayed: int, refused: int) -> None:
        former = self._clients.pop(client.host, None)
        if former is not None:
            delayed += former.delayed
            refused += former.refused
        elif len(self._clients) >= CLIENTS:
            self._clients.popitem(last=False)
        self._clients[client.host] = Stopped(
            client.host, client.identity, delayed, refused, verdict.reason, self._seconds()
        )
