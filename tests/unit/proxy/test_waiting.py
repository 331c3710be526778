"""Commands of clients that wait for an upstream, and what ends the wait."""

from __future__ import annotations

from natproxy.nat import Failed, Outcome
from natproxy.protocol import PROXY_ERROR
from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.upstreams import Health, Target
from tests.support.proxies import ProxyCase

BUSY = f"{PROXY_ERROR}the servers were busy for 5 s".encode()


class WaitingCase(ProxyCase):
    def setUp(self) -> None:
        super().setUp()
        self.upstreams = self.factory.resources.upstreams
        connector = EndpointConnector(self.endpoint, self.clock, 5.0)
        self.upstreams.use([Target("a", "tcp:a:1", connector, limit=1)])
        self.failed: list[Failed] = []
        self.table.subscribe(self.failed.append, (Failed,))  # type: ignore[arg-type]
        # The one that the others wait for.
        self.first = self.travelling(b"LIST\n")

    def waiting(self) -> int:
        """Return the number of commands that wait."""
        return len(self.upstreams.queue)


class EndTests(WaitingCase):
    def test_command_begins_when_the_one_before_it_has_ended(self) -> None:
        other, wire = self.new_client(43211)
        other.dataReceived(b"LIST\n")
        self.assertEqual((self.waiting(), len(self.endpoint.connections)), (1, 1))
        self.first.send(b"OK\nEND\n")
        self.assertEqual((self.waiting(), len(self.endpoint.connections)), (1, 1))
        self.clock.advance(0)
        self.assertEqual((self.waiting(), len(self.endpoint.connections)), (0, 2))
        self.endpoint.last.accept()
        self.endpoint.last.send(b"OK\na\nEND\n")
        self.assertEqual(wire.taken(), b"OK\na\nEND\n")
        self.assertEqual([each.active for each in self.upstreams], [0])

    def test_command_that_waits_too_long_gets_an_error_in_its_version(self) -> None:
        coded, coded_wire = self.new_client(43211)
        uncoded, uncoded_wire = self.new_client(43212)
        coded.dataReceived(b"STAT a\nSTAT b\n")
        uncoded.dataReceived(b"LIST\n")
        self.clock.advance(5)
        self.assertEqual(coded_wire.taken(), b"ERR 503 " + BUSY + b"\n")
        self.assertEqual(uncoded_wire.taken(), b"ERR " + BUSY + b"\n")
        self.assertEqual([event.outcome for event in self.failed], [Outcome.ERROR] * 2)
        # The connection is usable: its next command waits now.
        self.assertEqual(self.waiting(), 1)
        self.clock.advance(5)
        self.assertEqual(coded_wire.taken(), b"ERR 503 " + BUSY + b"\n")
        self.assertEqual(self.waiting(), 0)

    def test_client_that_disconnects_leaves_the_queue_in_the_same_turn(self) -> None:
        other, wire = self.new_client(43211)
        other.dataReceived(b"LIST\n")
        wire.lose(other)
        self.assertEqual(self.waiting(), 0)
        self.assertEqual([event.outcome for event in self.failed], [Outcome.CLIENT_GONE])
        self.first.send(b"OK\nEND\n")
        self.clock.advance(0)
        self.assertEqual(len(self.endpoint.connections), 1)

    def test_daemon_that_stops_lets_them_proceed(self) -> None:
        other, wire = self.new_client(43211)
        other.dataReceived(b"LIST\n")
        self.factory.drain()
        self.first.send(b"OK\nEND\n")
        self.clock.advance(0)
        self.endpoint.last.accept()
        self.endpoint.last.send(b"OK\na\nEND\n")
        self.assertEqual(wire.taken(), b"OK\na\nEND\n")

    def test_daemon_that_aborts_leaves_none(self) -> None:
        self.upstreams.set_health(Health(interval=2.0))
        self.factory.start()
        self.clock.advance(0)
        check = self.endpoint.last
        other, _ = self.new_client(43211)
        other.dataReceived(b"LIST\n")
        self.factory.drain()
        self.assertTrue(check.cancelled)
        self.factory.abort()
        self.assertEqual(self.waiting(), 0)
        self.assertEqual([each.active for each in self.upstreams], [0])
        self.assertEqual([event.outcome for event in self.failed], [Outcome.DRAINED])
