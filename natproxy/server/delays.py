"""The connections whose next command a gate delays, in lines.

Delayed commands of one host with one reason wait in one line, first in, first out. Only the first
one of a line is tried again: as many as wait cost no more than one. So the hosts take turns,
however many connections each has.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from natproxy.server.rotation import RESULTS

LONGEST = 5.0
"""Seconds for which a command may be delayed by default; after that it is refused."""


VISITS = 8 * RESULTS
"""Lines that are looked at in one turn of the reactor, at most."""

_NEVER = -1.0


class Member(Protocol):
    """A connection in `Delays`."""

    def retry(self) -> None:
        """Call the gates again for the command.

        It must call `Delays.join` if the command is delayed again.
        """
        ...

    def fail(self, failure: Failure) -> None:
        """Handle an exception that `retry` has raised."""
        ...


class Place(NamedTuple):
    """Which line a connection waits in.

    :ivar reason: of the verdict.
    :ivar host: of the client.
    """

    reason: str
    host: str


class _Line:
    """The connections of one place.

    :ivar members: each with the time until which it may wait at most.
    :ivar due: when the first of them is tried again, in seconds of the clock; `_NEVER` while
        it is tried.
    :ivar at_end: whether the first of them waits for the end of another command.
    """

    __slots__ = ("at_end", "due", "members")

    def __init__(self) -> None:
        self.members: OrderedDict[Member, float] = OrderedDict()
        self.due = _NEVER
        self.at_end = False

    @property
    def first(self) -> Member:
        """The connection that is tried next."""
        return next(iter(self.members))


class Delays:
    """Lets delayed connections try again, no more than `RESULTS` in one turn of the reactor.

    :param clock: schedules them.
    :ivar longest: seconds for which a command may be delayed.
    """

    def __init__(self, clock: IReactorTime, longest: float = LONGEST) -> None:
        self.longest = longest
        self._clock = clock
        self._places: dict[Member, Place] = {}
        # Those that wait for the end of a command are tried in turn.
        self._lines: OrderedDict[Place, _Line] = OrderedDict()
        # Times of lines. An entry holds only if the line still has its time.
        self._due: list[tuple[float, int, Place]] = []
        self._number = 0
        self._waking = 0
        self._retrying: Member | None = None
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        """Return the number of connections that wait."""
        return len(self._places)

    def __contains__(self, member: object) -> bool:
        """Return whether a connection waits."""
        return member in self._places

    def join(
        self, member: Member, place: Place, due: float, until: float, at_end: bool = False
    ) -> None:
        """Let a connection wait at the end of its line; at its head, if it has just retried.

        :param due: when it is tried again, in seconds of the clock.
        :param until: when it is tried at last.
        :param at_end: whether it is tried as well when another command has ended.
        """
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = _Line()
        self._places[member] = place
        if line.members and member is not self._retrying:
            line.members[member] = until
            return
        line.members[member] = until
        line.members.move_to_end(member, last=False)
        line.at_end = at_end
        self._set(place, line, min(due, until))
        self._schedule()

    def leave(self, member: Member) -> None:
        """Remove a connection, if it waits."""
        place = self._places.pop(member, None)
        if place is None:
            return
        line = self._lines[place]
        first = line.first is member
        del line.members[member]
        if not line.members:
            del self._lines[place]
        elif first:
            self._set(place, line, self._clock.seconds())
        self._schedule()

    def wake(self) -> None:
        """Try those that wait for the end of a command: one has ended."""
        if self._lines and not self._waking:
            self._waking = len(self._lines)
            self._schedule()

    def retry_all(self) -> None:
        """Try the first one of each line, and then the others: what delays them has changed."""
        now = self._clock.seconds()
        for place, line in self._lines.items():
            self._set(place, line, now)
        self._schedule()

    def _set(self, place: Place, line: _Line, due: float) -> None:
        if line.due == due:
            return
        line.due = due
        self._number += 1
        heappush(self._due, (due, self._number, place))

    def _schedule(self) -> None:
        """Set the timer to the next time that is due, or cancel it."""
        if self._retrying is not None:
            # `_expire` does so at its end.
            return
        due = self._due
        while due and ((line := self._lines.get(due[0][2])) is None or line.due != due[0][0]):
            heappop(due)
        if not due:
            self._waking = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        left = 0.0 if self._waking else max(0.0, due[0][0] - self._clock.seconds())
        if self._timer is None:
            self._timer = self._clock.callLater(left, self._expire)
        else:
            self._timer.reset(left)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        tried = visited = 0
        while self._due and tried < RESULTS and self._due[0][0] <= now:
            due, _, place = heappop(self._due)
            line = self._lines.get(place)
            if line is not None and line.due == due:
                tried += 1
                line.due = _NEVER
                self._retry_first(place, line)
        while self._waking and tried < RESULTS and visited < VISITS:
            self._waking -= 1
            if not self._lines:
                break
            visited += 1
            place, line = next(iter(self._lines.items()))
            self._lines.move_to_end(place)
            if line.at_end:
                tried += 1
                self._retry_first(place, line)
        self._schedule()

    def _retry_first(self, place: Place, line: _Line) -> None:
        member, _ = line.members.popitem(last=False)
        del self._places[member]
        self._retrying = member
        try:
            member.retry()
        except Exception:
            member.fail(Failure())
        finally:
            self._retrying = None
        if not line.members:
            if self._lines.get(place) is line:
                del self._lines[place]
        elif line.first is not member:
            # It has begun or was refused: the next one is tried as soon as it may be.
            line.at_end = False
            self._set(place, line, self._clock.seconds())
