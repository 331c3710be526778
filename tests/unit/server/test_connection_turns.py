"""The work that connections cause in one turn of the reactor: counted, not timed."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import error
from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver.factory import FileServerFactory
from natproxy.fileserver.protocol import FileServerProtocol
from natproxy.protocol import Command
from natproxy.proxy.interfaces import Connector
from natproxy.proxy.protocol import ProxyProtocol
from natproxy.proxy.tcp import TCPConnector
from natproxy.server.connection import CommandReceiver
from natproxy.server.factory import LINGER, CommandFactory
from natproxy.server.rotation import SHARE, TURN
from natproxy.storage import LocalStorage, RacyTimestamps
from tests.support.doubles import HalfClosingWire, PlayedThread, TurnClock, Wire
from tests.support.echo_receiver import EchoReceiver
from tests.support.proxies import ProxyCase, sole

READ = 65_536
"""Bytes of one read of a transport."""


class FloodCase(SynchronousTestCase):
    """Thirty connections that send as much as one read can contain."""

    count = 30

    def setUp(self) -> None:
        self.clock = TurnClock()
        self.factory = CommandFactory(self.clock, 600.0)
        self.lines = self.commands = 0
        self.clients = [self.connect(number) for number in range(self.count)]
        self.addCleanup(self.lose)

    def connect(self, number: int) -> EchoReceiver:
        protocol = EchoReceiver()
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


class FloodTests(FloodCase):
    def test_long_command_uses_more_of_the_turn_than_a_short_one(self) -> None:
        # It is parsed, decoded, looked up and logged: each in proportion to its length.
        line = b"x " + b"a" * 8000 + b"\n"
        _, short = self.work(lambda: self.clients[0].dataReceived(b"x\n" * READ))
        _, long = self.work(lambda: self.clients[1].dataReceived(line * 10))
        self.assertGreaterEqual(short, 2)
        self.assertEqual(long, 1)

    def test_one_read_uses_one_share_at_most(self) -> None:
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

    def test_one_read_and_one_line_are_held_at_most(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n" * (READ // 2))
        for _ in range(200):
            self.clock.turn()
            self.assertLessEqual(len(client._buffer), 2048)
            self.assertLessEqual(len(client._kept), READ)

    def test_all_commands_are_replied_to(self) -> None:
        for client in self.clients:
            client.dataReceived(b"a\n\nb\n" * 200)
        self.assertLess(self.commands, 5 * self.count)
        self.clock.advance(0)
        for client in self.clients:
            self.assertEqual(client.transport.taken(), b"a!\nb!\n" * 200)
            self.assertTrue(client.transport.read_from)

    def test_connections_take_turns(self) -> None:
        for client in self.clients:
            client.dataReceived(b"x\n" * 1000)
        for _ in range(50):
            self.clock.turn()
        begun = [len(client.begun) for client in self.clients]
        self.assertLessEqual(max(begun) - min(begun), 4)

    def test_another_client_receives_its_reply_within_its_own_event(self) -> None:
        *flooders, other = self.clients
        for client in flooders:
            client.dataReceived(b"x\n" * 30_000)
        other.dataReceived(b"one\n")
        self.assertEqual(other.transport.taken(), b"one!\n")

    def test_bytes_that_arrive_while_a_connection_waits_are_kept_for_its_turn(self) -> None:
        # TLS delivers what it has decrypted although it has been paused.
        client = self.clients[0]
        client.dataReceived(b"x\n" * 100)
        lines, _ = self.work(lambda: client.dataReceived(b"y\n" * 100))
        self.assertEqual(lines, 0)
        self.clock.advance(0)
        self.assertEqual(client.begun, [b"x"] * 100 + [b"y"] * 100)

    def test_end_of_a_reply_begins_one_share_of_commands_and_not_the_whole_queue(self) -> None:
        client = self.clients[0]
        client.at_once = False
        client.dataReceived(b"x\n" * 60)
        client.at_once = True
        _, commands = self.work(client.reply)
        self.assertLessEqual(commands, 4)
        self.clock.advance(0)
        self.assertEqual(len(client.begun), 60)

    def test_ends_of_many_replies_begin_a_limited_number_of_commands(self) -> None:
        *flooders, other = self.clients
        for client in flooders:
            client.at_once = False
            client.dataReceived(b"x\n" * 60)
        for _ in range(20):
            # All replies end in one turn of the reactor, as an upstream can cause.
            ended = [client for client in flooders if client.command is not None]
            _, commands = self.work(lambda: [client.reply() for client in ended])  # noqa: B023
            _, more = self.work(self.clock.turn)
            self.assertLessEqual(commands, 32)
            self.assertLessEqual(more, 32)
            self.assertGreater(commands + more, 0)
            # A client without another command under way does not wait for them.
            other.dataReceived(b"one\n")
            self.assertEqual(other.transport.taken(), b"one!\n")
        for _ in range(100):
            for client in flooders:
                if client.command is not None:
                    client.reply()
            self.clock.turn()
        self.assertEqual({len(client.begun) for client in flooders}, {60})

    def test_half_closed_client_receives_all_replies_over_many_turns(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n" * 500)
        client.readConnectionLost()
        self.assertTrue(client.transport.open)
        self.clock.advance(0)
        self.assertEqual(len(client.begun), 500)
        self.assertTrue(client.transport.disconnecting)

    def test_error_for_a_long_line_follows_the_replies_before_it(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n" * 100 + b"y" * 20_000)
        self.clock.advance(0)
        self.assertEqual(client.transport.taken(), b"x!\n" * 100 + b"ERR line too long\n")

    def test_waiting_client_is_not_idle(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n" * 100)
        for call in self.clock.getDelayedCalls():
            # Time passes before the turn of the rotation.
            if call.getTime() == 0:
                call.reset(1000)
        self.clock.advance(900)
        self.assertTrue(client.transport.open)
        self.clock.advance(101)
        self.assertEqual(len(client.begun), 100)

    def test_client_that_sends_only_blank_lines_is_closed(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n")
        for seconds in range(0, 1500, 100):
            if client.transport.open:
                # As many as leave it waiting for its next turn.
                client.dataReceived(b"\n" * 2000)
            self.assertEqual(client.transport.open, seconds < 1200, seconds)
            for call in self.clock.getDelayedCalls():
                if call.getTime() <= self.clock.seconds():
                    # Its turn is just after the time-out.
                    call.reset(150)
            self.clock.advance(100)

    def test_draining_client_that_continues_to_send_is_limited_too(self) -> None:
        client = self.clients[0]
        client.at_once = False
        client.dataReceived(b"one\n")
        self.factory.drain()
        lines, _ = self.work(lambda: client.dataReceived(b"\n" * READ))
        self.assertLessEqual(lines, SHARE)
        client.reply()
        self.assertTrue(client.transport.half_closed)

    def test_drain_of_a_waiting_client_closes_it_at_once(self) -> None:
        client = self.clients[0]
        client.dataReceived(b"x\n" * 100)
        self.factory.drain()
        begun = len(client.begun)
        self.clock.advance(LINGER)
        self.assertEqual(len(client.begun), begun)
        self.assertTrue(client.transport.half_closed)


def count_commands(case: SynchronousTestCase, kind: type[CommandReceiver]) -> list[bytes]:
    """Return a list to which the verb of each command that begins is appended."""
    begun: list[bytes] = []
    command_received = kind.command_received

    def note(protocol: CommandReceiver, command: Command) -> None:
        begun.append(command.verb)
        command_received(protocol, command)

    case.patch(kind, "command_received", note)
    return begun


class FileServerFloodTests(SynchronousTestCase):
    """Commands that the file server replies to at once."""

    def setUp(self) -> None:
        served = tempfile.TemporaryDirectory()
        self.addCleanup(served.cleanup)
        Path(served.name, "f").write_bytes(b"content")
        self.clock = TurnClock()
        self.thread = PlayedThread()
        # An hour after the last change of the file, its digest is remembered.
        racy = RacyTimestamps(self.clock.seconds, lambda: time.time() + 3600, lambda device: True)
        self.factory = FileServerFactory(
            self.clock, LocalStorage(served.name, racy=racy), self.thread, 600.0
        )
        self.begun = count_commands(self, FileServerProtocol)
        self.clients = [self.connect(50_000 + number) for number in range(12)]
        self.addCleanup(self.lose)

    def connect(self, port: int) -> FileServerProtocol:
        wire = Wire(9001, port)
        protocol = self.factory.buildProtocol(wire.getPeer())
        protocol.makeConnection(wire)
        return protocol

    def lose(self) -> None:
        for client in self.clients:
            client.transport.lose(client)

    def test_work_of_every_verb_is_limited(self) -> None:
        clients = self.clients
        clients[0].dataReceived(b"HASH f\n")
        self.thread.run()
        clients[0].transport.taken()
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
                self.assertEqual(replies.count(b"OK") + replies.count(b"ERR"), 60)


class ProxyFloodTests(ProxyCase):
    """Commands that fail at once, without an upstream connection."""

    clock_type = TurnClock

    def setUp(self) -> None:
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

    def connect_by(self, connector: Connector) -> None:
        """Replace the proxy's connector."""
        self.factory.resources.upstreams.use(sole(connector))

    def test_connection_that_is_refused_within_the_call(self) -> None:
        self.connect_by(TCPConnector(mock.Mock(), "127.0.0.1", 9001, 5.0))
        played = mock.MagicMock(connect_ex=mock.Mock(return_value=errno.ECONNREFUSED))
        with mock.patch("natproxy.proxy.tcp.socket.SocketType", return_value=played):
            self.assert_bounded(b"ERR proxy error: the server refuses connections\n")

    def test_descriptor_that_is_missing(self) -> None:
        self.connect_by(TCPConnector(mock.Mock(), "127.0.0.1", 9001, 5.0))
        lack = OSError(errno.EMFILE, "none left")
        with mock.patch("natproxy.proxy.tcp.socket.SocketType", side_effect=lack):
            self.assert_bounded(b"ERR proxy error: the proxy has no free descriptor left\n")

    def test_endpoint_that_fails_within_the_call(self) -> None:
        connect = self.endpoint.connect

        def refuse(factory: Any) -> Any:
            connecting = connect(factory)
            self.endpoint.last.refuse(error.ConnectionRefusedError())
            return connecting

        self.endpoint.connect = refuse  # type: ignore[method-assign]
        self.assert_bounded(b"ERR proxy error: the server refuses connections\n")
