"""Subscriptions to the events of a daemon."""

from __future__ import annotations

import pytest
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import Command, parse_command
from natproxy.server.events import Finished, Subscribers


def finished(line: bytes = b"LIST") -> Finished:
    """Return an event about a command."""
    command = parse_command(line)
    assert isinstance(command, Command)
    return Finished(Address("127.0.0.1", 4000), command, Outcome.COMPLETED, 17, 2.0, 2.5)


class SubscribersTests(SynchronousTestCase):
    logged_errors = None

    @pytest.fixture(autouse=True)
    def _logged(self, logged_errors: object) -> None:
        self.logged_errors = logged_errors

    def setUp(self) -> None:
        self.subscribers = Subscribers()

    def test_event_has_the_duration(self) -> None:
        self.assertEqual(finished().duration, 0.5)

    def test_false_without_a_subscriber(self) -> None:
        self.assertFalse(self.subscribers)
        unsubscribe = self.subscribers.add(lambda event: None)
        self.assertTrue(self.subscribers)
        unsubscribe()
        self.assertFalse(self.subscribers)

    def test_every_subscriber_receives_each_event_until_it_unsubscribes(self) -> None:
        received: list[Finished] = []
        first = self.subscribers.add(received.append)
        self.subscribers.add(received.append)
        one, two = finished(b"LIST"), finished(b"FEAT")
        self.subscribers.publish(one)
        first()
        first()
        self.subscribers.publish(two)
        self.assertEqual(received, [one, one, two])

    def test_subscriber_that_unsubscribes_in_its_call_does_not_hide_the_event(self) -> None:
        received: list[Finished] = []

        def once(event: Finished) -> None:
            received.append(event)
            unsubscribe()

        unsubscribe = self.subscribers.add(once)
        self.subscribers.add(received.append)
        self.subscribers.publish(finished())
        self.subscribers.publish(finished())
        self.assertEqual(len(received), 3)

    def test_subscriber_that_is_unsubscribed_by_another_does_not_receive_the_event(self) -> None:
        received: list[Finished] = []
        self.subscribers.add(lambda event: unsubscribe())
        unsubscribe = self.subscribers.add(received.append)
        self.subscribers.publish(finished())
        self.assertEqual(received, [])

    def test_exception_of_a_subscriber_is_logged_and_the_others_run(self) -> None:
        received: list[Finished] = []
        self.subscribers.add(lambda event: 1 // 0)
        self.subscribers.add(received.append)
        self.subscribers.publish(finished())
        self.assertEqual(len(received), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        if self.logged_errors is not None:
            self.logged_errors.flush(ZeroDivisionError)
