"""A client's connection that replies to each command with its line: for tests of the server."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access import Verdict
from natproxy.nat import Outcome
from natproxy.protocol import Command
from natproxy.server.connection import CommandReceiver
from natproxy.server.factory import CommandFactory
from tests.support.doubles import HalfClosingWire, Wire


class EchoReceiver(CommandReceiver):
    """Replies to each command with its line and an exclamation mark.

    :ivar at_once: whether it replies within `command_received`; otherwise, by `reply`.
    :ivar begun: the lines of the commands that have begun.
    :ivar cancelled: the outcomes with which commands were cancelled.
    :ivar refused: the lines of the commands that a gate has refused, and the reasons.
    """

    log = Logger()
    at_once = True

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[bytes] = []
        self.cancelled: list[Outcome] = []
        self.refused: list[tuple[bytes, str]] = []

    def command_received(self, command: Command) -> None:
        self.begun.append(command.line)
        if self.at_once:
            self.reply()

    def reply(self) -> None:
        """Reply to the current command."""
        self.outbound.write(self.begun[-1] + b"!\n")
        self.reply_finished()

    def publish_refusal(self, command: Command, verdict: Verdict, sent: int) -> None:
        self.refused.append((command.line, verdict.reason))

    def cancel_command(self, outcome: Outcome) -> None:
        self.cancelled.append(outcome)


class CommandsCase(SynchronousTestCase):
    """One client's connection.

    :cvar wire_class: the class of its transport.
    :cvar at_once: whether commands are replied to within `command_received`.
    """

    wire_class: type[Wire] = HalfClosingWire
    at_once = True

    def setUp(self) -> None:
        self.clock = Clock()
        self.factory = CommandFactory(self.clock, 600.0)
        self.addCleanup(self.lose)
        self.connect(43210)

    def connect(self, port: int) -> None:
        """Connect another client, which takes the place of the one before."""
        self.wire = self.wire_class(9000, port)
        self.protocol = EchoReceiver()
        self.protocol.factory = self.factory
        self.protocol.at_once = self.at_once
        self.protocol.makeConnection(self.wire)

    def lose(self) -> None:
        """Lose the connection; no timer may be left."""
        if self.protocol in self.factory.connections:
            self.wire.lose(self.protocol)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])

    def send(self, data: bytes) -> None:
        """Send bytes from the client."""
        self.protocol.dataReceived(data)
