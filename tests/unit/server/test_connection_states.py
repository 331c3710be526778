"""The states of a client's connection: rules that hold after any events in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from natproxy.nat import Outcome
from natproxy.protocol import MAX_LINE
from natproxy.server.factory import LINGER, CommandFactory
from natproxy.server.rotation import QUEUE_LIMIT
from natproxy.server.state import ENDING, OPEN, IllegalTransition, Input, State
from tests.support.doubles import HalfClosingWire, TurnClock, Wire
from tests.support.echo_receiver import CommandsCase, EchoReceiver

IDLE_TIMEOUT = 600.0


class StateTests(CommandsCase):
    at_once = False

    def test_of_one_command(self) -> None:
        self.assertIs(self.protocol.state, State.IDLE)
        self.send(b"one\n")
        self.assertIs(self.protocol.state, State.REPLYING)
        self.protocol.reply()
        self.assertIs(self.protocol.state, State.IDLE)
        self.wire.lose(self.protocol)
        self.assertIs(self.protocol.state, State.CLOSED)

    def test_commands_begin_in_a_loop_and_not_inside_one_another(self) -> None:
        states: list[State] = []
        reply = self.protocol.reply

        def note_and_reply() -> None:
            states.append(self.protocol.state)
            reply()
            states.append(self.protocol.state)

        self.protocol.at_once = True
        self.protocol.reply = note_and_reply
        self.send(b"one\ntwo\n")
        self.assertEqual(states, [State.DISPATCHING] * 4)
        self.assertIs(self.protocol.state, State.IDLE)

    def test_waiting_connection_is_in_the_rotation_until_it_ends(self) -> None:
        self.protocol.at_once = True
        self.send(b"x\n" * 100)
        self.assertIs(self.protocol.state, State.WAITING)
        self.assertIn(self.protocol, self.factory.rotation)
        self.protocol.abort(Outcome.ERROR)
        self.assertNotIn(self.protocol, self.factory.rotation)

    def test_commands_that_arrive_while_a_connection_waits_are_queued(self) -> None:
        self.send(b"one\ntwo\n")
        self.factory.rotation.left -= 100_000
        self.protocol.reply()
        self.assertIs(self.protocol.state, State.WAITING)
        self.send(b"three\n")
        self.assertEqual(self.protocol.begun, [b"one"])
        self.clock.advance(0)
        self.assertEqual(self.protocol.begun, [b"one", b"two"])

    def test_reply_that_is_finished_twice_is_a_bug(self) -> None:
        self.send(b"one\n")
        self.protocol.reply()
        self.assertRaises(IllegalTransition, self.protocol.reply_finished)

    def test_client_is_not_refused_inside_a_reply(self) -> None:
        self.send(b"one\n")
        self.assertRaises(IllegalTransition, self.protocol.refuse, "no")

    def test_drain_after_the_reply_while_the_client_does_not_read(self) -> None:
        self.send(b"one\n")
        self.factory.drain()
        self.assertIs(self.protocol.state, State.DRAINING)
        self.wire.fill()
        self.protocol.reply()
        self.assertIs(self.protocol.state, State.DRAINING)
        self.wire.empty()
        self.assertIs(self.protocol.state, State.FLUSHING)

    def test_long_line_while_draining_is_reported(self) -> None:
        self.send(b"one\n")
        self.factory.drain()
        self.send(b"x" * (MAX_LINE + 1))
        self.assertIs(self.protocol.input, Input.TOO_LONG)
        self.protocol.reply()
        self.assertEqual(self.wire.taken(), b"one!\nERR line too long\n")

    def test_drained_client_that_has_half_closed_is_closed_without_lingering(self) -> None:
        self.send(b"one\n")
        self.factory.drain()
        self.protocol.readConnectionLost()
        self.protocol.reply()
        self.assertIs(self.protocol.state, State.CLOSING)
        self.assertTrue(self.wire.disconnecting)

    def test_each_timer_has_its_callback(self) -> None:
        self.protocol.refuse("no")
        self.assertIs(self.protocol.state, State.FLUSHING)
        self.protocol.writeConnectionLost()
        self.assertIs(self.protocol.state, State.LINGERING)
        self.protocol.linger_expired()
        self.assertIs(self.protocol.state, State.CLOSING)
        self.assertFalse(self.wire.aborted)
        self.protocol.linger_expired()
        self.assertIs(self.protocol.state, State.CLOSED)
        self.assertTrue(self.wire.aborted)

    def test_idle_time_out_is_set_again_while_a_command_is_under_way(self) -> None:
        self.send(b"one\n")
        self.protocol.idle_expired()
        self.assertIs(self.protocol.state, State.REPLYING)
        self.protocol.reply()
        self.protocol.idle_expired()
        self.assertIs(self.protocol.state, State.CLOSING)
        self.protocol.idle_expired()
        self.assertTrue(self.wire.aborted)

    def test_time_out_of_the_first_command_concerns_no_other(self) -> None:
        self.send(b"one\n")
        self.protocol.first_command_expired()
        self.protocol.reply()
        self.protocol.first_command_expired()
        self.assertIs(self.protocol.state, State.IDLE)


class Connections(RuleBasedStateMachine):
    """One client that does anything, and a daemon that drains or aborts at any time.

    It holds the commands that were sent, in their order, and compares them with the replies.
    """

    wire_class: type[Wire] = HalfClosingWire

    def __init__(self) -> None:
        super().__init__()
        self.clock = TurnClock()
        self.factory = CommandFactory(self.clock, IDLE_TIMEOUT)
        self.wire = self.wire_class(9000, 40_000)
        self.protocol = EchoReceiver()
        self.protocol.factory = self.factory
        self.protocol.makeConnection(self.wire)
        self.sent: list[bytes] = []
        self.replies = b""
        self.connected = True
        self.drained = self.ended = False

    def reads(self) -> bool:
        return self.connected and self.wire.read_from and not self.ended

    def replying(self) -> bool:
        return self.protocol.command is not None

    @precondition(reads)
    @rule(
        lines=st.lists(st.sampled_from([b"x", b"", b"long " + b"y" * 5000]), max_size=80),
        at_once=st.booleans(),
    )
    def send(self, lines: list[bytes], at_once: bool) -> None:
        self.protocol.at_once = at_once
        # A command has its number in it, so that no two are the same.
        numbered = [b"%d %s" % (len(self.sent) + n, line) for n, line in enumerate(lines) if line]
        self.sent += numbered
        self.protocol.dataReceived(b"".join(line + b"\n\r\n" for line in numbered))

    @precondition(reads)
    @rule()
    def send_too_long_a_line(self) -> None:
        self.protocol.dataReceived(b"z" * (MAX_LINE + 10))
        self.sent.append(b"")

    @precondition(reads)
    @rule()
    def half_close(self) -> None:
        self.ended = True
        self.protocol.readConnectionLost()

    @precondition(replying)
    @rule(at_once=st.booleans())
    def reply(self, at_once: bool) -> None:
        self.protocol.at_once = at_once
        self.protocol.reply()

    @rule()
    def turn(self) -> None:
        self.clock.turn()

    @precondition(lambda self: self.wire.producer is not None)
    @rule(full=st.booleans())
    def fill_or_empty(self, full: bool) -> None:
        (self.wire.fill if full else self.wire.empty)()

    @rule()
    def drain(self) -> None:
        self.drained = True
        self.factory.drain()

    @precondition(lambda self: self.protocol.state is State.FLUSHING)
    @rule()
    def flush(self) -> None:
        self.protocol.writeConnectionLost()

    @rule(seconds=st.sampled_from([0.0, LINGER, IDLE_TIMEOUT]))
    def wait(self, seconds: float) -> None:
        self.clock.rightNow += seconds
        self.clock.turn()

    @precondition(lambda self: self.connected)
    @rule()
    def lose(self) -> None:
        self.connected = False
        self.wire.lose(self.protocol)

    @invariant()
    def state_agrees_with_what_it_stands_for(self) -> None:
        protocol = self.protocol
        state = protocol.state
        assert state is not State.DISPATCHING
        assert (state is State.WAITING) == (protocol in self.factory.rotation)
        if state in (State.IDLE, State.WAITING) or state in ENDING:
            assert protocol.command is None
        if state is State.REPLYING:
            assert protocol.command is not None
        if state in ENDING | {State.DRAINING}:
            assert not protocol._queue or state in ENDING
        if self.drained:
            assert state not in OPEN
        assert len(protocol._queue) <= QUEUE_LIMIT
        assert self.wire.open == (state not in (State.CLOSING, State.CLOSED)) or not self.connected
        assert (self.protocol in self.factory.connections) == self.connected

    @invariant()
    def idle_connection_has_no_work(self) -> None:
        protocol = self.protocol
        if protocol.state is State.IDLE and not protocol.outbound.paused:
            assert not protocol._queue
            assert not protocol.paused
            assert protocol.input is Input.OPEN

    @invariant()
    def commands_begin_in_order_and_none_is_left_out(self) -> None:
        begun = self.protocol.begun
        assert begun == [line for line in self.sent if line][: len(begun)]
        self.replies += self.wire.taken()
        finished = begun[:-1] if self.protocol.command is not None else begun
        expected = b"".join(line + b"!\n" for line in finished)
        # A command that was cancelled has no reply.
        whole = self.replies.removesuffix(b"ERR line too long\n")
        assert expected.startswith(whole)
        assert len(expected) == len(whole) or self.protocol.cancelled

    def teardown(self) -> None:
        if self.connected:
            self.lose()
        assert [call for call in self.clock.getDelayedCalls() if call.active()] == []


class ConnectionsWithoutHalfClose(Connections):
    wire_class = Wire


class AnyOrderTests(SynchronousTestCase):
    def run_machine(self, machine: Any) -> None:
        run_state_machine_as_test(machine, settings=settings(stateful_step_count=25, deadline=None))

    def test_events_in_any_order(self) -> None:
        self.run_machine(Connections)

    def test_events_in_any_order_without_half_close(self) -> None:
        self.run_machine(ConnectionsWithoutHalfClose)
