"""Events of the NAT table: their content, and the rules of a subscription."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.task import Clock

from natproxy.address import Address
from natproxy.nat import (
    Event,
    Failed,
    NATEntry,
    NATTable,
    Outcome,
    Registered,
    Relaying,
    Removed,
    TranslationKey,
)
from natproxy.protocol import Command, parse_command
from tests.support.doubles import Wire
from tests.support.logged_errors import LoggedErrorsCase

CLIENT = Address("10.0.0.5", 43_210)
KEY = TranslationKey(Address("10.0.0.1", 50_000), Address("10.0.0.9", 9001))
GET = parse_command(b"GET a%20b offset=3")
assert GET is not None


class EventsCase(LoggedErrorsCase):
    """A table with two clocks, and access to the errors that pytest's fixture has collected."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.wall = 1_700_000_000.0
        self.table = NATTable(self.clock.seconds, lambda: self.wall)
        self.events: list[Event] = []

    def register(self, command: Command = GET, started_at: float = 99.5) -> NATEntry:
        wire = Wire(9000, 43_210)
        return self.table.register(KEY, wire, CLIENT, command, started_at, lambda: None)

    def execute(self) -> None:
        """Publish the three events of one translation."""
        entry = self.register()
        self.table.relaying(entry, 3)
        self.table.remove(entry, Outcome.COMPLETED)


class ContentTests(EventsCase):
    def setUp(self) -> None:
        super().setUp()
        self.table.subscribe(self.events.append)

    def test_translation_is_three_events_with_one_serial_number(self) -> None:
        entry = self.register()
        self.clock.advance(1)
        # The wall clock may be set while a command is under way.
        self.wall -= 3600
        self.table.relaying(entry, 3)
        entry.write(b"OK 3\nabc")
        self.clock.advance(1)
        self.table.remove(entry, Outcome.COMPLETED)
        wall = 1_700_000_000.0
        self.assertEqual(
            self.events,
            [
                Registered(1, wall, 100, 99.5, CLIENT, GET, KEY),
                Relaying(1, wall - 3600, 101, 99.5, CLIENT, GET, KEY, 3),
                Removed(
                    1,
                    wall - 3600,
                    102,
                    99.5,
                    CLIENT,
                    GET,
                    KEY,
                    100,
                    3,
                    8,
                    Outcome.COMPLETED,
                    None,
                    101,
                ),
            ],
        )

    def test_command_without_a_connection_is_one_event(self) -> None:
        self.table.fail(CLIENT, GET, 99.5, Outcome.TIMEOUT, 12)
        self.assertEqual(
            self.events,
            [Failed(1, 1_700_000_000.0, 100, 99.5, CLIENT, GET, 12, Outcome.TIMEOUT)],
        )

    def test_serial_numbers_count_up(self) -> None:
        self.execute()
        self.table.fail(CLIENT, GET, 0, Outcome.ERROR, 0)
        self.execute()
        self.assertEqual([event.serial for event in self.events], [1, 1, 1, 2, 3, 3, 3])

    def test_no_event_contains_a_secret(self) -> None:
        secret = parse_command(b"AUTH hunter2")
        assert secret is not None
        self.table.fail(CLIENT, secret, 0, Outcome.ERROR, 0)
        entry = self.register(secret)
        self.table.relaying(entry, None)
        self.table.remove(entry, Outcome.ERROR)
        self.assertEqual(len(self.events), 4)
        for event in self.events:
            self.assertNotIn(b"hunter2", event.command.line)

    def test_events_cannot_be_changed(self) -> None:
        self.execute()
        for event in self.events:
            with self.assertRaises(AttributeError):
                event.serial = 7  # type: ignore[misc]


class SubscriptionTests(EventsCase):
    def test_only_the_kinds_that_were_chosen_arrive(self) -> None:
        self.table.subscribe(self.events.append, (Registered, Failed))
        self.execute()
        self.table.fail(CLIENT, GET, 0, Outcome.ERROR, 0)
        self.assertEqual([type(event) for event in self.events], [Registered, Failed])

    def test_nothing_is_created_without_a_subscriber(self) -> None:
        # Each event has the time of the wall clock.
        wall_clock = mock.Mock(side_effect=AssertionError)
        self.table = NATTable(self.clock.seconds, wall_clock)
        self.table.subscribe(self.events.append)()
        self.execute()
        self.table.fail(CLIENT, GET, 0, Outcome.ERROR, 0)
        wall_clock.assert_not_called()

    def test_subscription_ends_once(self) -> None:
        first = self.table.subscribe(self.events.append, (Removed,))
        self.table.subscribe(self.events.append, (Removed,))
        first()
        first()
        self.execute()
        self.assertEqual(len(self.events), 1)

    def test_subscriber_that_raises_is_logged_and_stops_no_other(self) -> None:
        self.table.subscribe(lambda event: 1 // 0)
        self.table.subscribe(self.events.append)
        self.execute()
        self.assertEqual(self.flush(ZeroDivisionError), 3)
        self.assertEqual(len(self.events), 3)
        self.assertEqual(len(self.table), 0)

    def test_subscriptions_may_end_and_begin_inside_a_callback(self) -> None:
        ends: list[Any] = []

        def first(event: Event) -> None:
            self.events.append(event)
            for end in ends:
                end()
            self.table.subscribe(late.append, (Registered,))

        late: list[Event] = []
        second: list[Event] = []
        ends.append(self.table.subscribe(first, (Registered,)))
        ends.append(self.table.subscribe(second.append, (Registered,)))
        self.execute()
        # The end of a subscription has effect at once, its beginning with the next event.
        self.assertEqual((len(self.events), len(second), len(late)), (1, 0, 0))
        self.execute()
        self.assertEqual((len(self.events), len(second), len(late)), (1, 0, 1))
