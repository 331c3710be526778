"""Networks: which hosts are in them, and which texts are no networks."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access.networks import Networks, place_of

IPV4 = st.ip_addresses(v=4, network="10.0.0.0/28")
IPV6 = st.ip_addresses(v=6, network="2001:db8::/124")


@st.composite
def networks(draw: st.DrawFn) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return a network with the first addresses of a small one in it, or next to it."""
    address = draw(st.one_of(IPV4, IPV6))
    length = draw(st.integers(address.max_prefixlen - 5, address.max_prefixlen))
    return ipaddress.ip_network((int(address), length), strict=False)  # type: ignore[arg-type]


class NetworksTests(SynchronousTestCase):
    @given(
        st.lists(st.one_of(networks(), st.just(ipaddress.ip_network("10.0.0.0/8")))),
        st.one_of(IPV4, IPV6),
    )
    def test_contains_what_ipaddress_finds(
        self,
        chosen: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
        host: ipaddress.IPv4Address | ipaddress.IPv6Address,
    ) -> None:
        # An address of 4 bytes made from 16 is not one of 16.
        expected = any(host.version == each.version and host in each for each in chosen)
        self.assertEqual(str(host) in Networks(map(str, chosen)), expected)

    def test_mapped_address_is_the_ipv4_address(self) -> None:
        for text in ("10.1.0.0/16", "::ffff:10.1.0.0/112"):
            for host in ("10.1.2.3", "::ffff:10.1.2.3", "::ffff:a01:203"):
                self.assertIn(host, Networks([text]), text)
        self.assertNotIn("10.1.2.3", Networks(["::/0"]))
        self.assertNotIn("::ffff:10.1.2.3", Networks(["::/0"]))

    def test_zone_is_ignored(self) -> None:
        self.assertIn("fe80::1%eth0", Networks(["fe80::/10"]))

    def test_address_is_a_network_of_one(self) -> None:
        self.assertIn("10.0.0.5", Networks(["10.0.0.5"]))
        self.assertNotIn("10.0.0.4", Networks(["10.0.0.5"]))

    def test_unix_sockets_are_in_no_network(self) -> None:
        for host in ("unix", "unix:/run/x", "unix:10.0.0.1"):
            self.assertIn(host, Networks(["unix"]))
            self.assertNotIn(host, Networks(["0.0.0.0/0", "::/0"]))
        self.assertNotIn("10.0.0.5", Networks(["unix"]))

    def test_what_is_no_address_is_in_no_network(self) -> None:
        for host in ("", "localhost", "10.0.0", "1.2.3.4.5", "::g", "\0", "10.0.0.1\0"):
            self.assertIsNone(place_of(host), host)
            self.assertNotIn(host, Networks(["0.0.0.0/0", "::/0", "unix"]))

    def test_malformed_networks_are_named(self) -> None:
        for text in ("", "10.0.0.300", "10.0.0.0/33", "example.org", "fe80::1%eth0", "any"):
            with self.assertRaisesRegex(ValueError, "is no network: write one as"):
                Networks([text])

    def test_bits_after_the_prefix_are_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, r"'10\.0\.0\.5/8' has bits .* 10\.0\.0\.0/8 may"):
            Networks(["10.0.0.5/8"])
