"""Verdicts on commands, and the gates that return them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from twisted.logger import Logger

from natproxy.access.caller import Caller
from natproxy.nat import Outcome
from natproxy.protocol import Command


class Action(enum.Enum):
    """What becomes of a command."""

    PROCEED = "proceed"
    DELAY = "delay"
    """It waits, and the gates are called again."""
    REFUSE = "refuse"
    """It is replied to with an error."""


class Verdict(NamedTuple):
    """What a gate decides about a command; see `PROCEED`, `delay` and `refuse`.

    ``code``, ``text``, ``outcome`` and ``reason`` describe the refusal: that of this verdict, or
    the one that follows when a command has been delayed for too long.

    :ivar seconds: after which the gate is called again; of a delay.
    :ivar code: of the error, for a verb of version 2.
    :ivar text: of the error, after the code.
    :ivar outcome: of the refused command.
    :ivar reason: for the event and the log: names the rule or the limit.
    :ivar at_end: whether the gate is called again also when another command has ended; then
        ``seconds`` may be longer than the command may wait.
    """

    action: Action
    seconds: float = 0.0
    code: int = 0
    text: str = ""
    outcome: Outcome = Outcome.ERROR
    reason: str = ""
    at_end: bool = False


PROCEED = Verdict(Action.PROCEED)
"""The command begins. It is always this object, which callers compare by ``is``."""


def refuse(code: int, text: str, outcome: Outcome, reason: str) -> Verdict:
    """Return the verdict that refuses a command; see `Verdict`."""
    return Verdict(Action.REFUSE, 0.0, code, text, outcome, reason)


def delay(
    seconds: float, code: int, text: str, outcome: Outcome, reason: str, at_end: bool = False
) -> Verdict:
    """Return the verdict that delays a command; see `Verdict`.

    Delayed commands of one host with one ``reason`` wait in one line: the gates are called again
    for its first one, and the others follow it.
    """
    return Verdict(Action.DELAY, seconds, code, text, outcome, reason, at_end)


class Gate(Protocol):
    """Decides whether commands may begin."""

    def admit(self, command: Command, client: Caller) -> Verdict:
        """Return the verdict on a command that is about to begin, or that was delayed."""
        ...

    def ended(self, command: Command, client: Caller) -> object:
        """Note the end of a command, once for each `PROCEED`, however the command has ended.

        It may never have begun, because another gate has delayed or refused it.
        """
        ...


_log = Logger()


def admit(gates: Sequence[Gate], command: Command, client: Caller) -> Verdict:
    """Return the first verdict of several gates that is not `PROCEED`, or `PROCEED`.

    :param gates: called in their order. If a later one does not let the command proceed, it has
        ended for those before it.
    """
    if len(gates) == 1:
        return gates[0].admit(command, client)
    passed = 0
    try:
        for gate in gates:
            verdict = gate.admit(command, client)
            if verdict is not PROCEED:
                break
            passed += 1
        else:
            return PROCEED
    except Exception:
        ended(gates[:passed], command, client)
        raise
    if passed:
        ended(gates[:passed], command, client)
    return verdict


def ended(gates: Sequence[Gate], command: Command, client: Caller) -> None:
    """Note the end of a command at the gates that have let it proceed; log what they raise."""
    for gate in gates:
        try:
            gate.ended(command, client)
        except Exception:
            _log.failure("a gate cannot note the end of a command")
