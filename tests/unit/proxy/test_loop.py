"""A proxy whose upstream leads back to it, with doubles of all peers."""

from __future__ import annotations

from natproxy.nat import Failed, Outcome
from natproxy.proxy.loop import INTERVAL, LOOP, PROBE_TIMEOUT, SEVERAL, TRANSITIONS, State
from tests.support.doubles import Upstream
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
