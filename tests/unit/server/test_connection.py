"""A connection that takes commands: order, bounds, time-outs and ends, whatever the verbs do."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from natproxy.nat import Outcome
from natproxy.protocol import MAX_LINE, Command
from natproxy.server.connection import QUEUE_LIMIT, CommandReceiver
from natproxy.server.factory import LINGER, CommandFactory
from tests.support.doubles import HalfClosingWire, Journal, Wire


class Echo(CommandReceiver):
    """Answers each command with its line and an exclamation mark, when told or at once."""

    log = Logger()
    at_once = True

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[bytes] = []
        self.dropped: list[Outcome] = []

    def command_received(self, command: Command) -> None:
        self.begun.append(command.line)
        if self.at_once:
            self.answer()

    def answer(self) -> None:
        self.outbound.write(self.begun[-1] + b"!\n")
        self.reply_finished()

    def cancel_command(self, outcome: Outcome) -> None:
        self.dropped.append(outcome)


class CommandsCase(SynchronousTestCase):
    """One client's connection."""

    wire_class: type[Wire] = HalfClosingWire
    at_once = True

    def setUp(self) -> None:
        self.clock = Clock()
        self.factory = CommandFactory(self.clock, 600.0)
        self.wire = self.wire_class(9000, 43210)
        self.protocol = Echo()
        self.protocol.factory = self.factory
        self.protocol.at_once = self.at_once
        self.protocol.makeConnection(self.wire)
        self.addCleanup(self.lose)

    def lose(self) -> None:
        if self.protocol in self.factory.connections:
            self.wire.lose(self.protocol)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])

    def send(self, data: bytes) -> None:
        self.protocol.dataReceived(data)


class LineTests(CommandsCase):
    def test_lines_may_come_in_any_pieces(self) -> None:
        for byte in b"one\r\n\r\ntwo 2 \n \t\nthree\n":
            self.send(bytes([byte]))
        self.assertEqual(self.wire.taken(), b"one!\ntwo 2 !\nthree!\n")

    def test_line_without_an_end_is_no_command(self) -> None:
        self.send(b"one\ntw")
        self.assertEqual(self.protocol.begun, [b"one"])
        self.protocol.readConnectionLost()
        self.assertEqual(self.protocol.begun, [b"one"])
        self.assertTrue(self.wire.disconnecting)

    def test_longest_line_there_may_be(self) -> None:
        line = b"x" * MAX_LINE
        for piece in (line + b"\n", line[:-1] + b"\r\n"):
            self.send(piece)
            self.clock.advance(0)
        self.send(line)
        self.send(b"\n")
        self.assertEqual(self.protocol.begun, [line, line[:-1], line])
        self.assertTrue(self.wire.open)

    def test_line_one_byte_too_long(self) -> None:
        self.send(b"x" * (MAX_LINE + 1) + b"\nnext\n")
        self.assert_refused(b"")

    def test_line_without_end_is_refused_before_it_ends(self) -> None:
        self.send(b"x" * (MAX_LINE + 1))
        self.assert_refused(b"")

    def test_what_came_before_the_long_line_is_answered_first(self) -> None:
        self.send(b"one\ntwo\n" + b"x" * 70_000 + b"\nnext\n")
        self.assert_refused(b"one!\ntwo!\n")

    def assert_refused(self, before: bytes) -> None:
        self.assertEqual(self.wire.taken(), before + b"ERR line too long\n")
        self.assertTrue(self.wire.half_closed)
        self.assertIsNone(self.wire.producer)
        self.send(b"another\n")
        self.assertEqual(self.wire.taken(), b"")
        self.assertNotIn(b"next", self.protocol.begun)

    def test_a_great_many_blank_lines_are_split_in_small_portions(self) -> None:
        held = []
        line_received = self.protocol.lineReceived

        def note(line: bytes) -> None:
            held.append(len(self.protocol._buffer))
            line_received(line)

        self.protocol.lineReceived = note
        self.send(b"\n" * 65_536)
        self.clock.advance(0)
        self.send(b"one\n")
        self.assertEqual(self.wire.taken(), b"one!\n")
        self.assertEqual(len(held), 65_537)
        # It copies what it holds for each line: 64 KiB at once took a quarter of a second.
        self.assertLess(max(held), 2048)


class SlowAnswerTests(CommandsCase):
    at_once = False

    def test_long_line_waits_for_the_answers_to_what_came_before(self) -> None:
        self.send(b"one\ntwo\n" + b"x" * 70_000)
        self.assertFalse(self.wire.read_from)
        self.protocol.answer()
        self.assertTrue(self.wire.open)
        self.protocol.answer()
        self.assertEqual(self.wire.taken(), b"one!\ntwo!\nERR line too long\n")
        self.assertTrue(self.wire.half_closed)

    def test_commands_are_answered_one_at_a_time_and_in_order(self) -> None:
        self.send(b"one\ntwo\nthree\n")
        for number in (1, 2, 3):
            self.assertEqual(self.protocol.begun, [b"one", b"two", b"three"][:number])
            self.protocol.answer()
        self.assertEqual(self.wire.taken(), b"one!\ntwo!\nthree!\n")

    def test_reading_is_paused_when_64_commands_wait(self) -> None:
        self.send(b"".join(b"%d\n" % number for number in range(QUEUE_LIMIT)))
        self.assertTrue(self.wire.read_from)
        self.send(b"64\n")
        self.assertFalse(self.wire.read_from)

    def test_reading_is_resumed_when_the_queue_is_empty(self) -> None:
        lines = [b"%d" % number for number in range(500)]
        self.send(b"\n".join(lines) + b"\n")
        self.assertFalse(self.wire.read_from)
        paused = 0
        for number in range(500):
            self.assertEqual(self.protocol.begun, lines[: number + 1])
            self.assertLessEqual(len(self.protocol._queue), QUEUE_LIMIT)
            paused += not self.wire.read_from
            self.protocol.answer()
            self.clock.advance(0)
        self.assertTrue(self.wire.read_from)
        self.assertGreater(paused, 400)
        self.assertEqual(self.wire.taken(), b"".join(line + b"!\n" for line in lines))

    def test_client_that_goes_before_reading_is_resumed(self) -> None:
        self.send(b"x\n" * 65)
        for _ in range(64):
            self.protocol.answer()
            self.clock.advance(0)
        self.protocol.answer()
        self.wire.lose(self.protocol)
        self.clock.advance(0)
        self.assertEqual(len(self.protocol.begun), 65)

    def test_half_closed_client_is_answered_in_full(self) -> None:
        self.send(b"one\ntwo\n")
        self.protocol.readConnectionLost()
        self.protocol.answer()
        self.assertTrue(self.wire.open)
        self.protocol.answer()
        self.assertEqual(self.wire.taken(), b"one!\ntwo!\n")
        self.assertTrue(self.wire.disconnecting)
        self.assertIsNone(self.wire.producer)

    def test_half_closed_client_waits_for_nothing(self) -> None:
        self.protocol.readConnectionLost()
        self.assertTrue(self.wire.disconnecting)

    def test_client_that_goes_drops_the_answer_and_the_queue(self) -> None:
        self.send(b"one\ntwo\n")
        self.wire.lose(self.protocol, ConnectionLost())
        self.assertEqual(self.protocol.dropped, [Outcome.CLIENT_GONE])
        self.assertEqual(self.protocol.begun, [b"one"])
        self.assertEqual(self.factory.connections, set())

    def test_the_next_command_waits_while_the_client_does_not_read(self) -> None:
        self.send(b"one\ntwo\n")
        self.wire.fill()
        self.protocol.answer()
        self.assertEqual(self.protocol.begun, [b"one"])
        self.wire.empty()
        self.assertEqual(self.protocol.begun, [b"one", b"two"])

    def test_answers_that_take_longer_than_the_idle_time(self) -> None:
        self.send(b"one\n")
        self.clock.pump([500] * 5)
        self.assertTrue(self.wire.open)
        self.protocol.answer()
        self.clock.advance(599)
        self.assertTrue(self.wire.open)
        self.clock.advance(1)
        self.assertFalse(self.wire.open)

    def test_line_that_drips_does_not_extend_the_idle_time(self) -> None:
        for _ in range(5):
            self.send(b"x")
            self.clock.advance(100)
        self.send(b"\n\n \n")
        self.clock.advance(0)
        self.assertEqual(self.protocol.begun, [b"xxxxx"])
        self.protocol.answer()
        # Neither a blank line nor a part of a line is a command.
        for byte in (b" ", b"\n", b"y", b"y", b"y", b"y"):
            self.assertTrue(self.wire.open)
            self.send(byte)
            self.clock.advance(100)
        self.assertFalse(self.wire.open)

    def test_client_that_does_not_read_is_aborted_after_the_idle_time(self) -> None:
        self.send(b"one\n")
        self.clock.advance(300)
        self.wire.fill()
        self.clock.advance(599)
        self.assertTrue(self.wire.open)
        self.clock.advance(1)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.protocol.dropped, [Outcome.TIMEOUT])

    def test_drain_finishes_the_command_and_closes(self) -> None:
        self.send(b"one\ntwo\n")
        drained = self.factory.drain()
        self.send(b"three\n")
        self.protocol.answer()
        self.assertEqual(self.wire.taken(), b"one!\n")
        self.assertEqual(self.protocol.begun, [b"one"])
        self.assertTrue(self.wire.half_closed)
        self.assertNoResult(drained)
        self.wire.lose(self.protocol, ConnectionDone())
        self.successResultOf(drained)

    def test_drain_reads_what_the_client_still_sends_so_that_nothing_is_reset(self) -> None:
        self.send(b"x\n" * 65)
        self.assertFalse(self.wire.read_from)
        self.factory.drain()
        self.protocol.answer()
        self.assertTrue(self.wire.half_closed)
        self.assertTrue(self.wire.read_from)

    def test_drain_with_a_reply_still_unread_does_not_reset_it_away(self) -> None:
        # A close with input unread is a reset, and would take the reply's tail along.
        self.send(b"x\n" * 66)
        self.wire.fill()
        self.protocol.answer()
        self.assertFalse(self.wire.read_from)
        self.factory.drain()
        self.assertTrue(self.wire.half_closed or self.wire.read_from)

    def test_abort_of_what_is_left(self) -> None:
        self.send(b"one\n")
        self.factory.drain()
        self.factory.abort()
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.protocol.dropped, [Outcome.DRAINED])


class LingerTests(CommandsCase):
    """After the last word the client may close first; a reset would destroy the word."""

    def refuse(self) -> None:
        self.protocol.refuse("no")
        self.assertEqual(self.wire.taken(), b"ERR no\n")
        self.assertTrue(self.wire.half_closed)
        self.assertFalse(self.wire.disconnecting)

    def test_client_closes(self) -> None:
        self.refuse()
        self.protocol.writeConnectionLost()
        self.protocol.readConnectionLost()
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)

    def test_client_has_closed_before_all_was_sent(self) -> None:
        self.refuse()
        self.protocol.readConnectionLost()
        self.assertTrue(self.wire.disconnecting)

    def test_client_gets_a_second_to_close(self) -> None:
        self.refuse()
        self.clock.advance(300)
        self.protocol.writeConnectionLost()
        self.clock.advance(LINGER - 0.1)
        self.assertFalse(self.wire.disconnecting)
        self.clock.advance(0.1)
        self.assertTrue(self.wire.disconnecting)

    def test_client_that_does_not_take_the_last_word_is_aborted(self) -> None:
        self.refuse()
        self.clock.advance(600)
        self.assertTrue(self.wire.aborted)

    def test_drain_leaves_it_to_finish(self) -> None:
        self.refuse()
        self.factory.drain()
        self.assertTrue(self.wire.half_closed)
        self.assertFalse(self.wire.disconnecting)

    def test_idle_client_that_does_not_go_is_aborted(self) -> None:
        self.clock.advance(600)
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(LINGER)
        self.assertTrue(self.wire.aborted)


class NoHalfCloseTests(CommandsCase):
    """TLS has no half-close that could be relied on."""

    wire_class = Wire

    def test_refusal_closes(self) -> None:
        self.protocol.refuse("no")
        self.assertEqual(self.wire.taken(), b"ERR no\n")
        self.assertTrue(self.wire.disconnecting)
        self.assertIsNone(self.wire.producer)


class UnexpectedErrorTests(CommandsCase):
    """An error in an answer, which nobody has thought of."""

    at_once = False
    logged_errors = None

    @pytest.fixture(autouse=True)
    def _logged(self, logged_errors: object) -> None:
        self.logged_errors = logged_errors

    def test_client_is_cut_off_whatever_its_command_came_after(self) -> None:
        def fail(command: Command) -> None:
            raise ZeroDivisionError

        journal = Journal(self)
        self.send(b"one\ntwo\nthree\n")
        self.patch(self.protocol, "command_received", fail)
        # By now it is not the transport that calls, and would see the error.
        self.protocol.answer()
        self.assertEqual(self.wire.taken(), b"one!\n")
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.protocol.dropped, [Outcome.ERROR])
        journal.line_with("cannot answer 127.0.0.1:43210")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        if self.logged_errors is not None:
            self.logged_errors.flush(ZeroDivisionError)

    def test_place_of_a_client_is_free_again_whatever_fails_when_it_goes(self) -> None:
        def fail(outcome: Outcome) -> None:
            raise ZeroDivisionError

        self.send(b"one\n")
        self.patch(self.protocol, "cancel_command", fail)
        self.assertRaises(ZeroDivisionError, self.protocol.abort, Outcome.ERROR)
        self.assertTrue(self.wire.aborted)
        self.protocol.connectionLost()
        self.assertEqual(self.factory.connections, set())
        self.assertEqual(self.factory.admission.admitted, 0)


class AddressTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.address_of = CommandFactory(Clock(), 600.0).address_of

    def test_with_a_port(self) -> None:
        self.assertEqual(self.address_of(IPv4Address("TCP", "10.0.0.5", 80)), ("10.0.0.5", 80))
        self.assertEqual(str(self.address_of(IPv6Address("TCP", "::1", 80))), "[::1]:80")

    def test_without_a_port_no_two_are_the_same(self) -> None:
        addresses = [self.address_of(UNIXAddress(b"/run/\xff\n")) for _ in range(3)]
        self.assertEqual(len({address.port for address in addresses}), 3)
        self.assertTrue(all(address.port > 65_535 for address in addresses))
        self.assertEqual(addresses[0].host, "unix:/run/\\xff\\x0a")
        self.assertEqual(self.address_of(None).host, "unix")
