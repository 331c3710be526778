"""The time-outs of lines and of bodies: what they count, and what follows."""

from __future__ import annotations

from natproxy.nat import Outcome
from natproxy.protocol import MAX_LINE
from natproxy.server.rotation import QUEUE_LIMIT
from natproxy.server.state import State
from tests.support.doubles import Journal
from tests.support.echo_receiver import CommandsCase


class LineTests(CommandsCase):
    def setUp(self) -> None:
        super().setUp()
        self.factory.lines.change(30.0)
        self.send(b"one\n")
        self.wire.clear()

    def test_line_that_arrives_byte_by_byte(self) -> None:
        for _ in range(29):
            self.send(b"x")
            self.clock.advance(1)
        self.assertFalse(self.wire.disconnecting)
        self.send(b"x")
        self.clock.advance(1)
        self.assertTrue(self.wire.disconnecting)
        self.assertEqual(self.wire.value(), b"")

    def test_time_of_each_line_is_its_own(self) -> None:
        self.send(b"x")
        self.clock.advance(29)
        self.send(b"\n")
        self.clock.advance(100)
        self.assertFalse(self.wire.disconnecting)
        for _ in range(3):
            # The end of a line, and the beginning of the next one.
            self.send(b"a\nb")
            self.clock.advance(29)
        self.assertFalse(self.wire.disconnecting)
        self.assertEqual(self.protocol.begun[1:], [b"x", b"a", b"ba", b"ba"])
        self.clock.advance(1)
        self.assertTrue(self.wire.disconnecting)

    def test_idle_client_has_begun_no_line(self) -> None:
        self.send(b"a long line" * 200 + b"\n")
        self.clock.advance(599)
        self.assertFalse(self.wire.disconnecting)

    def test_no_limit(self) -> None:
        self.factory.lines.change(0.0)
        self.send(b"x")
        self.clock.advance(599)
        self.assertFalse(self.wire.disconnecting)
        self.clock.advance(1)
        self.assertTrue(self.wire.disconnecting)

    def test_connection_that_closes_is_left_alone(self) -> None:
        self.send(b"x")
        self.protocol.refuse("no")
        self.clock.advance(30)
        self.assertIs(self.protocol.state, State.FLUSHING)
        self.assertFalse(self.wire.aborted)

    def test_line_that_is_too_long(self) -> None:
        self.protocol.at_once = False
        self.send(b"one\n" + b"x" * (MAX_LINE + 1))
        self.clock.advance(30)
        self.protocol.reply()
        self.assertEqual(self.wire.value(), b"one!\nERR line too long\n")

    def test_lost_connection_leaves_no_timer(self) -> None:
        self.send(b"x")
        self.lose()


class PausedLineTests(CommandsCase):
    at_once = False

    def test_time_in_which_the_daemon_does_not_read_does_not_count(self) -> None:
        self.factory.lines.change(30.0)
        self.send(b"one\n" * (QUEUE_LIMIT + 1) + b"x")
        self.clock.advance(100)
        self.assertFalse(self.wire.disconnecting)
        while self.protocol.command is not None:
            self.protocol.reply()
            self.clock.advance(0)
        self.assertEqual(len(self.protocol.begun), QUEUE_LIMIT + 1)
        self.clock.advance(30)
        self.assertTrue(self.wire.disconnecting)


class BodyTests(CommandsCase):
    at_once = False

    def setUp(self) -> None:
        super().setUp()
        self.journal = Journal(self)
        self.factory.bodies.change(50.0)

    def begin(self) -> None:
        self.send(b"one\n")
        self.protocol.body_begun()

    def test_body_that_takes_too_long(self) -> None:
        self.begin()
        self.clock.advance(49)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(1)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.protocol.cancelled, [Outcome.TIMEOUT])
        line = self.journal.line_with("disconnected")
        self.assertIn("127.0.0.1:43210", line)
        self.assertIn("a body took longer than --body-timeout allows", line)

    def test_body_that_has_ended(self) -> None:
        self.begin()
        self.protocol.reply()
        self.clock.advance(49)
        # The next command has no body.
        self.send(b"two\n")
        self.clock.advance(100)
        self.assertFalse(self.wire.aborted)

    def test_each_body_has_the_whole_time(self) -> None:
        for _ in range(3):
            self.begin()
            self.clock.advance(49)
            self.protocol.reply()
        self.assertFalse(self.wire.aborted)

    def test_no_limit(self) -> None:
        self.factory.bodies.change(0.0)
        self.begin()
        self.clock.advance(500)
        self.assertFalse(self.wire.aborted)

    def test_lost_connection_leaves_no_timer(self) -> None:
        self.begin()
        self.lose()
