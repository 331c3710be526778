"""How much work connections cause in one turn of the reactor: counted, never timed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet import error
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver.protocol import FileServerProtocol
from natproxy.protocol import Command
from natproxy.proxy.connector import TCPConnector
from natproxy.proxy.protocol import ProxyProtocol
from natproxy.server.connection import CommandReceiver
from natproxy.server.factory import LINGER, CommandFactory
from natproxy.server.rotation import SHARE, TURN, RoundRobin
from tests.support.doubles import HalfClosingWire, TurnClock
from tests.unit.fileserver import test_fileserver
from tests.unit.proxy import test_proxy
from tests.unit.server.test_connection import Echo

READ = 65_536
"""Bytes that a transport reads at once."""


class Flooders(SynchronousTestCase):
    """Thirty connections that send as much as one read can bring in."""

    count = 30

    def setUp(self) -> None:
        self.clock = TurnClock()
        self.factory = CommandFactory(self.clock, 600.0)
        self.lines = self.commands = 0
        self.clients = [self.connect(number) for number in range(self.count)]
        self.addCleanup(self.lose)

    def connect(self, number: int) -> Echo:
        protocol = Echo()
        protocol.factory = self.factory
        line_received, command_received = protocol.lineReceived, protocol.command_received

        def count_line(line: bytes) -> None:
            self.lines += 1
            line_received(line)

        def count_command(command: Command) -> None:
            self.commands += 1
            command_received(command)

        protocol.lineReceived = count_line
        protocol.command_received = count_command
        protocol.makeConnection(HalfClosingWire(9000, 40_000 + number))
        return protocol

    def lose(self) -> None:
        for client in self.clients:
            client.transport.lose(client)
        self.assertEqual(len(self.factory.rotation), 0)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])

    def work(self, function: Callable[[], object]) -> tuple[int, int]:
        """Call a function; return the lines parsed and the commands begun in it."""
        before = self.lines, self.commands
        function()
        return self.lines - before[0], self.commands - before[1]


class FloodTests(Flooders):
    def test_long_command_uses_more_of_the_turn_than_a_short_one(self) -> None:
        # It is parsed, and then decoded, looked up and logged: all of that takes its length.
        line = b"x " + b"a" * 8000 + b"\n"
        _, short = self.work(lambda: self.clients[0].dataReceived(b"x\n" * READ))
        _, long = self.work(lambda: self.clients[1].dataReceived(line * 10))
        self.assertGreaterEqual(short, 2)
        self.assertEqual(long, 1)

    def test_one_read_does_no_more_than_one_share(self) -> None:
        for client, line in zip(self.clients, (b"\n", b"\r\n", b" \t\n", b"x\n"), strict=False):
            lines, commands = self.work(lambda: client.dataReceived(line * READ))  # noqa: B023
            self.assertLessEqual(lines, SHARE)
            self.assertLessEqual(commands, 4)
            self.assertFalse(client.transport.read_from)

    def assert_turns_are_bounded(self, line: bytes, most_lines: int, most_commands: int) -> None:
        for client in self.clients:
            client.dataReceived(line * (READ // len(line)))
        for _ in range(12):
            lines, commands = self.work(self.clock.turn)
            self.assertLessEqual(lines, most_lines)
            self.assertLessEqual(commands, most_commands)
            self.assertGreater(lines, 0)

    def test_blank_lines_of_all_connections_in_one_turn(self) -> None:
        self.assert_turns_are_bounded(b"\n", TURN + SHARE, 0)

    def test_short_commands_of_all_connections_in_one_turn(self) -> None:
        self.assert_turns_are_bounded(b"x\n", 36, 36)

    def test_long_commands_of_all_connections_in_one_turn(self) -> None:
        self.assert_turns_are_bounded(b"x" * 16_000 + b"\n", 9, 9)

    def test_no_more_than_one_read_and_one_line_are_held(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n" * (READ // 2))
        for _ in range(200):
            self.clock.turn()
            self.assertLessEqual(len(client._buffer), 2048)
            self.assertLessEqual(len(client._received), READ)

    def test_all_of_it_is_answered_in_the_end(self) -> None:
        for client in self.clients:
            client.dataReceived(b"a\n\nb\n" * 1000)
        self.assertLess(self.commands, 5 * self.count)
        self.clock.advance(0)
        for client in self.clients:
            self.assertEqual(client.transport.taken(), b"a!\nb!\n" * 1000)
            self.assertTrue(client.transport.read_from)

    def test_connections_take_turns(self) -> None:
        for client in self.clients:
            client.dataReceived(b"x\n" * 1000)
        for _ in range(50):
            self.clock.turn()
        begun = [len(client.begun) for client in self.clients]
        self.assertLessEqual(max(begun) - min(begun), 4)

    def test_another_client_is_answered_within_its_own_event(self) -> None:
        *flooders, other = self.clients
        for client in flooders:
            client.dataReceived(b"x\n" * 30_000)
        other.dataReceived(b"one\n")
        self.assertEqual(other.transport.taken(), b"one!\n")

    def test_what_comes_while_a_connection_waits_is_kept_for_its_turn(self) -> None:
        # TLS delivers what it has decrypted although it has been paused.
        client = self.clients[0]
        client.dataReceived(b"x\n" * 100)
        lines, _ = self.work(lambda: client.dataReceived(b"y\n" * 100))
        self.assertEqual(lines, 0)
        self.clock.advance(0)
        self.assertEqual(client.begun, [b"x"] * 100 + [b"y"] * 100)

    def test_end_of_a_reply_starts_one_share_and_not_the_whole_queue(self) -> None:
        client = self.clients[0]
        client.at_once = False
        client.dataReceived(b"x\n" * 60)
        client.at_once = True
        _, commands = self.work(client.answer)
        self.assertLessEqual(commands, 4)
        self.clock.advance(0)
        self.assertEqual(len(client.begun), 60)

    def test_ends_of_many_replies_start_a_bounded_number_of_commands(self) -> None:
        *flooders, other = self.clients
        for client in flooders:
            client.at_once = False
            client.dataReceived(b"x\n" * 60)
        for _ in range(20):
            # All replies end in one turn of the reactor, as an upstream can have it.
            ended = [client for client in flooders if client.command is not None]
            _, commands = self.work(lambda: [client.answer() for client in ended])  # noqa: B023
            _, more = self.work(self.clock.turn)
            self.assertLessEqual(commands, 32)
            self.assertLessEqual(more, 32)
            self.assertGreater(commands + more, 0)
            # Whoever has no other command under way need not wait for them.
            other.dataReceived(b"one\n")
            self.assertEqual(other.transport.taken(), b"one!\n")
        for _ in range(100):
            for client in flooders:
                if client.command is not None:
                    client.answer()
            self.clock.turn()
        self.assertEqual({len(client.begun) for client in flooders}, {60})

    def test_half_closed_client_is_answered_in_full_over_many_turns(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n" * 500)
        client.readConnectionLost()
        self.assertTrue(client.transport.open)
        self.clock.advance(0)
        self.assertEqual(len(client.begun), 500)
        self.assertTrue(client.transport.disconnecting)

    def test_line_that_is_too_long_is_refused_after_the_commands_before_it(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n" * 100 + b"y" * 20_000)
        self.clock.advance(0)
        self.assertEqual(client.transport.taken(), b"x!\n" * 100 + b"ERR line too long\n")

    def test_waiting_client_is_not_idle(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n" * 100)
        for call in self.clock.getDelayedCalls():
            # The rotation's turn has not come; time has passed.
            if call.getTime() == 0:
                call.reset(5000)
        self.clock.advance(4000)
        self.assertTrue(client.transport.open)
        self.clock.advance(1001)
        self.assertEqual(len(client.begun), 100)

    def test_draining_client_that_goes_on_writing_is_bounded_too(self) -> None:
        client = self.clients[0]
        client.at_once = False
        client.dataReceived(b"one\n")
        self.factory.drain()
        lines, _ = self.work(lambda: client.dataReceived(b"\n" * READ))
        self.assertLessEqual(lines, SHARE)
        client.answer()
        self.assertTrue(client.transport.half_closed)

    def test_drain_of_a_waiting_client_closes_it_at_once(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n" * 100)
        self.factory.drain()
        begun = len(client.begun)
        self.clock.advance(LINGER)
        self.assertEqual(len(client.begun), begun)
        self.assertTrue(client.transport.half_closed)


class RotationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurnClock()
        self.rotation = RoundRobin(self.clock)

    def member(self, work: Callable[[], int]) -> Any:
        return mock.Mock(take_turn=mock.Mock(side_effect=work))

    def test_members_without_any_work_do_not_keep_a_turn_for_ever(self) -> None:
        def again() -> int:
            self.rotation.join(member)
            return 0

        member = self.member(again)
        self.rotation.join(member)
        self.clock.turn()
        self.assertLess(member.take_turn.call_count, TURN)
        self.rotation.leave(member)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_member_that_raises_is_told_and_the_next_has_its_turn(self) -> None:
        broken = self.member(lambda: 1 // 0)
        next_one = self.member(lambda: 1)
        self.rotation.join(broken)
        self.rotation.join(next_one)
        self.clock.turn()
        (failure,) = broken.fail.call_args.args
        self.assertIsInstance(failure, Failure)
        self.assertIsNotNone(failure.check(ZeroDivisionError))
        next_one.take_turn.assert_called_once_with()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_member_that_leaves_has_no_turn(self) -> None:
        first, second = self.member(lambda: 1), self.member(lambda: 1)
        self.rotation.join(first)
        self.rotation.join(second)
        self.rotation.leave(first)
        self.assertIn(second, self.rotation)
        self.clock.turn()
        first.take_turn.assert_not_called()
        second.take_turn.assert_called_once_with()


def count_commands(case: SynchronousTestCase, kind: type[CommandReceiver]) -> list[bytes]:
    """Return a list that gets the verb of each command that is begun."""
    begun: list[bytes] = []
    command_received = kind.command_received

    def note(protocol: CommandReceiver, command: Command) -> None:
        begun.append(command.verb)
        command_received(protocol, command)

    case.patch(kind, "command_received", note)
    return begun


class FileServerFloodTests(test_fileserver.FileServerCase):
    """Commands that the file server answers at once."""

    def setUp(self) -> None:
        super().setUp()
        (self.files / "f").write_bytes(b"content")
        self.settled = 3600.0
        self.begun = count_commands(self, FileServerProtocol)

    def test_each_kind_is_bounded(self) -> None:
        clients = [self.protocol] + [self.new_client(50_000 + number)[0] for number in range(29)]
        self.protocol.dataReceived(b"HASH f\n")
        self.thread.run()
        for line in (b"x\n", b"STAT x\n", b"STAT f\n", b"FEAT\n", b"GET f\n", b"HASH f\n"):
            self.begun.clear()
            for client in clients:
                client.dataReceived(line * 60)
            self.assertLessEqual(len(self.begun), 4 * len(clients))
            for _ in range(5):
                self.begun.clear()
                self.clock.turn()
                self.assertLessEqual(len(self.begun), 36, line)
                self.assertGreater(len(self.begun), 0)
            self.clock.advance(0)
            for client in clients:
                replies = client.transport.taken()
                self.assertEqual(
                    replies.count(b"OK") + replies.count(b"ERR"),
                    60 + (line == b"x\n" and client is self.protocol),
                )


class ProxyFloodTests(test_proxy.ProxyCase):
    """Commands that fail at once, without an upstream connection."""

    def setUp(self) -> None:
        self.patch(test_proxy, "Clock", TurnClock)
        super().setUp()
        self.begun = count_commands(self, ProxyProtocol)

    def assert_bounded(self, reply: bytes) -> None:
        clients = [self.protocol] + [self.new_client(50_000 + number)[0] for number in range(9)]
        for client in clients:
            client.dataReceived(b"LIST\n" * 200)
        self.assertLessEqual(len(self.begun), 4 * len(clients))
        for _ in range(5):
            self.begun.clear()
            self.clock.turn()
            self.assertLessEqual(len(self.begun), 36)
            self.assertGreater(len(self.begun), 0)
        self.clock.advance(0)
        for client in clients:
            self.assertEqual(client.transport.taken(), reply * 200)

    def test_connection_that_is_refused_within_the_call(self) -> None:
        self.factory.connector = TCPConnector(mock.Mock(), "127.0.0.1", 9001, 5.0)
        played = mock.MagicMock(connect_ex=mock.Mock(return_value=errno.ECONNREFUSED))
        with mock.patch("natproxy.proxy.connector.socket.socket", return_value=played):
            self.assert_bounded(b"ERR proxy error: the server refuses connections\n")

    def test_descriptor_that_is_missing(self) -> None:
        self.factory.connector = TCPConnector(mock.Mock(), "127.0.0.1", 9001, 5.0)
        lack = OSError(errno.EMFILE, "none left")
        with mock.patch("natproxy.proxy.connector.socket.socket", side_effect=lack):
            self.assert_bounded(b"ERR proxy error: the proxy has no free descriptor left\n")

    def test_endpoint_that_fails_within_the_call(self) -> None:
        connect = self.endpoint.connect

        def refuse(factory: Any) -> Any:
            connecting = connect(factory)
            self.endpoint.last.refuse(error.ConnectionRefusedError())
            return connecting

        self.endpoint.connect = refuse  # type: ignore[method-assign]
        self.assert_bounded(b"ERR proxy error: the server refuses connections\n")
