"""Limit the bytes that all relays together move in one turn of the reactor.

A large move costs less per byte than many small ones, but a short command waits until it is over.
So a relay moves a large slice, few of them do so in one turn, and the others wait in line: first
in, first out. A relay that waits in line watches no descriptor and has no timer.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

TURN = 1 << 20
"""Bytes that all relays together move in one turn of the reactor, about.

The last relay of a turn may exceed them by nearly a slice. With twice as many, a short command
beside eight bulk downloads took twice as long, and a byte cost as much.
"""

SLICE = 1 << 20
"""Most bytes that one relay moves in its turn.

The kernel passes whole pages on by reference. Moves of 64 KiB cost about four times as much per
byte on the loopback interface.
"""

VISIT = 16 * 1024
"""Bytes that a turn without any byte counts as: its system calls take about as long."""

_log = Logger()


class Member(Protocol):
    """A relay that takes turns in a `Rotation`."""

    def take_turn(self) -> object:
        """Move up to `SLICE` bytes, and report them to `Rotation.count`."""
        ...

    def fail_turn(self, error: Exception) -> object:
        """Handle an unexpected exception that `take_turn` has raised."""
        ...


class Rotation:
    """Admits relays in turn.

    :param clock: schedules the turns; ``None`` to admit every relay at once.
    """

    def __init__(self, clock: IReactorTime | None) -> None:
        self._clock = clock
        self._line: OrderedDict[Member, None] = OrderedDict()
        self._scheduled: IDelayedCall | None = None
        self._in_turn = False
        self._left = TURN

    def __len__(self) -> int:
        """Return the number of relays in the line."""
        return len(self._line)

    def __contains__(self, member: object) -> bool:
        """Return whether a relay is in the line."""
        return member in self._line

    @property
    def exhausted(self) -> bool:
        """Whether the bytes of this turn are used up."""
        return self._left <= 0

    def enter(self, member: Member, first: bool = False) -> bool:
        """Let a relay take a turn at once, if it may; else it waits in line.

        The bytes of a turn are renewed only when a relay waits: turns in which none does cost
        nothing.

        :param first: whether it goes to the head of the line: it has to empty a pipe.
        :return: whether it has taken its turn.
        """
        if member in self._line:
            return False
        at_once = self._left > 0 and (first or not self._line) and not self._in_turn
        if not at_once and self.wait(member, first):
            return False
        self._admit(member)
        return True

    def wait(self, member: Member, first: bool = False) -> bool:
        """Let a relay wait in line; return false, without effect, if there is no clock.

        :param first: as of `enter`.
        """
        if self._clock is None:
            return False
        self._line[member] = None
        if first:
            self._line.move_to_end(member, last=False)
        # At its end, a turn schedules the next one, if any relay is left.
        if self._scheduled is None and not self._in_turn:
            self._scheduled = self._clock.callLater(0, self._turn)
        return True

    def count(self, size: int) -> None:
        """Count bytes that a relay has moved."""
        self._left -= size

    def leave(self, member: Member) -> None:
        """Remove a relay from the line, if it is there."""
        self._line.pop(member, None)
        if self._scheduled is not None and not self._line:
            self._scheduled.cancel()
            self._scheduled = None

    def _admit(self, member: Member) -> None:
        self._left -= VISIT
        try:
            member.take_turn()
        except Exception as error:
            # The reactor would call the relay again, which would raise again.
            _log.failure("a relay failed in its turn")
            member.fail_turn(error)

    def _turn(self) -> None:
        self._scheduled = None
        self._left = TURN
        self._in_turn = True
        line = self._line
        try:
            # Each relay moves once: those that enter again wait for the next turn.
            for _ in range(len(line)):
                if self._left <= 0 or not line:
                    break
                member, _ = line.popitem(last=False)
                self._admit(member)
        finally:
            self._in_turn = False
            if line and self._clock is not None:
                self._scheduled = self._clock.callLater(0, self._turn)
