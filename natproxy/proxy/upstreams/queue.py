"""Commands that wait for an upstream, because each has as many commands as it may have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from natproxy.protocol import VERBS, Command
from natproxy.server.deadlines import Deadlines

LENGTH = 1000
"""Commands that may wait at the same time, by default."""

TIMEOUT = 5.0
"""Seconds that a command may wait, by default."""

SERVED = 32
"""Commands that leave the queue in one turn of the reactor, at most."""

EXAMINED = 4096
"""Commands of which one turn examines whether an upstream has a place for them, at most."""

_ANY = Command(b"", b"", b"")
"""A command for which each upstream that is chosen from is suitable, as for each unknown verb."""

NONE_OPEN = "no server takes commands: each is drained, or in maintenance"
"""A reason of refusals."""


class Waiter(Protocol):
    """A command that waits. One of the methods is called once, unless it is cancelled before."""

    command: Command

    def proceed(self) -> None:
        """Choose again: an upstream has a place."""
        ...

    def refuse(self, reason: str) -> None:
        """Reply with the error 503: the queue is full, or the command has waited too long.

        :param reason: to follow `natproxy.protocol.PROXY_ERROR`.
        """
        ...


class CommandQueue:
    """Commands that wait, in the order of their arrival.

    :param clock: for the time that a command may wait, and for the next turn.
    :param placed: returns whether an upstream has a place for a command.
    :ivar length: commands that may wait at the same time; 0 if none may.
    :ivar waiting: when each began to wait, in seconds of the clock, and what its deadline calls; in
        the order of arrival. Only the queue changes it.
    :ivar open: whether an upstream takes commands, if it has a place; for the reasons of refusals.
    :ivar serving: whether commands leave the queue at this moment.
    :ivar turn: in which those leave it for which an upstream has a place; ``None`` if there is no
        place for any of them.
    :ivar waited: commands that have waited so far.
    :ivar full: commands that were refused so far because as many waited as may.
    :ivar expired: commands that were refused so far because they had waited too long.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, placed: Callable[[Command], bool]) -> None:
        self.length = LENGTH
        self.open = True
        self.serving = False
        self.waited = 0
        self.full = 0
        self.expired = 0
        self._clock = clock
        self._placed = placed
        self.waiting: dict[Waiter, tuple[float, Callable[[], object]]] = {}
        self._deadlines = Deadlines(clock, TIMEOUT)
        self.turn: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def timeout(self) -> float:
        """Seconds that a command may wait."""
        return self._deadlines.seconds

    @property
    def longest(self) -> float:
        """Seconds for which the first command has waited; 0 if none waits."""
        first = next(iter(self.waiting.values()), None)
        return 0.0 if first is None else self._clock.seconds() - first[0]

    def limit(self, length: int, timeout: float) -> None:
        """Change the limits for the commands that begin to wait from now on."""
        self.length = length
        self._deadlines.change(timeout)

    def add(self, waiter: Waiter) -> None:
        """Let a command wait, or refuse it at once if too many wait."""
        waiting = len(self.waiting)
        if waiting >= self.length:
            self.full += 1
            if not self.open:
                waiter.refuse(NONE_OPEN)
            else:
                others = f", and {waiting} commands wait for them" if waiting else ""
                waiter.refuse(f"the servers are busy{others}")
            return
        self.waited += 1
        expire = partial(self._expire, waiter)
        self.waiting[waiter] = self._clock.seconds(), expire
        self._deadlines.set(expire)

    def remove(self, waiter: Waiter) -> bool:
        """Remove a command that is no longer wanted; return whether it has waited."""
        found = self.waiting.pop(waiter, None)
        if found is None:
            return False
        self._deadlines.cancel(found[1])
        if not self.waiting:
            self._deadlines.cancel_timer()
            if self.turn is not None:
                self.turn.cancel()
                self.turn = None
        return True

    def wake(self) -> None:
        """Examine in the next turn which commands may leave the queue.

        An upstream has a place, or takes commands again.
        """
        if self.waiting and self.turn is None:
            self.turn = self._clock.callLater(0, self._serve)

    def _serve(self) -> None:
        self.turn = None
        self.serving = True
        served = 0
        full: set[bytes] = set()
        for waiter in [*islice(self.waiting, EXAMINED)]:
            command = waiter.command
            verb = command.verb if command.verb in VERBS else _ANY.verb
            # What was called for one before it may have removed it.
            if verb in full or waiter not in self.waiting:
                continue
            if not self._placed(command):
                full.add(verb)
                if not self._placed(_ANY):
                    break
                continue
            if served == SERVED:
                self.wake()
                break
            served += 1
            self.remove(waiter)
            self._proceed(waiter)
        self.serving = False

    def _proceed(self, waiter: Waiter) -> None:
        """Let a command proceed; an unexpected exception stops no other command."""
        try:
            waiter.proceed()
        except Exception:
            self._log.failure("a command that has waited failed")
            try:
                waiter.refuse("an unexpected error, which the proxy has logged")
            except Exception:
                self._log.failure("a command that has waited cannot be refused")

    def _expire(self, waiter: Waiter) -> None:
        self.remove(waiter)
        self.expired += 1
        busy = f"the servers were busy for {self.timeout:g} s"
        waiter.refuse(busy if self.open else NONE_OPEN)
