"""Lines in the log about clients that are refused."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.server.refusal_log import LOGGED_HOSTS, HostRefusalLog
from tests.support.doubles import Journal


class HostRefusalLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.journal = Journal(self)
        self.clock = Clock()
        self.refusals = HostRefusalLog(self.clock.seconds)

    def warn(self, host: str) -> int:
        before = len(self.journal.events)
        self.refusals.warn(Logger(), Address(host, 1), "{client}")
        return len(self.journal.events) - before

    def test_one_host_does_not_hide_another(self) -> None:
        hosts = ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2")
        self.assertEqual([self.warn(host) for host in hosts], [1, 1, 0, 0])
        self.clock.advance(10)
        self.assertEqual(self.warn("192.0.2.1"), 1)

    def test_many_hosts_share_one_line(self) -> None:
        logged = sum(self.warn(f"10.0.{n // 256}.{n % 256}") for n in range(10 * LOGGED_HOSTS))
        self.assertEqual(logged, LOGGED_HOSTS + 1)
