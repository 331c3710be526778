"""The addresses of names: kept, looked up again, and the order in which they are tried."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.proxy.resolution import MOST_ADDRESSES, MOST_NAMES, AddressCache, NamingReactor
from tests.support.doubles import Journal


class PlayedResolver:
    """A resolver; the test controls each look-up.

    :ivar asked: the names, and the receivers of those that are under way.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.receivers: list[Any] = []

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, *_: Any) -> None:
        self.asked.append(name)
        self.receivers.append((receiver, portNumber))

    def found(self, *hosts: str) -> None:
        """End the oldest look-up."""
        receiver, port = self.receivers.pop(0)
        receiver.resolutionBegan(None)
        for host in hosts:
            kind = IPv6Address if ":" in host else IPv4Address
            receiver.addressResolved(kind("TCP", host, port))
        receiver.resolutionComplete()


class Receiver:
    """What waits for addresses.

    :ivar hosts: `None` until they are there.
    """

    def __init__(self) -> None:
        self.hosts: list[str] | None = None
        self._begun: list[str] = []

    def resolutionBegan(self, resolution: Any) -> None:
        assert resolution.name == "files.example"
        # As of an endpoint that is cancelled: nothing happens.
        resolution.cancel()

    def addressResolved(self, address: Any) -> None:
        assert address.port == 9001
        self._begun.append(address.host)

    def resolutionComplete(self) -> None:
        assert self.hosts is None
        self.hosts = self._begun


class NamesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver: Any = PlayedResolver()
        self.names = AddressCache(lambda: self.resolver, self.clock.seconds, 30.0)
        self.journal = Journal(self)

    def connect(self) -> Receiver:
        """Look the name up for a connection."""
        receiver: Any = Receiver()
        self.names.resolveHostName(receiver, "files.example", portNumber=9001)
        made: Receiver = receiver
        return made

    def known(self, *hosts: str) -> None:
        """Let the first connection find these addresses."""
        first = self.connect()
        self.resolver.found(*hosts)
        self.assertEqual(first.hosts, list(hosts))

    def test_known_addresses_are_shown(self) -> None:
        self.assertEqual(self.names.shown("files.example:9001"), ())
        self.known("10.0.0.1", "10.0.0.2")
        self.assertEqual(self.names.shown("files.example:9001"), ("10.0.0.1", "10.0.0.2"))
        for other in ("files.example:9002", "files.example", "[::1]:9001", "/run/files", ""):
            self.assertEqual(self.names.shown(other), ())

    def test_connections_of_the_interval_use_one_look_up(self) -> None:
        first, second = self.connect(), self.connect()
        self.assertEqual(len(self.resolver.asked), 1)
        self.resolver.found("10.0.0.1", "10.0.0.2")
        self.assertEqual(first.hosts, ["10.0.0.1", "10.0.0.2"])
        self.assertEqual(second.hosts, first.hosts)
        self.clock.advance(29.9)
        self.assertEqual(self.connect().hosts, first.hosts)
        self.assertEqual(len(self.resolver.asked), 1)

    def test_new_addresses_are_for_the_next_connection(self) -> None:
        self.known("10.0.0.1")
        self.clock.advance(30)
        self.assertEqual(self.connect().hosts, ["10.0.0.1"])
        self.assertEqual(self.connect().hosts, ["10.0.0.1"])
        self.assertEqual(len(self.resolver.asked), 2)
        self.resolver.found("10.0.0.7")
        self.assertEqual(self.connect().hosts, ["10.0.0.7"])
        self.assertEqual(len(self.resolver.asked), 2)
        self.assertEqual(
            self.journal.lines(), ["upstream files.example has other addresses now: 10.0.0.7"]
        )

    def test_connection_waits_after_a_time_without_any(self) -> None:
        self.known("10.0.0.1")
        self.clock.advance(60)
        waiting = self.connect()
        self.assertIsNone(waiting.hosts)
        self.resolver.found("10.0.0.7")
        self.assertEqual(waiting.hosts, ["10.0.0.7"])

    def test_look_up_that_hangs_stops_no_later_connection(self) -> None:
        self.known("10.0.0.1")
        self.clock.advance(600)
        waiting = self.connect()
        self.clock.advance(1)
        self.assertEqual(self.connect().hosts, ["10.0.0.1"])
        self.assertEqual(len(self.resolver.asked), 2)
        self.resolver.found("10.0.0.7")
        self.assertEqual(waiting.hosts, ["10.0.0.7"])

    def test_name_that_is_lost_keeps_its_addresses(self) -> None:
        self.known("10.0.0.1")
        for _ in range(2):
            self.clock.advance(60)
            waiting = self.connect()
            self.resolver.found()
            self.assertEqual(waiting.hosts, ["10.0.0.1"])
        self.clock.advance(1)
        self.assertEqual(self.connect().hosts, ["10.0.0.1"])
        self.assertEqual(len(self.resolver.asked), 3)
        self.assertEqual(
            self.journal.lines(),
            [
                "the name files.example of an upstream cannot be resolved any more; its last"
                " addresses stay in use: 10.0.0.1"
            ],
        )

    def test_name_that_was_never_resolved(self) -> None:
        for _ in range(2):
            waiting = self.connect()
            self.resolver.found()
            self.assertEqual(waiting.hosts, [])
        self.assertEqual(len(self.resolver.asked), 2)
        self.assertEqual(self.journal.lines(), [])

    def test_each_connection_looks_it_up_without_an_interval(self) -> None:
        self.names.interval = 0
        for number in range(3):
            waiting = self.connect()
            self.assertIsNone(waiting.hosts)
            self.resolver.found(f"10.0.0.{number}")
            self.assertEqual(waiting.hosts, [f"10.0.0.{number}"])
        self.assertEqual(len(self.resolver.asked), 3)

    def test_usable_addresses(self) -> None:
        self.assertEqual(self.names.to_connect("files.example", 9001), ())
        self.assertEqual(self.resolver.asked, [])
        self.known("10.0.0.1")
        self.clock.advance(30)
        for _ in range(2):
            (address,) = self.names.to_connect("files.example", 9001)
            self.assertEqual((address.host, address.port), ("10.0.0.1", 9001))
        self.assertEqual(len(self.resolver.asked), 2)
        self.clock.advance(30)
        self.assertEqual(len(self.names.to_connect("files.example", 9001)), 1)
        self.resolver.found()
        self.clock.advance(60)
        self.assertEqual(self.names.to_connect("files.example", 9001), ())
        self.names.interval = 0
        self.assertEqual(self.names.to_connect("files.example", 9001), ())

    def test_families_alternate(self) -> None:
        first = self.connect()
        self.resolver.found("fd00::1", "fd00::2", "fd00::3", "10.0.0.1")
        self.assertEqual(first.hosts, ["fd00::1", "10.0.0.1", "fd00::2", "fd00::3"])

    def test_address_that_has_worked_is_first(self) -> None:
        self.known("10.0.0.1", "10.0.0.2", "10.0.0.3")
        self.names.prefer("files.example", 9001, "10.0.0.2")
        self.assertEqual(self.connect().hosts, ["10.0.0.2", "10.0.0.1", "10.0.0.3"])
        self.clock.advance(60)
        waiting = self.connect()
        self.resolver.found("10.0.0.1", "10.0.0.2", "10.0.0.4")
        self.assertEqual(waiting.hosts, ["10.0.0.2", "10.0.0.1", "10.0.0.4"])
        self.names.prefer("other.example", 9001, "10.0.0.2")

    def test_numbers_are_bounded(self) -> None:
        first = self.connect()
        hosts = [f"10.0.0.{number}" for number in range(40)]
        self.resolver.found(*hosts, *hosts)
        self.assertEqual(first.hosts, hosts[:MOST_ADDRESSES])
        for number in range(MOST_NAMES + 10):
            self.names.resolveHostName(Receiver(), f"n{number}", portNumber=1)  # type: ignore[arg-type]
        self.assertEqual(len(self.names._names), MOST_NAMES)

    def test_other_addresses_are_ignored(self) -> None:
        first = self.connect()
        receiver, port = self.resolver.receivers.pop(0)
        for address in (UNIXAddress(b"/x"), IPv4Address("TCP", "10.0.0.1", port)):
            receiver.addressResolved(address)
        receiver.resolutionComplete()
        self.assertEqual(first.hosts, ["10.0.0.1"])


class ReactorTests(SynchronousTestCase):
    def test_only_its_resolver_differs(self) -> None:
        class Reactor:
            nameResolver = None
            other = 7

        names = AddressCache(lambda: None, lambda: 0.0)  # type: ignore[arg-type,return-value]
        reactor = NamingReactor(Reactor(), names)
        self.assertIs(reactor.nameResolver, names)
        self.assertEqual(reactor.other, 7)
