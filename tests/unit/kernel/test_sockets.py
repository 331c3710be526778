"""The kernel's lists of TCP connections."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.kernel import sockets
from natproxy.kernel.sockets import (
    ESTABLISHED,
    TIME_WAIT,
    Connection,
    connections_to,
    own_sockets,
    plain_host,
)
from tests.support.sockets import SocketLists, encoded

UPSTREAM = ("10.1.2.3", 9001)

IPAddress = IPv4Address | IPv6Address


def text_of(address: IPAddress) -> str:
    """Return an address as the system writes it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return plain_host(socket.inet_ntop(family, address.packed))


class ConnectionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lists = SocketLists(self.mktemp())

    def found(self, *remotes: tuple[str, int]) -> list[Connection]:
        return list(connections_to(remotes, self.lists.directory))

    def test_line_of_the_kernel(self) -> None:
        # A line of a little-endian machine.
        if encoded("127.0.0.1", False) != "0100007F":
            return
        with open(self.lists.path, "a") as file:
            file.write(
                "   2: 0100007F:C382 0302010A:2329 01 00000000:00000000 02:00000A3F 00000000 "
                " 1000        0 482113 2 00000000e1a4 20 4 30 10 -1\n"
            )
        self.assertEqual(
            self.found(UPSTREAM),
            [Connection(("127.0.0.1", 50050), UPSTREAM, ESTABLISHED, 482113)],
        )

    def test_only_connections_to_these_addresses(self) -> None:
        self.lists.add(("10.0.0.1", 50000), UPSTREAM, TIME_WAIT)
        self.lists.add(("10.0.0.1", 50001), ("10.1.2.3", 9002))
        self.lists.add(("10.0.0.1", 50002), ("10.1.2.4", 9001))
        # The other end of a connection of the same host.
        self.lists.add(UPSTREAM, ("10.0.0.1", 50000))
        self.assertEqual(
            self.found(UPSTREAM), [Connection(("10.0.0.1", 50000), UPSTREAM, TIME_WAIT, 0)]
        )
        self.assertEqual(self.found(), [])

    def test_ipv6_and_mapped_ipv4(self) -> None:
        upstream6 = ("2001:db8::9", 9001)
        self.lists.add(("2001:db8::1", 50000), upstream6, inode=7)
        self.lists.add(("10.0.0.1", 50001), UPSTREAM, inode=8, version6=True)
        self.assertEqual(
            self.found(upstream6, UPSTREAM),
            [
                Connection(("2001:db8::1", 50000), upstream6, 1, 7),
                Connection(("10.0.0.1", 50001), UPSTREAM, 1, 8),
            ],
        )
        self.assertEqual(len(self.found(("::ffff:10.1.2.3", 9001))), 1)

    def test_names_and_unix_sockets_match_nothing(self) -> None:
        self.lists.add(("10.0.0.1", 50000), UPSTREAM)
        self.assertEqual(self.found(("files.example", 9001), ("unix", 65536), ("", 1)), [])

    def test_lists_that_are_longer_than_a_piece(self) -> None:
        self.patch(sockets, "_PIECE", 100)
        for port in range(50000, 50200):
            self.lists.add(("10.0.0.1", port), UPSTREAM, inode=port)
        self.assertEqual([each.inode for each in self.found(UPSTREAM)], list(range(50000, 50200)))

    def test_no_ipv6_in_the_kernel(self) -> None:
        os.unlink(self.lists.path + "6")
        self.lists.add(("10.0.0.1", 50000), UPSTREAM)
        self.assertEqual(len(self.found(UPSTREAM)), 1)

    def test_hidden_list_is_an_error(self) -> None:
        os.unlink(self.lists.path)
        self.assertRaises(OSError, self.found, UPSTREAM)

    @settings(max_examples=40)
    @given(st.ip_addresses(), st.ip_addresses(), st.integers(1, 65535), st.integers(1, 65535))
    def test_every_address_is_found(
        self, local: IPAddress, remote: IPAddress, local_port: int, port: int
    ) -> None:
        self.lists.clear()
        local_end = (text_of(local), local_port)
        remote_end = (text_of(remote), port)
        self.lists.add(local_end, remote_end)
        (found,) = self.found(remote_end)
        self.assertEqual(found.remote, remote_end)
        self.assertEqual(found.local[1], local_port)


class OwnSocketsTests(SynchronousTestCase):
    def test_descriptors_that_are_sockets(self) -> None:
        lists = SocketLists(self.mktemp())
        lists.own(5, 4711)
        os.symlink("/etc/passwd", os.path.join(lists.directory, "fd", "6"))
        os.symlink("pipe:[12]", os.path.join(lists.directory, "fd", "7"))
        self.assertEqual(own_sockets(lists.directory), {4711})

    def test_hidden_descriptors_are_an_error(self) -> None:
        self.assertRaises(OSError, own_sockets, self.mktemp())


class PlainHostTests(SynchronousTestCase):
    def test_forms(self) -> None:
        for host, plain in (
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::FFFF:10.0.0.1", "10.0.0.1"),
            ("fe80::1%eth0", "fe80::1"),
            ("2001:db8::1", "2001:db8::1"),
        ):
            self.assertEqual(plain_host(host), plain)
