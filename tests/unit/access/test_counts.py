"""Counts of delayed and refused commands."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access import Caller, Counts, Stopped
from natproxy.access.counts import CLIENTS
from natproxy.address import Address
from tests.support.gates import DENIED, limited


def client(number: int) -> Caller:
    return Caller.at(Address(f"10.0.{number >> 8}.{number & 255}", 1))


class CountsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.counts = Counts(self.clock.seconds)

    def test_by_reason(self) -> None:
        self.counts.delay(limited(1.0), client(1))
        self.counts.delay(limited(1.0), client(2))
        self.counts.refuse(DENIED, client(1))
        self.assertEqual(self.counts.delayed, {"client.commands": 2})
        self.assertEqual(self.counts.refused, {"rule 1": 1})

    def test_by_client_the_last_one_first(self) -> None:
        self.counts.delay(limited(1.0), client(1))
        self.counts.refuse(limited(1.0), client(2))
        self.clock.advance(5)
        self.counts.refuse(limited(1.0), client(1))
        self.assertEqual(
            self.counts.clients(),
            [
                Stopped("10.0.0.1", None, 1, 1, "client.commands", 5.0),
                Stopped("10.0.0.2", None, 0, 1, "client.commands", 0.0),
            ],
        )

    def test_denied_command_is_not_counted_to_the_limits_of_its_client(self) -> None:
        self.counts.delay(limited(1.0), client(1))
        self.counts.refuse(DENIED, client(1))
        self.counts.refuse(DENIED, client(2))
        self.assertEqual(
            self.counts.clients(), [Stopped("10.0.0.1", None, 1, 0, "client.commands", 0.0)]
        )

    def test_number_of_clients_is_bounded(self) -> None:
        for number in range(CLIENTS + 10):
            self.counts.refuse(limited(1.0), client(number))
        hosts = [one.host for one in self.counts.clients()]
        self.assertEqual(len(hosts), CLIENTS)
        self.assertNotIn("10.0.0.0", hosts)
