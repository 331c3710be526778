"""A client's connection: order of replies, bounds, time-outs and ends, whatever the verbs are."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionLost

from natproxy.nat import Outcome
from natproxy.protocol import MAX_LINE, Command
from natproxy.server.factory import LINGER
from natproxy.server.rotation import QUEUE_LIMIT
from tests.support.doubles import Journal, Wire
from tests.support.echo_receiver import CommandsCase
from tests.support.logged_errors import LoggedErrorsCase


class LineTests(CommandsCase):
    def test_lines_are_received_in_pieces_of_any_size(self) -> None:
        for byte in b"one\r\n\r\ntwo 2 \n \t\nthree\n":
            self.send(bytes([byte]))
        self.assertEqual(self.wire.taken(), b"one!\ntwo 2 !\nthree!\n")

    def test_line_without_a_line_feed_is_not_a_command(self) -> None:
        self.send(b"one\ntw")
        self.assertEqual(self.protocol.begun, [b"one"])
        self.protocol.readConnectionLost()
        self.assertEqual(self.protocol.begun, [b"one"])
        self.assertTrue(self.wire.disconnecting)

    def test_longest_line(self) -> None:
        line = b"x" * MAX_LINE
        for piece in (line + b"\n", line[:-1] + b"\r\n"):
            self.send(piece)
            self.clock.advance(0)
        self.send(line)
        self.send(b"\n")
        self.assertEqual(self.protocol.begun, [line, line[:-1], line])
        self.assertTrue(self.wire.open)

    def test_line_that_is_one_byte_too_long(self) -> None:
        self.send(b"x" * (MAX_LINE + 1) + b"\nnext\n")
        self.assert_refused(b"")

    def test_line_that_is_too_long_and_the_whole_of_a_read(self) -> None:
        self.send(b"x" * (MAX_LINE + 1) + b"\n")
        self.assert_refused(b"")

    def test_long_line_is_refused_before_its_line_feed_arrives(self) -> None:
        self.send(b"x" * (MAX_LINE + 1))
        self.assert_refused(b"")

    def test_commands_before_the_long_line_are_replied_to_first(self) -> None:
        self.send(b"one\ntwo\n" + b"x" * 70_000 + b"\nnext\n")
        self.assert_refused(b"one!\ntwo!\n")

    def assert_refused(self, before: bytes) -> None:
        self.assertEqual(self.wire.taken(), before + b"ERR line too long\n")
        self.assertTrue(self.wire.half_closed)
        self.assertIsNone(self.wire.producer)
        self.send(b"another\n")
        self.assertEqual(self.wire.taken(), b"")
        self.assertNotIn(b"next", self.protocol.begun)

    def test_many_blank_lines_are_parsed_in_small_slices(self) -> None:
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


class SlowReplyTests(CommandsCase):
    at_once = False

    def test_error_for_a_long_line_follows_the_replies_before_it(self) -> None:
        self.send(b"one\ntwo\n" + b"x" * 70_000)
        self.assertFalse(self.wire.read_from)
        self.protocol.reply()
        self.assertTrue(self.wire.open)
        self.protocol.reply()
        self.assertEqual(self.wire.taken(), b"one!\ntwo!\nERR line too long\n")
        self.assertTrue(self.wire.half_closed)

    def test_commands_are_replied_to_one_at_a_time_and_in_order(self) -> None:
        self.send(b"one\ntwo\nthree\n")
        for number in (1, 2, 3):
            self.assertEqual(self.protocol.begun, [b"one", b"two", b"three"][:number])
            self.protocol.reply()
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
            self.protocol.reply()
            self.clock.advance(0)
        self.assertTrue(self.wire.read_from)
        self.assertGreater(paused, 400)
        self.assertEqual(self.wire.taken(), b"".join(line + b"!\n" for line in lines))

    def test_client_that_disconnects_before_reading_is_resumed(self) -> None:
        self.send(b"x\n" * 65)
        for _ in range(64):
            self.protocol.reply()
            self.clock.advance(0)
        self.protocol.reply()
        self.wire.lose(self.protocol)
        self.clock.advance(0)
        self.assertEqual(len(self.protocol.begun), 65)

    def test_half_closed_client_receives_all_replies(self) -> None:
        self.send(b"one\ntwo\n")
        self.protocol.readConnectionLost()
        self.protocol.reply()
        self.assertTrue(self.wire.open)
        self.protocol.reply()
        self.assertEqual(self.wire.taken(), b"one!\ntwo!\n")
        self.assertTrue(self.wire.disconnecting)
        self.assertIsNone(self.wire.producer)

    def test_idle_connection_closes_when_the_client_half_closes(self) -> None:
        self.protocol.readConnectionLost()
        self.assertTrue(self.wire.disconnecting)

    def test_lost_connection_cancels_the_command_and_clears_the_queue(self) -> None:
        self.send(b"one\ntwo\n")
        self.wire.lose(self.protocol, ConnectionLost())
        self.assertEqual(self.protocol.cancelled, [Outcome.CLIENT_GONE])
        self.assertEqual(self.protocol.begun, [b"one"])
        self.assertEqual(self.factory.connections, set())

    def test_the_next_command_waits_while_the_client_does_not_read(self) -> None:
        self.send(b"one\ntwo\n")
        self.wire.fill()
        self.protocol.reply()
        self.assertEqual(self.protocol.begun, [b"one"])
        self.wire.empty()
        self.assertEqual(self.protocol.begun, [b"one", b"two"])

    def test_reply_may_take_longer_than_the_idle_time_out(self) -> None:
        self.send(b"one\n")
        self.clock.pump([500] * 5)
        self.assertTrue(self.wire.open)
        self.protocol.reply()
        self.clock.advance(599)
        self.assertTrue(self.wire.open)
        self.clock.advance(1)
        self.assertFalse(self.wire.open)

    def test_parts_of_lines_do_not_extend_the_idle_time_out(self) -> None:
        for _ in range(5):
            self.send(b"x")
            self.clock.advance(100)
        self.send(b"\n\n \n")
        self.clock.advance(0)
        self.assertEqual(self.protocol.begun, [b"xxxxx"])
        self.protocol.reply()
        # Neither a blank line nor a part of a line is a command.
        for byte in (b" ", b"\n", b"y", b"y", b"y", b"y"):
            self.assertTrue(self.wire.open)
            self.send(byte)
            self.clock.advance(100)
        self.assertFalse(self.wire.open)

    def test_client_that_does_not_read_is_aborted_after_the_idle_time_out(self) -> None:
        self.send(b"one\n")
        self.clock.advance(300)
        self.wire.fill()
        self.clock.advance(599)
        self.assertTrue(self.wire.open)
        self.clock.advance(1)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.protocol.cancelled, [Outcome.TIMEOUT])

    def test_drain_finishes_the_command_and_closes(self) -> None:
        self.send(b"one\ntwo\n")
        drained = self.factory.drain()
        self.send(b"three\n")
        self.protocol.reply()
        self.assertEqual(self.wire.taken(), b"one!\n")
        self.assertEqual(self.protocol.begun, [b"one"])
        self.assertTrue(self.wire.half_closed)
        self.assertNoResult(drained)
        self.wire.lose(self.protocol, ConnectionDone())
        self.successResultOf(drained)

    def test_drain_reads_on_so_that_the_reply_is_not_reset(self) -> None:
        self.send(b"x\n" * 65)
        self.assertFalse(self.wire.read_from)
        self.factory.drain()
        self.protocol.reply()
        self.assertTrue(self.wire.half_closed)
        self.assertTrue(self.wire.read_from)

    def test_drain_does_not_reset_a_reply_that_is_not_read_yet(self) -> None:
        # A close with input unread is a reset: the client would lose the end of the reply.
        self.send(b"x\n" * 66)
        self.wire.fill()
        self.protocol.reply()
        self.assertFalse(self.wire.read_from)
        self.factory.drain()
        self.assertTrue(self.wire.half_closed or self.wire.read_from)

    def test_abort_cancels_the_command(self) -> None:
        self.send(b"one\n")
        self.factory.drain()
        self.factory.abort()
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.protocol.cancelled, [Outcome.DRAINED])


class LingerTests(CommandsCase):
    """After the last reply the client may close first, because a reset would destroy the reply."""

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

    def test_connection_closes_if_the_client_has_not_closed_in_time(self) -> None:
        self.refuse()
        self.clock.advance(300)
        self.protocol.writeConnectionLost()
        self.clock.advance(LINGER - 0.1)
        self.assertFalse(self.wire.disconnecting)
        self.clock.advance(0.1)
        self.assertTrue(self.wire.disconnecting)

    def test_client_that_does_not_read_the_last_reply_is_aborted(self) -> None:
        self.refuse()
        self.clock.advance(600)
        self.assertTrue(self.wire.aborted)

    def test_drain_does_not_disturb_a_connection_that_is_ending(self) -> None:
        self.refuse()
        self.factory.drain()
        self.assertTrue(self.wire.half_closed)
        self.assertFalse(self.wire.disconnecting)

    def test_idle_connection_is_closed_and_aborted_if_it_does_not_end(self) -> None:
        self.clock.advance(600)
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(LINGER)
        self.assertTrue(self.wire.aborted)


class NoHalfCloseTests(CommandsCase):
    """A transport without half-close, as TLS is."""

    wire_class = Wire

    def test_refusal_closes(self) -> None:
        self.protocol.refuse("no")
        self.assertEqual(self.wire.taken(), b"ERR no\n")
        self.assertTrue(self.wire.disconnecting)
        self.assertIsNone(self.wire.producer)


class UnexpectedErrorTests(LoggedErrorsCase, CommandsCase):
    """An unexpected exception while a command is under way."""

    at_once = False

    def test_connection_is_aborted_and_the_exception_logged(self) -> None:
        def fail(command: Command) -> None:
            raise ZeroDivisionError

        journal = Journal(self)
        self.send(b"one\ntwo\nthree\n")
        self.patch(self.protocol, "command_received", fail)
        # The transport is not on the stack here: it would not see the exception.
        self.protocol.reply()
        self.assertEqual(self.wire.taken(), b"one!\n")
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.protocol.cancelled, [Outcome.ERROR])
        journal.line_with("cannot reply to 127.0.0.1:43210")
        self.assertEqual(self.flush(ZeroDivisionError), 1)

    def test_place_of_a_client_is_released_even_if_cancelling_its_command_fails(self) -> None:
        def fail(outcome: Outcome) -> None:
            raise ZeroDivisionError

        self.send(b"one\n")
        self.patch(self.protocol, "cancel_command", fail)
        self.assertRaises(ZeroDivisionError, self.protocol.abort, Outcome.ERROR)
        self.assertTrue(self.wire.aborted)
        self.protocol.connectionLost()
        self.assertEqual(self.factory.connections, set())
        self.assertEqual(self.factory.admission.admitted, 0)
