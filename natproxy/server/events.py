"""Events of a daemon's commands, for subscribers such as the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from twisted.logger import Logger

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import Command


class Finished(NamedTuple):
    """A command has ended, successfully or not.

    :ivar client: address of its client.
    :ivar outcome: how it ended.
    :ivar sent: bytes of the reply, header included.
    :ivar started_at: the clock's time in seconds at which the command began.
    :ivar ended_at: the clock's time in seconds at which it ended.
    """

    client: Address
    command: Command
    outcome: Outcome
    sent: int
    started_at: float
    ended_at: float

    @property
    def duration(self) -> float:
        """Seconds from the start of the command to its end."""
        return self.ended_at - self.started_at


class Subscribers:
    """The callbacks that receive the events of one source.

    It is false while there are none, so that the source need not build an event.
    """

    _log = Logger()

    def __init__(self) -> None:
        # Replaced and never changed in place: a callback may subscribe or unsubscribe.
        self._callbacks: tuple[Callable[[Finished], object], ...] = ()

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def add(self, callback: Callable[[Finished], object]) -> Callable[[], None]:
        """Call back with each later event.

        :return: ends the subscription; further calls of it have no effect.
        """
        active = True

        # A function of its own: the same callback may be subscribed twice.
        def entry(event: Finished) -> None:
            # An event may still be on its way through a tuple that includes it.
            if active:
                callback(event)

        self._callbacks += (entry,)

        def unsubscribe() -> None:
            nonlocal active
            active = False
            self._callbacks = tuple(one for one in self._callbacks if one is not entry)

        return unsubscribe

    def publish(self, event: Finished) -> None:
        """Pass an event to every callback. An exception from one is logged; the others run."""
        for callback in self._callbacks:
            try:
                callback(event)
            except Exception:
                self._log.failure("a subscriber failed")
