"""Commands that gates let proceed, delay and refuse, in the connection of a client."""

from __future__ import annotations

from typing import Any

from natproxy.access import Caller
from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.server.delays import LONGEST
from natproxy.server.rotation import QUEUE_LIMIT
from natproxy.server.state import State
from tests.support.echo_receiver import CommandsCase
from tests.support.gates import DENIED, PlayedGate, limited
from tests.support.logged_errors import LoggedErrorsCase

CLIENT = Caller(Address("127.0.0.1", 43210), "127.0.0.1", None)


class GateCase(CommandsCase):
    def setUp(self) -> None:
        super().setUp()
        self.gate = PlayedGate()
        self.factory.gates = (self.gate,)


class ProceedTests(GateCase):
    at_once = False

    def test_gate_is_asked_once_before_each_command(self) -> None:
        self.send(b"one\ntwo\n")
        self.assertEqual((self.gate.asked, self.gate.ends), ([b"one"], []))
        self.protocol.reply()
        self.assertEqual((self.gate.asked, self.gate.ends), ([b"one", b"two"], [b"one"]))
        self.assertEqual(set(self.gate.callers), {CLIENT})
        self.assertEqual(len({id(caller) for caller in self.gate.callers}), 1)

    def test_end_is_noted_once_however_the_command_ends(self) -> None:
        def replied() -> None:
            self.protocol.reply()

        def aborted() -> None:
            self.protocol.abort(Outcome.KILLED)

        def lost() -> None:
            self.wire.lose(self.protocol)

        for end in (replied, aborted, lost):
            self.send(b"one\n")
            end()
            self.assertEqual(self.gate.ends, [b"one"], end)
            self.lose()
            self.assertEqual(self.gate.ends, [b"one"], end)
            self.setUp()

    def test_identity_holds_for_the_next_command(self) -> None:
        self.send(b"one\n")
        self.protocol.identify("alice")
        self.protocol.reply()
        self.send(b"two\n")
        self.assertEqual([caller.identity for caller in self.gate.callers], [None, None, "alice"])

    def test_gates_are_replaced_for_the_next_command(self) -> None:
        self.send(b"one\n")
        other = PlayedGate(DENIED)
        self.factory.gates = (other,)
        self.protocol.reply()
        self.send(b"two\n")
        self.assertEqual((self.gate.asked, self.gate.ends), ([b"one"], [b"one"]))
        self.assertEqual((other.asked, other.ends), ([b"two"], []))


class RefusedTests(GateCase):
    def test_command_is_replied_to_with_an_error(self) -> None:
        self.gate.verdicts.extend([DENIED, DENIED])
        self.send(b"LIST\nSTAT a\none\n")
        self.assertEqual(self.wire.taken(), b"ERR forbidden\nERR 403 forbidden\none!\n")
        self.assertEqual(self.protocol.refused, [(b"LIST", "rule 1"), (b"STAT a", "rule 1")])
        self.assertEqual((self.protocol.begun, self.gate.ends), ([b"one"], [b"one"]))
        self.assertEqual(self.factory.counts.refused, {"rule 1": 2})

    def test_many_refused_commands_share_the_turn_with_others(self) -> None:
        self.gate.usual = DENIED
        self.send(b"x\n" * 100)
        self.assertIs(self.protocol.state, State.WAITING)
        self.assertLess(len(self.protocol.refused), 10)
        self.clock.advance(0)
        self.assertEqual(len(self.protocol.refused), 100)

    def test_subscriber_may_abort(self) -> None:
        def abort(*arguments: Any) -> None:
            self.protocol.abort(Outcome.KILLED)

        self.patch(self.protocol, "publish_refusal", abort)
        self.gate.verdicts.append(DENIED)
        self.send(b"one\ntwo\n")
        self.assertIs(self.protocol.state, State.CLOSED)
        self.assertEqual(self.gate.asked, [b"one"])


class FailingGateTests(LoggedErrorsCase, GateCase):
    def test_connection_is_aborted_without_a_command(self) -> None:
        def fail(*arguments: object) -> None:
            raise ZeroDivisionError

        self.patch(self.gate, "admit", fail)
        self.send(b"one\n")
        self.assertTrue(self.wire.aborted)
        self.assertEqual((self.protocol.begun, self.protocol.cancelled), ([], []))
        self.assertEqual(self.flush(ZeroDivisionError), 1)


class DelayedTests(GateCase):
    def delay(self, seconds: float = 2.0, times: int = 1) -> None:
        """Delay the next command; it was sent with another one behind it."""
        self.gate.verdicts.extend([limited(seconds)] * times)
        self.send(b"one\ntwo\n")
        self.assertIs(self.protocol.state, State.DELAYED)
        self.assertEqual(self.protocol.begun, [])

    def test_gate_is_asked_again(self) -> None:
        self.delay(2.0)
        self.clock.advance(1.9)
        self.assertEqual(self.gate.asked, [b"one"])
        self.clock.advance(0.1)
        self.clock.advance(0)
        self.assertEqual(self.gate.asked, [b"one", b"one", b"two"])
        self.assertEqual(self.wire.taken(), b"one!\ntwo!\n")
        self.assertIs(self.protocol.state, State.IDLE)

    def test_delay_is_counted_once_and_is_a_part_of_the_commands_time(self) -> None:
        self.protocol.at_once = False
        self.delay(2.0, 2)
        self.clock.advance(2)
        self.assertIs(self.protocol.state, State.DELAYED)
        self.clock.advance(2)
        self.assertEqual(self.protocol.begun, [b"one"])
        self.assertEqual(self.protocol.started_at, 0.0)
        self.assertEqual(self.factory.counts.delayed, {"client.commands": 1})
        self.protocol.reply()
        self.clock.advance(0)
        self.assertEqual(self.protocol.started_at, 4.0)

    def test_command_is_refused_after_the_longest_delay(self) -> None:
        self.gate.usual = limited(2.0)
        self.send(b"STAT a\n")
        self.clock.advance(2)
        self.clock.advance(2)
        # Two seconds more would be too many.
        self.assertEqual(self.wire.taken(), b"ERR 429 too many commands retry-after=1\n")
        self.assertEqual(self.protocol.refused, [(b"STAT a", "client.commands")])
        self.assertEqual(self.protocol.started_at, 0.0)
        self.assertEqual(self.factory.counts.refused, {"client.commands": 1})

    def test_delay_that_would_be_too_long_is_refused_at_once(self) -> None:
        self.gate.usual = limited(LONGEST + 0.1)
        self.send(b"one\n")
        self.assertEqual(self.wire.taken(), b"ERR too many commands retry-after=1\n")
        self.assertEqual(self.factory.counts.delayed, {})

    def test_without_delays_a_command_is_refused_at_once(self) -> None:
        self.factory.delays.longest = 0.0
        for seconds in (0.0, 1.0):
            self.gate.verdicts.append(limited(seconds))
            self.send(b"one\n")
            self.assertEqual(self.wire.taken(), b"ERR too many commands retry-after=1\n")

    def test_end_of_another_clients_command_lets_it_begin(self) -> None:
        self.protocol.at_once = False
        other, wire = self.protocol, self.wire
        self.send(b"zero\n")
        self.connect(43211)
        self.protocol.at_once = False
        self.delay(0.0)
        other.reply()
        self.assertEqual(self.protocol.begun, [])
        self.clock.advance(0)
        self.assertEqual(self.protocol.begun, [b"one"])
        wire.lose(other)

    def test_commands_that_arrive_meanwhile_are_queued_up_to_the_limit(self) -> None:
        self.delay()
        self.send(b"x\n" * (QUEUE_LIMIT - 3))
        self.assertTrue(self.wire.read_from)
        self.send(b"x\n")
        self.assertFalse(self.wire.read_from)
        self.clock.advance(2)
        for _ in range(100):
            self.clock.advance(0)
        self.assertEqual(len(self.protocol.begun), QUEUE_LIMIT)
        self.assertTrue(self.wire.read_from)

    def test_client_that_does_not_read_is_asked_about_when_it_reads(self) -> None:
        self.delay(2.0)
        self.wire.fill()
        self.clock.advance(2)
        self.assertIs(self.protocol.state, State.IDLE)
        self.assertEqual(self.gate.asked, [b"one"])
        self.wire.empty()
        self.assertEqual(self.protocol.begun, [b"one", b"two"])

    def test_command_that_no_gate_delays_any_more_begins_at_once(self) -> None:
        self.protocol.at_once = False
        self.delay(4.0)
        self.clock.advance(1)
        self.factory.gates = ()
        self.factory.delays.retry_all()
        self.clock.advance(0)
        self.assertEqual((self.protocol.begun, self.protocol.started_at), ([b"one"], 0.0))
        # The time of that delay is not counted for a later command.
        self.protocol.reply()
        self.protocol.reply()
        self.clock.advance(60)
        self.factory.gates = (PlayedGate(limited(2.0)),)
        self.wire.taken()
        self.send(b"three\n")
        self.assertIs(self.protocol.state, State.DELAYED)
        self.clock.advance(2)
        self.clock.advance(0)
        self.assertEqual((self.protocol.begun[2:], self.protocol.started_at), ([b"three"], 61.0))

    def test_half_close_during_the_delay(self) -> None:
        self.delay(2.0)
        self.protocol.readConnectionLost()
        self.assertTrue(self.wire.open)
        self.clock.advance(2)
        self.clock.advance(0)
        self.assertEqual(self.wire.taken(), b"one!\ntwo!\n")
        self.assertTrue(self.wire.disconnecting)

    def test_every_end_during_the_delay(self) -> None:
        def lost() -> None:
            self.wire.lose(self.protocol)

        def aborted() -> None:
            self.protocol.abort(Outcome.DRAINED)

        def drained() -> None:
            self.protocol.drain()
            self.assertTrue(self.wire.disconnecting)

        for end in (lost, aborted, drained):
            self.delay()
            end()
            self.assertEqual(len(self.factory.delays), 0, end)
            self.assertEqual((self.protocol.begun, self.gate.ends), ([], []))
            self.assertEqual(self.protocol.cancelled, [])
            self.lose()
            self.setUp()

    def test_idle_timeout_does_not_end_a_delay(self) -> None:
        self.factory.delays.longest = 2000.0
        self.delay(1000.0)
        self.clock.advance(700)
        self.assertIs(self.protocol.state, State.DELAYED)
        self.wire.fill()
        self.clock.advance(700)
        self.assertTrue(self.wire.aborted)
