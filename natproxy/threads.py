"""Work off the reactor's thread, as much of it at once as is good for the daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

from natproxy import wire

T = TypeVar("T")


class InThread(Protocol):
    """Calls a function in a thread and fires with its result in the reactor's."""

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]:
        """Call it."""
        ...


class Turns:
    """Work of one kind: some of it at a time, some more in line, the rest refused.

    :param in_thread: where it is done.
    :param at_once: pieces of work that may be under way.
    :param in_line: how many more may wait.
    :param what: they are, in the words of a refusal.
    """

    def __init__(self, in_thread: InThread, at_once: int, in_line: int, what: str) -> None:
        self._in_thread = in_thread
        self._free = at_once
        self._most_in_line = in_line
        self._what = what
        self._line: dict[Deferred[Any], Callable[[], Any]] = {}

    def take(self, work: Callable[[], T]) -> Deferred[T]:
        """Have work done in its turn.

        :return: fires with its result. Cancelled in line, the work is not begun; after
            that, it runs on, and nobody is told of its result.
        :raises Refusal: with code 429, if the line is full.
        """
        if not self._free and len(self._line) >= self._most_in_line:
            raise wire.Refusal(429, f"too many {self._what} at once")
        done: Deferred[T] = Deferred(self._leave)
        self._line[done] = work
        self._next()
        return done

    def in_line(self, done: Deferred[Any]) -> bool:
        """Tell whether work has not been begun."""
        return done in self._line

    def _leave(self, done: Deferred[Any]) -> None:
        self._line.pop(done, None)

    def _next(self) -> None:
        while self._free and self._line:
            done = next(iter(self._line))
            work = self._line.pop(done)
            self._free -= 1
            self._in_thread(work).addBoth(self._ended, done)

    def _ended(self, result: Any, done: Deferred[Any]) -> None:
        self._free += 1
        self._next()
        if not done.called:
            done.callback(result)
