"""Subscriptions to the events of a publisher."""

from __future__ import annotations

from typing import NamedTuple

from natproxy.nat import Subscribers
from tests.support.logged_errors import LoggedErrorsCase


class Begun(NamedTuple):
    number: int


class Ended(NamedTuple):
    number: int


KINDS: tuple[type[Begun | Ended], ...] = (Begun, Ended)


class SubscribersTests(LoggedErrorsCase):
    def setUp(self) -> None:
        self.subscribers: Subscribers[Begun | Ended] = Subscribers(KINDS)

    def test_kinds_without_a_subscriber_are_empty(self) -> None:
        unsubscribe = self.subscribers.add(lambda event: None, [Ended])
        self.assertFalse(self.subscribers.by_kind[Begun])
        self.assertTrue(self.subscribers.by_kind[Ended])
        unsubscribe()
        self.assertFalse(self.subscribers.by_kind[Ended])

    def test_subscriber_receives_events_of_its_kinds(self) -> None:
        received: list[Begun | Ended] = []
        self.subscribers.add(received.append, [Ended])
        for event in (Begun(1), Ended(1)):
            self.subscribers.publish(event)
        self.assertEqual(received, [Ended(1)])

    def test_every_subscriber_receives_each_event_until_it_unsubscribes(self) -> None:
        received: list[Begun | Ended] = []
        unsubscribe = self.subscribers.add(received.append, KINDS)
        self.subscribers.add(received.append, KINDS)
        self.subscribers.publish(Begun(1))
        unsubscribe()
        unsubscribe()
        self.subscribers.publish(Ended(2))
        self.assertEqual(received, [Begun(1), Begun(1), Ended(2)])

    def test_subscriber_that_ends_another_subscription(self) -> None:
        received: list[Begun | Ended] = []
        self.subscribers.add(lambda event: unsubscribe(), KINDS)
        unsubscribe = self.subscribers.add(received.append, KINDS)
        self.subscribers.add(received.append, KINDS)
        self.subscribers.publish(Begun(1))
        self.assertEqual(received, [Begun(1)])

    def test_subscriber_that_subscribes_receives_later_events_only(self) -> None:
        received: list[Begun | Ended] = []
        self.subscribers.add(lambda event: self.subscribers.add(received.append, [Ended]), [Begun])
        for event in (Begun(1), Ended(1)):
            self.subscribers.publish(event)
        self.assertEqual(received, [Ended(1)])

    def test_exception_of_a_subscriber_is_logged_and_the_others_run(self) -> None:
        received: list[Begun | Ended] = []
        self.subscribers.add(lambda event: 1 // 0, KINDS)
        self.subscribers.add(received.append, KINDS)
        self.subscribers.publish(Begun(1))
        self.assertEqual(len(received), 1)
        self.assertEqual(self.flush(ZeroDivisionError), 1)
