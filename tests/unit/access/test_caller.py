"""Hosts of addresses, and the callers of connections."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.access import Caller, host_of
from natproxy.address import FIRST_STAND_IN_PORT, Address


def at(host: str, port: int = 40_000) -> Address:
    return Address(host, port)


class HostTests(SynchronousTestCase):
    def assert_same(self, *hosts: str) -> None:
        self.assertEqual(len({host_of(at(host)) for host in hosts}), 1, hosts)

    def assert_different(self, *hosts: str) -> None:
        self.assertEqual(len({host_of(at(host)) for host in hosts}), len(hosts), hosts)

    def test_ipv4_addresses(self) -> None:
        self.assertEqual(host_of(at("10.0.0.1", 1)), host_of(at("10.0.0.1", 2)))
        self.assert_different("10.0.0.1", "10.0.0.2")

    def test_ipv4_address_written_as_ipv6(self) -> None:
        self.assert_same("10.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1")
        self.assert_different("::ffff:10.0.0.1", "::ffff:10.0.0.2")

    def test_ipv6_network_of_64_bits(self) -> None:
        self.assert_same("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff")
        self.assert_different("2001:db8:1:2::1", "2001:db8:1:3::1")

    def test_link_local_addresses(self) -> None:
        self.assert_different("fe80::1%eth0", "fe80::2%eth0", "fe80::1%eth1")

    def test_unix_peers_have_no_host(self) -> None:
        self.assertEqual(host_of(at("unix", FIRST_STAND_IN_PORT)), "")
        self.assertEqual(host_of(at("unix:/run/x", FIRST_STAND_IN_PORT + 1)), "")

    def test_text_that_is_not_an_address(self) -> None:
        self.assert_different("::zz", "a:b")


class CallerTests(SynchronousTestCase):
    def test_it_has_the_host_of_its_address(self) -> None:
        address = at("2001:db8:1:2::1")
        caller = Caller.at(address, "alice")
        self.assertEqual(caller, (address, "20010db800010002::/64", "alice"))
