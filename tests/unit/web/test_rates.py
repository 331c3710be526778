"""The sums of seconds, clients and errors that the page shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.nat import NATEntry, NATTable, Outcome, TranslationKey
from natproxy.nat.ring import EventRing
from natproxy.protocol import parse_command
from natproxy.records.record import Origin, Record
from natproxy.web import rates
from natproxy.web.rates import Rates, Second, quantiles
from tests.support.doubles import TurnClock

NOON = 1_795_694_400
"""The wall clock's seconds when the test's clock is at 0."""


class PlayedTable:
    """The table of a daemon, with the few members of records that rates are made of."""

    def __init__(self, table: NATTable) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def records(self) -> Iterator[Record]:
        for entry in self.table:
            yield Record(serial=entry.serial, client=entry.client_address.host, bytes=entry.relayed)

    def holding(self, port: int) -> tuple[Record, ...]:
        raise AssertionError("not used")

    def kill(self, serials: list[int], reason: str) -> list[Record]:
        raise AssertionError("the page is read-only")


class Client:
    def write(self, data: bytes) -> None:
        """Send nothing."""


class RatesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.table = NATTable(self.clock.seconds, lambda: NOON + self.clock.seconds())
        self.ring = EventRing(self.table, Origin("proxy-9000", 0, "b1"), size=4096)
        self.ports = iter(range(40_000, 60_000))
        self.rates = Rates(
            PlayedTable(self.table), self.ring, self.clock, lambda: NOON + self.clock.seconds()
        )

    def begin(self, client: str = "10.0.0.5", name: str = "a.iso") -> NATEntry:
        """Register an entry."""
        key = TranslationKey(Address("192.0.2.1", next(self.ports)), Address("198.51.100.7", 9001))
        command = parse_command(f"GET {name}".encode())
        assert command is not None
        return self.table.register(
            key, Client(), Address(client, 43210), command, self.clock.seconds(), lambda: None
        )

    def seconds(self, after: int = 0) -> list[Second]:
        return [Second(*values) for values in self.rates.json(after)["seconds"]]

    def clients(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.rates.json()["clients"]
        return found

    def test_second_has_commands_errors_bytes_and_entries(self) -> None:
        self.rates.start()
        for _ in range(3):
            entry = self.begin()
            entry.count(1000)
            self.table.remove(entry, Outcome.COMPLETED)
        self.table.remove(self.begin(), Outcome.TIMEOUT, "the upstream sent no reply")
        self.begin()
        self.clock.advance(1)
        (second,) = self.seconds()
        self.assertEqual((second.commands, second.errors, second.bytes), (4, 1, 3000))
        self.assertEqual(second.entries, 1)
        self.assertEqual((second.tick, second.time), (1, (NOON + 1) * 1000))

    def test_latencies_are_medians_and_99th_percentiles_of_the_second(self) -> None:
        self.rates.start()
        entries = [self.begin() for _ in range(3)]
        for entry, seconds in zip(entries, (0.1, 0.1, 0.3), strict=True):
            self.clock.advance(seconds)
            self.table.relaying(entry, None)
            self.table.remove(entry, Outcome.COMPLETED)
        self.clock.advance(0.5)
        (second,) = self.seconds()
        self.assertEqual((second.first_byte, second.first_byte_p99), (0.2, 0.5))
        self.assertEqual((second.duration, second.duration_p99), (0.2, 0.5))
        self.clock.advance(1)
        self.assertIs(self.seconds()[-1].first_byte, None)
        self.assertIs(self.seconds()[-1].duration, None)

    def test_bytes_of_a_long_download_are_in_the_seconds_in_which_they_moved(self) -> None:
        self.rates.start()
        entry = self.begin()
        for size in (100, 0, 300):
            entry.count(size)
            self.clock.advance(1)
        entry.count(50)
        self.table.remove(entry, Outcome.COMPLETED)
        self.clock.advance(1)
        self.assertEqual([second.bytes for second in self.seconds()], [100, 0, 300, 50])
        self.assertEqual(self.clients()[0]["bytes"], 450)

    def test_entries_beyond_the_work_of_a_turn_are_counted_at_their_end(self) -> None:
        self.patch(rates, "WORK", 4)
        self.rates.start()
        entries = [self.begin() for _ in range(6)]
        for entry in entries:
            entry.count(10)
        for _ in range(4):
            self.clock.advance(1)
        self.assertEqual(sum(second.bytes for second in self.seconds()), 40)
        for entry in entries:
            self.table.remove(entry, Outcome.COMPLETED)
        for _ in range(4):
            self.clock.advance(1)
        self.assertEqual(sum(second.bytes for second in self.seconds()), 60)

    def test_events_are_read_in_turns(self) -> None:
        self.rates.start()
        for _ in range(rates.WORK):
            self.table.remove(self.begin(), Outcome.COMPLETED)
        self.clock.rightNow += 1
        for _ in range(2):
            self.clock.turn()
            self.assertEqual(self.seconds(), [])
        self.clock.turn()
        self.assertEqual([second.commands for second in self.seconds()], [rates.WORK])

    def test_lost_events_are_counted(self) -> None:
        self.rates.start()
        for _ in range(4096):
            self.table.remove(self.begin(), Outcome.COMPLETED)
        self.clock.advance(1)
        self.assertEqual(self.rates.json()["lost"], 4096)

    def test_page_receives_what_it_does_not_have(self) -> None:
        self.rates.start()
        for _ in range(3):
            self.clock.advance(1)
        self.assertEqual([second.tick for second in self.seconds(2)], [3])
        self.assertEqual(self.seconds(3), [])

    def test_only_the_last_minutes_are_kept(self) -> None:
        self.rates.start()
        for _ in range(rates.SECONDS + 5):
            self.clock.advance(1)
        ticks = [second.tick for second in self.seconds()]
        self.assertEqual((len(ticks), ticks[0]), (rates.SECONDS, 6))

    def test_clients_are_those_with_most_commands_of_the_last_minute(self) -> None:
        self.rates.start()
        for number in range(rates.TOP + 2):
            for _ in range(number + 1):
                self.table.remove(self.begin(f"10.0.0.{number}"), Outcome.COMPLETED)
        self.clock.advance(1)
        shown = self.clients()
        self.assertEqual(shown[0]["client"], f"10.0.0.{rates.TOP + 1}")
        self.assertEqual(len(shown), rates.TOP + 1)
        self.assertEqual((shown[-1]["client"], shown[-1]["commands"]), (None, 1 + 2))
        for _ in range(rates.CLIENT_SECONDS):
            self.clock.advance(1)
        self.assertEqual(self.clients(), [])

    def test_client_with_most_bytes_is_shown_however_few_commands_it_sends(self) -> None:
        self.rates.start()
        for number in range(rates.TOP):
            for _ in range(2):
                self.table.remove(self.begin(f"10.0.0.{number}"), Outcome.COMPLETED)
        entry = self.begin("10.0.9.9")
        entry.count(5000)
        self.table.remove(entry, Outcome.COMPLETED)
        self.clock.advance(1)
        shown = {client["client"]: client for client in self.clients()}
        self.assertEqual(shown["10.0.9.9"]["bytes"], 5000)
        self.assertEqual(len(shown), rates.TOP + 1)

    def test_memory_does_not_depend_on_the_number_of_clients(self) -> None:
        self.rates.start()
        for number in range(rates.CLIENTS + 100):
            self.table.remove(self.begin(f"10.0.{number // 250}.{number % 250}"), Outcome.TIMEOUT)
            if number % 100 == 0:
                self.clock.advance(0.1)
        for _ in range(3):
            self.clock.advance(1)
        self.assertLessEqual(max(map(len, self.rates._clients)), rates.CLIENTS + 1)
        self.assertEqual(sum(client["commands"] for client in self.clients()), rates.CLIENTS + 100)

    def test_errors_are_the_newest_first(self) -> None:
        self.rates.start()
        for number in range(rates.ERRORS + 5):
            self.table.remove(self.begin(name=f"{number}"), Outcome.TIMEOUT, "late")
        self.table.remove(self.begin(), Outcome.ERROR, "connection refused")
        self.table.remove(self.begin(), Outcome.COMPLETED)
        self.clock.advance(1)
        errors = self.rates.json()["errors"]
        self.assertEqual(len(errors), rates.ERRORS)
        self.assertEqual(errors[0]["reason"], "connection refused")
        self.assertEqual(
            (errors[1]["name"], errors[1]["outcome"]), (str(rates.ERRORS + 4), "timeout")
        )

    def test_errors_that_the_page_has_are_not_sent_again(self) -> None:
        self.rates.start()
        self.assertEqual(self.rates.json()["errors"], [])
        self.table.remove(self.begin(), Outcome.TIMEOUT, "late")
        self.clock.advance(1)
        (error,) = self.rates.json()["errors"]
        self.assertIs(self.rates.json(error=error["seq"])["errors"], None)
        self.table.remove(self.begin(), Outcome.TIMEOUT, "late")
        self.clock.advance(1)
        self.assertEqual(len(self.rates.json(error=error["seq"])["errors"]), 2)

    def test_errors_from_before_the_start_are_shown_and_their_commands_not_counted(self) -> None:
        self.table.remove(self.begin(), Outcome.TIMEOUT, "late")
        self.rates.start()
        self.clock.advance(1)
        self.assertEqual(self.seconds()[0].commands, 0)
        self.assertEqual(self.rates.json()["errors"][0]["reason"], "late")

    def test_stopped_rates_leave_no_delayed_call(self) -> None:
        self.rates.start()
        self.clock.advance(1)
        self.rates.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class QuantilesTests(SynchronousTestCase):
    @given(st.lists(st.floats(0, 1e6), min_size=1))
    def test_they_are_samples_in_order(self, samples: list[float]) -> None:
        median, high = quantiles(list(samples))
        rounded = {round(sample, 6) for sample in samples}
        self.assertIn(median, rounded)
        self.assertIn(high, rounded)
        assert median is not None
        assert high is not None
        self.assertLessEqual(median, high)

    def test_of_no_samples_there_are_none(self) -> None:
        self.assertEqual(quantiles([]), (None, None))
