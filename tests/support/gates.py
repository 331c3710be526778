"""A gate whose verdicts a test decides."""

from __future__ import annotations

from collections import deque

from natproxy.access import PROCEED, Caller, Verdict, delay, refuse
from natproxy.nat import Outcome
from natproxy.protocol import Command

DENIED = refuse(403, "forbidden", Outcome.DENIED, "rule 1")


def limited(seconds: float, reason: str = "client.commands") -> Verdict:
    """Return a verdict that delays a command; for 0 seconds, until another one has ended."""
    text = "too many commands retry-after=1"
    return delay(seconds or 100.0, 429, text, Outcome.LIMITED, reason, not seconds)


class PlayedGate:
    """Returns the verdicts that a test has set, and `usual` for all others.

    :ivar asked: the lines of the commands that it was asked about.
    :ivar ends: the lines of the commands that have ended.
    """

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = deque(verdicts)
        self.usual = PROCEED
        self.asked: list[bytes] = []
        self.ends: list[bytes] = []
        self.callers: list[Caller] = []

    def admit(self, command: Command, client: Caller) -> Verdict:
        self.asked.append(command.line)
        self.callers.append(client)
        return self.verdicts.popleft() if self.verdicts else self.usual

    def ended(self, command: Command, client: Caller) -> None:
        self.ends.append(command.line)
        self.callers.append(client)
