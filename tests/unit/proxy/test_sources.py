"""Local addresses of upstream connections, with a socket in memory."""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectBindError
from twisted.internet.protocol import ClientFactory
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.proxy.failure import explain
from natproxy.proxy.sources import IP_BIND_ADDRESS_NO_PORT, BindingReactor, Sources

UPSTREAM = Address("10.0.0.9", 9001)


class Unconnected:
    """A socket that has no free port, or no such address, for some local addresses."""

    def __init__(self, full: set[str] = frozenset(), gone: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.full = full
        self.gone = gone
        self.options: list[tuple[int, int, int]] = []
        self.bound: list[tuple[str, int]] = []

    def setsockopt(self, *option: int) -> None:
        self.options.append(option)  # type: ignore[arg-type]

    def bind(self, address: tuple[str, int]) -> None:
        assert self.options == [(0, IP_BIND_ADDRESS_NO_PORT, 1)]
        if address[0] in self.gone:
            raise OSError(errno.EADDRNOTAVAIL, "gone")
        self.bound.append(address)

    def connect_ex(self, remote: Address) -> int:
        assert remote == UPSTREAM
        return errno.EADDRNOTAVAIL if self.bound[-1][0] in self.full else errno.EINPROGRESS


class SourcesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.sources = Sources(["10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.3"])

    def connect(self, **states: Any) -> tuple[int, list[str]]:
        """Connect a socket; return the error number, and the addresses that it was bound to."""
        sock: Any = Unconnected(**states)
        code = self.sources.connect(sock, UPSTREAM)
        assert {port for _, port in sock.bound} <= {0}
        return code, [host for host, _ in sock.bound]

    def test_each_address_of_the_family_has_its_turn(self) -> None:
        used = [self.connect() for _ in range(4)]
        hosts = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]
        self.assertEqual(used, [(errno.EINPROGRESS, [host]) for host in hosts])
        self.assertEqual(list(self.sources.of_family("fd00::9")), ["fd00::1"])

    def test_address_without_a_free_port_is_passed_over(self) -> None:
        self.assertEqual(
            self.connect(full={"10.0.0.1"}), (errno.EINPROGRESS, ["10.0.0.1", "10.0.0.2"])
        )

    def test_address_that_the_machine_has_lost_is_passed_over(self) -> None:
        self.assertEqual(
            self.connect(gone={"10.0.0.1", "10.0.0.2"}), (errno.EINPROGRESS, ["10.0.0.3"])
        )

    def test_no_address_is_left(self) -> None:
        states = {"full": {"10.0.0.1", "10.0.0.3"}, "gone": {"10.0.0.2"}}
        self.assertEqual(self.connect(**states), (errno.EADDRNOTAVAIL, ["10.0.0.1", "10.0.0.3"]))

    @given(st.integers(1, 5), st.integers(0, 60))
    def test_turns_are_even(self, hosts: int, connections: int) -> None:
        sources = Sources([f"10.0.0.{number}" for number in range(hosts)])
        used = Counter(next(sources.of_family("10.1.0.1")) for _ in range(connections))
        self.assertLessEqual(
            max(used.values(), default=0) - min((used[h] for h in used), default=0), 1
        )


class BindingReactorTests(SynchronousTestCase):
    def test_address_of_a_family_without_sources_is_not_connected_to(self) -> None:
        failures: list[Failure] = []

        class Factory(ClientFactory):
            noisy = False

            def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
                failures.append(reason)

        reactor = MemoryReactorClock()
        BindingReactor(reactor, Sources(["fd00::1"])).connectTCP("10.0.0.1", 1, Factory())
        self.assertEqual([failure.type for failure in failures], [ConnectBindError])
        self.assertEqual(explain(failures[0], 5).message, "the proxy has no free port left")
        self.assertEqual(reactor.getDelayedCalls(), [])
