"""Checks of the kernel's limits, with files that the tests write."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.descriptors import file_server_capacity, proxy_capacity
from natproxy.daemon.doctor.finding import Finding, Level
from natproxy.daemon.doctor.limits import (
    Demand,
    PortUse,
    check_backlog,
    check_descriptors,
    check_pipes,
    check_ports,
    check_reuse,
    ports_in_use,
)
from natproxy.kernel.ports import PortRange
from natproxy.kernel.sockets import ESTABLISHED, LISTEN, TIME_WAIT
from tests.support.sockets import SocketLists


class LimitsCase(SynchronousTestCase):
    def write(self, text: str) -> str:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        return path

    def only(self, findings: list[Finding], level: Level, text: str) -> Finding:
        """Assert that there is one finding, and return it."""
        self.assertEqual([one.level for one in findings], [level], findings)
        self.assertIn(text, findings[0].text)
        self.assertEqual(bool(findings[0].remedy), level is not Level.OK)
        return findings[0]


class DescriptorTests(LimitsCase):
    def check(self, hard: str, clients: int = 10_000) -> list[Finding]:
        limits = self.write(
            "Limit                     Soft Limit           Hard Limit           Units\n"
            f"Max open files            256                  {hard}              files\n"
        )
        capacity = Demand("proxy", clients, lambda count: proxy_capacity(count).clients)
        return check_descriptors(limits, [capacity])

    def test_enough(self) -> None:
        self.only(self.check("65536"), Level.OK, "65,536 suffice for 10,000 clients")
        self.only(self.check("unlimited"), Level.OK, "suffice")

    def test_remedy_is_the_least_limit_that_suffices(self) -> None:
        for clients in (500, 10_000):
            finding = self.only(self.check("1024", clients), Level.WARNING, "suffices for 232")
            needed = int(finding.remedy.rpartition(" ")[2])
            self.assertGreaterEqual(proxy_capacity(needed).clients, clients)
            self.assertLess(proxy_capacity(needed - 1).clients, clients)

    def test_hardly_any(self) -> None:
        self.only(self.check("128"), Level.PROBLEM, "suffices for 8 clients")

    def test_each_daemon_has_its_own(self) -> None:
        limits = self.write("Max open files            256                  512      files\n")
        demands = [
            Demand("proxy", 100, lambda count: proxy_capacity(count).clients),
            Demand("file server", 200, lambda count: file_server_capacity(count).clients),
        ]
        findings = check_descriptors(limits, demands)
        self.assertEqual([one.level for one in findings], [Level.OK, Level.WARNING])

    def test_no_limits(self) -> None:
        self.only(check_descriptors("/nowhere", []), Level.WARNING, "cannot be read")
        self.only(check_descriptors(self.write("\n"), []), Level.WARNING, "cannot be read")


class PortTests(LimitsCase):
    def settings(self, ports: str, reserved: str = "\n") -> str:
        directory = self.mktemp()
        os.mkdir(directory)
        for name, text in (("ip_local_port_range", ports), ("ip_local_reserved_ports", reserved)):
            with open(os.path.join(directory, name), "w") as file:
                file.write(text)
        return directory

    def process(self, *sockets: tuple[int, int], version6: bool = False) -> SocketLists:
        lists = SocketLists(self.mktemp())
        for port, state in sockets:
            lists.add(("127.0.0.1", port), ("127.0.0.1", 9001), state, version6=version6)
        return lists

    def test_ports_are_counted_once_and_without_listeners(self) -> None:
        process = self.process(
            (100, ESTABLISHED), (100, ESTABLISHED), (101, TIME_WAIT), (102, LISTEN), (99, 1)
        )
        for port in (101, 103):
            process.add(("::1", port), ("::1", 9001), TIME_WAIT)
        ports = PortRange(100, 110, frozenset())
        self.assertEqual(ports_in_use(ports, process.directory), PortUse(1, 2))

    def test_lists_that_cannot_be_read(self) -> None:
        self.assertIsNone(ports_in_use(PortRange(1, 2, frozenset()), "/nowhere"))

    def check(self, low: int, high: int, *sockets: tuple[int, int]) -> list[Finding]:
        settings = self.settings(f"{low}\t{high}\n")
        return check_ports(settings, self.process(*sockets).directory, 10)

    def test_few_in_use(self) -> None:
        text = "2 of 100 local ports (1 to 100) are in use, 1 of them in TIME_WAIT"
        self.only(self.check(1, 100, (5, ESTABLISHED), (6, TIME_WAIT)), Level.OK, text)

    def test_many_in_use(self) -> None:
        self.only(
            self.check(1, 100, *((port, ESTABLISHED) for port in range(1, 82))),
            Level.WARNING,
            "81 of 100",
        )
        self.only(
            self.check(1, 100, *((port, TIME_WAIT) for port in range(1, 97))),
            Level.PROBLEM,
            "96 of 100",
        )

    def test_range_is_smaller_than_the_number_of_clients(self) -> None:
        finding = self.only(self.check(1, 9), Level.WARNING, "9 local ports (1 to 9) for 10")
        self.assertIn("ip_local_port_range", finding.remedy)

    def test_reserved_ports_do_not_count(self) -> None:
        settings = self.settings("1\t100\n", "1-50\n")
        process = self.process((7, ESTABLISHED), (77, ESTABLISHED))
        self.only(check_ports(settings, process.directory, 10), Level.OK, "1 of 50 local ports")

    def test_hidden_files(self) -> None:
        self.only(check_ports("/nowhere", "/nowhere", 1), Level.WARNING, "cannot be read")
        malformed = self.settings("1 many\n")
        self.only(check_ports(malformed, "/nowhere", 1), Level.WARNING, "cannot be read")
        hidden = check_ports(self.settings("1 9\n"), "/nowhere", 1)
        self.assertIn("ProcSubset", self.only(hidden, Level.WARNING, "cannot be seen").remedy)


class SwitchTests(LimitsCase):
    def test_reuse_of_ports(self) -> None:
        self.only(check_reuse(self.write("1\n")), Level.OK, "used again")
        self.only(check_reuse(self.write("2\n")), Level.OK, "loopback")
        self.only(check_reuse(self.write("0\n")), Level.WARNING, "60 seconds")
        self.only(check_reuse("/nowhere"), Level.WARNING, "cannot be read")

    def test_backlog(self) -> None:
        path = self.write("128\n")
        self.only(check_backlog(path, ["tcp:1"]), Level.OK, "50 connections may wait")
        self.only(check_backlog(path, ["tcp:1:backlog=128"]), Level.OK, "128 connections")
        finding = self.only(
            check_backlog(path, ["tcp:1:backlog=1024:interface=::"]),
            Level.WARNING,
            "128 connections wait, not 1,024",
        )
        self.assertEqual(finding.remedy, "sysctl -w net.core.somaxconn=1024")
        self.only(check_backlog("/nowhere", ["tcp:1"]), Level.WARNING, "cannot be read")

    def test_pipes(self) -> None:
        def check(pages: int, size: int, privileged: bool = False) -> list[Finding]:
            soft, largest = self.write(f"{pages}\n"), self.write(f"{size}\n")
            return check_pipes(soft, largest, 4096, privileged)

        self.only(check(16_384, 1 << 20), Level.OK, "16 pipes")
        self.only(check(0, 1 << 20), Level.OK, "16 pipes")
        few = self.only(check(1024, 1 << 20), Level.WARNING, "4,096 KiB")
        self.assertEqual(few.remedy, "sysctl -w fs.pipe-user-pages-soft=4096")
        self.only(check(0, 65_536), Level.WARNING, "a pipe may hold 64 KiB")
        self.only(check(1, 1, privileged=True), Level.OK, "root")
        self.only(check_pipes("/nowhere", "/nowhere", 4096, True), Level.WARNING, "be read")
