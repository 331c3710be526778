"""The kernel's range of ports for outgoing connections."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from natproxy.kernel.ports import PortRange, read_port_range


class PortRangeTests(SynchronousTestCase):
    def read(self, ports: str, reserved: str | None = "\n") -> PortRange | None:
        directory = self.mktemp()
        os.mkdir(directory)
        for name, text in (("ip_local_port_range", ports), ("ip_local_reserved_ports", reserved)):
            if text is not None:
                with open(os.path.join(directory, name), "w") as file:
                    file.write(text)
        return read_port_range(directory)

    def test_whole_range(self) -> None:
        self.assertEqual(self.read("32768\t60999\n"), PortRange(32768, 60999, frozenset()))

    def test_reserved_ports_of_the_range_do_not_count(self) -> None:
        chosen = self.read("100\t199\n", "50,100-102,199-300,150\n")
        assert chosen is not None
        self.assertEqual(chosen.reserved, {100, 101, 102, 199, 150})
        self.assertEqual(chosen.size, 95)
        self.assertEqual([port in chosen for port in (99, 100, 103, 198, 199)], [0, 0, 1, 1, 0])

    def test_hidden_range(self) -> None:
        self.assertIsNone(read_port_range(self.mktemp()))
        self.assertIsNone(self.read("nonsense\n"))

    def test_hidden_reserved_ports(self) -> None:
        self.assertEqual(self.read("100\t199\n", None), PortRange(100, 199, frozenset()))
