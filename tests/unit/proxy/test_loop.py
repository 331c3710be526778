"""A proxy whose upstream leads back to it, with doubles of all peers."""

from __future__ import annotations

from natproxy.nat import Failed, Outcome
from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.loop import INTERVAL, LOOP, PROBE_TIMEOUT, SEVERAL, TRANSITIONS, State
from natproxy.proxy.upstreams import Health, Mode, Target
from tests.support.doubles import PlayedEndpoint, Upstream
from tests.support.proxies import ProxyCase

REFUSED = b"ERR 508 " + LOOP.encode() + b"\n"


class LoopCase(ProxyCase):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self.factory.loops.stop)

    def in_flight(self, count: int, line: bytes = b"STAT a\n") -> None:
        """Begin commands, each on a connection of its own, to which nothing is replied."""
        for number in range(count):
            protocol, _ = self.new_client(50000 + len(self.factory.connections))
            protocol.dataReceived(line.replace(b"%", b"%d" % number))
            self.endpoint.last.accept()

    def suspect(self) -> Upstream:
        """Let the proxy send a probe, and return its upstream connection."""
        self.in_flight(SEVERAL)
        before = len(self.endpoint.connections)
        self.new_client(49000)
        self.assertEqual(len(self.endpoint.connections), before + 1)
        self.endpoint.last.accept()
        return self.endpoint.last

    def line_of(self, probe: Upstream) -> bytes:
        line = probe.wire.taken()
        self.assertRegex(line, rb"\AVIA [0-9a-f]{32}\n\Z")
        return line


class LoopTests(LoopCase):
    def test_few_commands_are_not_suspicious(self) -> None:
        self.in_flight(SEVERAL - 1)
        before = len(self.endpoint.connections)
        self.new_client(49000)
        self.assertEqual(len(self.endpoint.connections), before)

    def test_different_commands_are_not_suspicious(self) -> None:
        self.in_flight(SEVERAL, b"STAT a%\n")
        before = len(self.endpoint.connections)
        self.new_client(49000)
        self.assertEqual(len(self.endpoint.connections), before)

    def test_probe_that_is_replied_to_clears_the_suspicion(self) -> None:
        probe = self.suspect()
        self.line_of(probe)
        probe.send(b"ERR unknown command\n")
        self.assertIs(self.factory.loops.state, State.CLEAR)
        before = len(self.endpoint.connections)
        self.new_client(49001)
        # Not more than one for as many commands.
        self.assertEqual(len(self.endpoint.connections), before)
        self.assert_usable()

    def test_number_of_commands_doubles_before_the_next_probe(self) -> None:
        probe = self.suspect()
        probe.send(b"ERR unknown command\n")
        self.in_flight(SEVERAL)
        before = len(self.endpoint.connections)
        self.new_client(49001)
        self.assertEqual(len(self.endpoint.connections), before + 1)

    def test_probe_that_comes_back_refuses_every_command(self) -> None:
        events: list[object] = []
        self.table.subscribe(events.append, (Failed,))
        line = self.line_of(self.suspect())
        returned, wire = self.new_client(49001)
        returned.dataReceived(line)
        self.assertEqual(wire.taken(), b"ERR " + LOOP.encode() + b"\n")
        self.protocol.dataReceived(b"STAT a\nLIST\n")
        self.assertEqual(self.wire.taken(), REFUSED + b"ERR " + LOOP.encode() + b"\n")
        self.assertEqual(
            [(event.outcome, event.reason) for event in events if isinstance(event, Failed)],
            [(Outcome.ERROR, LOOP)] * 3,
        )

    def test_other_numbers_are_sent_on(self) -> None:
        self.suspect()
        before = len(self.endpoint.connections)
        self.protocol.dataReceived(b"VIA " + b"0" * 32 + b"\n")
        self.assertEqual(len(self.endpoint.connections), before + 1)

    def test_probe_of_another_time_is_sent_on(self) -> None:
        probe = self.suspect()
        line = self.line_of(probe)
        probe.send(b"ERR unknown command\n")
        before = len(self.endpoint.connections)
        self.protocol.dataReceived(line)
        self.assertEqual(len(self.endpoint.connections), before + 1)

    def test_loop_that_has_gone_is_found_out_by_another_probe(self) -> None:
        probe = self.suspect()
        self.new_client(49001)[0].dataReceived(self.line_of(probe))
        probe.send(b"ERR proxy error: loop\n")
        self.assertIs(self.factory.loops.state, State.LOOPED)
        self.protocol.dataReceived(b"STAT a\n")
        before = len(self.endpoint.connections)
        self.clock.advance(INTERVAL)
        self.protocol.dataReceived(b"STAT a\n")
        self.assertEqual(self.wire.taken(), REFUSED * 2)
        self.assertEqual(len(self.endpoint.connections), before + 1)
        self.endpoint.last.accept()
        self.endpoint.last.send(b"ERR unknown command\n")
        self.assert_usable()

    def test_loop_that_remains_is_found_again(self) -> None:
        probe = self.suspect()
        self.new_client(49001)[0].dataReceived(self.line_of(probe))
        probe.send(b"ERR x\n")
        self.clock.advance(INTERVAL)
        self.protocol.dataReceived(b"STAT a\n")
        again = self.endpoint.last
        again.accept()
        self.new_client(49002)[0].dataReceived(self.line_of(again))
        self.assertIs(self.factory.loops.state, State.LOOPED)
        self.protocol.dataReceived(b"STAT a\n")
        self.assertEqual(self.wire.taken(), REFUSED * 2)
        again.send(b"ERR x\n")

    def test_probe_without_a_reply_ends(self) -> None:
        before = len(self.table)
        probe = self.suspect()
        self.assertEqual(len(self.table), before + SEVERAL + 1)
        self.clock.advance(PROBE_TIMEOUT)
        self.assertTrue(probe.wire.aborted)
        self.assertIs(self.factory.loops.state, State.CLEAR)

    def test_probe_whose_connection_is_not_accepted_ends(self) -> None:
        self.in_flight(SEVERAL)
        self.new_client(49000)
        self.assertIs(self.factory.loops.state, State.PROBING)
        self.clock.advance(PROBE_TIMEOUT)
        self.assertIs(self.factory.loops.state, State.CLEAR)

    def test_every_state_has_a_way_out(self) -> None:
        for state, row in TRANSITIONS.items():
            self.assertTrue({*row.values()} - {state}, state)


class SeveralTests(LoopCase):
    """Several upstreams, of which one leads back."""

    def setUp(self) -> None:
        super().setUp()
        self.others = [PlayedEndpoint(port) for port in (51_000, 52_000)]
        endpoints = [self.endpoint, *self.others]
        self.factory.resources.upstreams.use(
            [
                Target(f"u{number}", "", EndpointConnector(endpoint, self.clock, 5.0))
                for number, endpoint in enumerate(endpoints)
            ]
        )

    def accept_all(self) -> None:
        for endpoint in (self.endpoint, *self.others):
            for connection in endpoint.connections:
                if connection.protocol is None and not connection.connected.called:
                    connection.accept()

    def probes(self) -> list[Upstream]:
        """Let the proxy send probes, one to each upstream, and return their connections."""
        for number in range(SEVERAL):
            protocol, _ = self.new_client(40000 + number)
            protocol.dataReceived(b"STAT a\n")
        self.accept_all()
        self.new_client(49000)
        self.accept_all()
        return [endpoint.last for endpoint in (self.endpoint, *self.others)]

    def test_each_upstream_gets_a_probe(self) -> None:
        probes = self.probes()
        self.assertEqual(len({self.line_of(probe) for probe in probes}), 3)
        for probe in probes:
            self.assertIs(self.factory.loops.state, State.PROBING)
            probe.send(b"ERR unknown command\n")
        self.assertIs(self.factory.loops.state, State.CLEAR)

    def test_one_that_comes_back_refuses_every_command(self) -> None:
        lines = [self.line_of(probe) for probe in self.probes()]
        returned, wire = self.new_client(49001)
        returned.dataReceived(lines[1])
        self.assertEqual(wire.taken(), b"ERR " + LOOP.encode() + b"\n")
        self.assertIs(self.factory.loops.state, State.LOOPED)
        self.journal.line_with("the upstream u1 leads back to this proxy")
        for endpoint in (self.endpoint, *self.others):
            self.assertTrue(self.factory.loops.closed)
            endpoint.last.send(b"ERR unknown command\n")
        self.clock.advance(INTERVAL)
        self.protocol.dataReceived(b"STAT a\n")
        self.assertEqual(self.wire.taken(), REFUSED)
        self.assertIs(self.factory.loops.state, State.CHECKING)
        for endpoint in (self.endpoint, *self.others):
            endpoint.last.refuse(ConnectionRefusedError())
        self.assertIs(self.factory.loops.state, State.CLEAR)

    def test_probes_that_are_cancelled(self) -> None:
        probes = self.probes()
        self.factory.loops.stop()
        self.assertIs(self.factory.loops.state, State.CLEAR)
        self.assertTrue(all(probe.wire.aborted for probe in probes))

    def test_no_upstream_takes_commands(self) -> None:
        for name in ("u0", "u1", "u2"):
            self.factory.resources.upstreams.set_mode(name, Mode.MAINTENANCE)
        self.factory.loops._send_probes()
        self.assertIs(self.factory.loops.state, State.CLEAR)


class CheckTests(ProxyCase):
    def test_health_check_that_comes_from_the_proxy_itself_is_refused(self) -> None:
        upstreams = self.factory.resources.upstreams
        upstreams.set_health(Health(interval=2.0))
        self.factory.start()
        self.clock.advance(0)
        check = self.endpoint.last
        check.accept()
        host = check.wire.getHost()
        protocol, wire = self.new_client(host.port)
        protocol.dataReceived(check.wire.taken())
        reply = wire.taken()
        self.assertEqual(reply, REFUSED)
        check.send(reply)
        (upstream,) = upstreams
        self.assertEqual(upstream.last_error, f"its reply to FEAT is an error: 508 {LOOP}")
        upstreams.stop()
