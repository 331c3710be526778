"""Subscriptions to the events of a publisher."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, TypeVar

from twisted.logger import Logger

E = TypeVar("E")


class Subscribers(Generic[E]):
    """The subscriptions to one publisher, by kind of event.

    :param kinds: the classes of the publisher's events.
    :ivar by_kind: the subscriptions for each class. Where there are none, the publisher need not
        create the event.
    """

    _log = Logger()

    def __init__(self, kinds: Iterable[type[E]]) -> None:
        # The tuples are replaced, never changed: a callback may subscribe or unsubscribe.
        self.by_kind: dict[type[E], tuple[Callable[[E], object], ...]] = dict.fromkeys(kinds, ())

    def add(self, callback: Callable[[E], object], kinds: Iterable[type[E]]) -> Callable[[], None]:
        """Call back with each later event of these kinds.

        :return: ends the subscription, at any time; further calls of it have no effect.
        """
        # An object of its own, since a callback may be subscribed twice.
        subscription = partial(callback)
        subscribed = tuple(kinds)
        for kind in subscribed:
            self.by_kind[kind] += (subscription,)

        def unsubscribe() -> None:
            for kind in subscribed:
                self.by_kind[kind] = tuple(
                    other for other in self.by_kind[kind] if other is not subscription
                )

        return unsubscribe

    def publish(self, event: E) -> None:
        """Pass an event to the subscribers of its kind.

        An exception that a subscriber raises is logged; the others receive the event all the same.
        """
        kind = type(event)
        for subscription in self.by_kind[kind]:
            if subscription not in self.by_kind[kind]:
                # A callback before it has ended it.
                continue
            try:
                subscription(event)
            except Exception:
                self._log.failure("a subscriber failed")
