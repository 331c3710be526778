"""Limit the work that connections cause in one turn of the reactor.

One read can contain 32,000 commands. Each connection has a share of work for each event: received
bytes, or the end of a reply. When it is used up, the connection waits for a later turn in the
daemon's `RoundRobin`. A command that arrives on a connection without other commands always begins
at once. A command that was sent before the reply to another one waits when the work of the turn is
used up.

Work is counted in units, by the measured cost of a line: the shortest command costs about 60 times
as much as a blank line, and parsing 64 bytes costs about as much as a blank line.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

COMMAND_UNITS = 64
"""Units of a command that is replied to without another connection."""

BYTES_PER_UNIT = 64
"""Bytes of a line that count as one unit."""

SHARE = 4 * COMMAND_UNITS
"""Units that one connection may use for one event, or for one place in the rotation."""

TURN = 32 * COMMAND_UNITS
"""Units that all connections together may use in one turn of the reactor."""

RESULTS = TURN // COMMAND_UNITS
"""Connections that receive one shared result in one turn of the reactor."""

QUEUE_LIMIT = 64
"""Commands of one client that wait. When so many wait, reading from the client is paused."""

_VISIT_UNITS = 4

T = TypeVar("T")


class Member(Protocol):
    """A connection in a `RoundRobin`."""

    def take_turn(self) -> int:
        """Continue for one more share; return the units used.

        It must call `RoundRobin.join` again if work is left.
        """
        ...

    def fail(self, failure: Failure) -> None:
        """Handle an exception that `take_turn` has raised."""
        ...


class RoundRobin:
    """Let connections continue in later turns of the reactor, one share each in rotation.

    :param clock: schedules the turns.
    :ivar left: units left in this turn. A connection subtracts what it uses outside of the
        rotation.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: OrderedDict[Member, None] = OrderedDict()
        self._scheduled: IDelayedCall | None = None
        self._in_turn = False
        self.left = TURN

    @property
    def exhausted(self) -> bool:
        """Whether the units of this turn are used up.

        They are renewed only when a connection waits, so that turns without a waiting connection
        cost nothing.
        """
        return self.left <= 0

    def __len__(self) -> int:
        """Return the number of waiting connections."""
        return len(self._waiting)

    def __contains__(self, member: object) -> bool:
        """Return whether a connection is waiting."""
        return member in self._waiting

    def join(self, member: Member) -> None:
        """Append a connection to the rotation."""
        self._waiting[member] = None
        # At its end, a turn schedules the next one, if any connection is left.
        if self._scheduled is None and not self._in_turn:
            self._scheduled = self._clock.callLater(0, self._turn)

    def leave(self, member: Member) -> None:
        """Remove a connection, if it is waiting."""
        self._waiting.pop(member, None)
        if self._scheduled is not None and not self._waiting:
            self._scheduled.cancel()
            self._scheduled = None

    def _turn(self) -> None:
        self._scheduled = None
        self.left = TURN
        self._in_turn = True
        try:
            while self._waiting and not self.exhausted:
                member, _ = self._waiting.popitem(last=False)
                self.left -= _VISIT_UNITS
                try:
                    used = member.take_turn()
                except Exception:
                    member.fail(Failure())
                else:
                    self.left -= used
        finally:
            self._in_turn = False
            if self._waiting:
                self._scheduled = self._clock.callLater(0, self._turn)


def fire_in_turns(
    waiting: OrderedDict[Deferred[T], None], result: T | Failure, clock: IReactorTime | None
) -> None:
    """Fire Deferreds with one result, `RESULTS` of them in each turn of the reactor.

    :param waiting: each Deferred is removed before it fires; a cancelled one does not fire.
    :param clock: schedules the turns; ``None`` to fire all of them in this turn.
    """
    left = RESULTS
    while waiting and (left or clock is None):
        left -= 1
        deferred, _ = waiting.popitem(last=False)
        if not deferred.called:
            deferred.callback(result)
    if waiting and clock is not None:
        clock.callLater(0, fire_in_turns, waiting, result, clock)
