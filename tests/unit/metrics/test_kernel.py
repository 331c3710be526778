"""The kernel's figures of ports: read once for several readers."""

from __future__ import annotations

import os

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.kernel.ports import PortRange
from natproxy.metrics.kernel import KEPT_FOR, PortFigures, PortReader, read_ports
from tests.support.doubles import PlayedThread
from tests.support.sockets import SocketLists

UPSTREAM = Address("10.0.0.9", 9001)
RANGE = PortRange(100, 199, frozenset({150}))


class ReadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lists = SocketLists(self.mktemp())

    def read(self, *upstreams: Address, chosen: PortRange | None = RANGE) -> PortFigures:
        return read_ports(upstreams, lambda: chosen, self.lists.directory)

    def test_ports_in_use_are_those_of_the_range(self) -> None:
        for port, state in ((100, 1), (199, 6), (150, 1), (200, 6), (99, 1)):
            self.lists.add(("10.0.0.1", port), UPSTREAM, state)
        self.lists.add(("10.0.0.1", 101), ("10.0.0.8", 9001), 1)
        figures = self.read(UPSTREAM)
        self.assertEqual(figures, PortFigures(total=99, used=2, time_wait=2))
        self.assertEqual(figures.free, 97)

    def test_upstream_with_the_most_connections_counts(self) -> None:
        other = Address("10.0.0.8", 9001)
        for port in (100, 101):
            self.lists.add(("10.0.0.1", port), UPSTREAM)
        self.lists.add(("10.0.0.1", 102), other)
        self.assertEqual(self.read(UPSTREAM, other).used, 2)

    def test_local_address_with_the_most_connections_counts(self) -> None:
        for host, port in (("10.0.0.1", 100), ("10.0.0.2", 100), ("10.0.0.2", 101)):
            self.lists.add((host, port), UPSTREAM)
        self.assertEqual(self.read(UPSTREAM).used, 2)

    def test_no_upstream_so_far(self) -> None:
        self.assertEqual(self.read(), PortFigures(total=99, used=0, time_wait=0))

    def test_hidden_lists_are_unknown(self) -> None:
        os.unlink(self.lists.path)
        figures = self.read(UPSTREAM)
        self.assertEqual(figures, PortFigures(total=99))
        self.assertIsNone(figures.free)

    def test_hidden_range_is_unknown(self) -> None:
        self.lists.add(("10.0.0.1", 100), UPSTREAM, 6)
        self.assertEqual(self.read(UPSTREAM, chosen=None), PortFigures(time_wait=1))


class ReaderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.thread = PlayedThread()
        self.reads = 0
        self.reader = PortReader(
            lambda: {UPSTREAM}, self.thread, self.clock.seconds, lambda _: self.read()
        )

    def read(self) -> PortFigures:
        self.reads += 1
        return PortFigures(used=self.reads)

    def test_several_readers_cost_one(self) -> None:
        waiting = [self.reader.figures() for _ in range(3)]
        self.thread.run()
        self.assertEqual([self.successResultOf(each).used for each in waiting], [1, 1, 1])
        self.clock.advance(KEPT_FOR - 0.1)
        self.assertEqual(self.successResultOf(self.reader.figures()).used, 1)
        self.clock.advance(0.2)
        later = self.reader.figures()
        self.thread.run()
        self.assertEqual(self.successResultOf(later).used, 2)

    def test_reader_that_goes_does_not_disturb_the_others(self) -> None:
        first, second = self.reader.figures(), self.reader.figures()
        first.addErrback(lambda _: None).cancel()
        self.thread.run()
        self.assertEqual(self.successResultOf(second).used, 1)

    def test_failure_is_unknown_and_not_raised(self) -> None:
        self.reader._read = lambda _: 1 // 0
        waiting = self.reader.figures()
        self.thread.run()
        self.assertEqual(self.successResultOf(waiting), PortFigures())
