"""The factory: addresses, subscriptions, draining."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import parse_command
from natproxy.server.factory import CommandFactory, Finished
from tests.support.echo_receiver import CommandsCase


class AddressTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.address_of = CommandFactory(Clock(), 600.0).address_of

    def test_address_with_a_port(self) -> None:
        self.assertEqual(self.address_of(IPv4Address("TCP", "10.0.0.5", 80)), ("10.0.0.5", 80))
        self.assertEqual(str(self.address_of(IPv6Address("TCP", "::1", 80))), "[::1]:80")

    def test_addresses_without_a_port_are_distinct(self) -> None:
        addresses = [self.address_of(UNIXAddress(b"/run/\xff\n")) for _ in range(3)]
        self.assertEqual(len({address.port for address in addresses}), 3)
        self.assertTrue(all(address.port > 65_535 for address in addresses))
        self.assertEqual(addresses[0].host, "unix:/run/\\xff\\x0a")
        self.assertEqual(self.address_of(None).host, "unix")


def finished(line: bytes = b"LIST") -> Finished:
    """Return an event about a command."""
    command = parse_command(line)
    assert command is not None
    return Finished(Address("127.0.0.1", 4000), command, Outcome.COMPLETED, 17, 2.0, 2.5)


class DrainTests(CommandsCase):
    def test_it_fires_at_once_without_a_client(self) -> None:
        self.wire.lose(self.protocol)
        self.successResultOf(self.factory.drain())

    def test_it_fires_when_the_last_client_is_lost(self) -> None:
        drained = [self.factory.drain(), self.factory.drain()]
        self.assertTrue(self.wire.disconnecting)
        for one in drained:
            self.assertNoResult(one)
        self.wire.lose(self.protocol)
        for one in drained:
            self.successResultOf(one)
