"""The lines of commands for a log without events: the texts are those of the events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.nat import Failed, NATEntry, Outcome, Removed, TranslationKey
from natproxy.protocol import parse_command
from natproxy.server.command_log import CommandLines, log_finished, log_translation
from natproxy.server.events import Finished
from tests.support.doubles import Journal

CLIENT = Address("127.0.0.1", 43210)
KEY = TranslationKey(Address("127.0.0.1", 50000), Address("127.0.0.1", 9001))
LINES = (
    b"get a%20file offset=3",
    b"PACK a%20b c d",
    b"AUTH secret",
    b"\xff {x}",
    b"LS " + bytes(300),
)


class CommandLinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.journal = Journal(self)
        self.noted: list[tuple[str, float, str]] = []
        self.lines = CommandLines(self.note, lambda: 5.0)

    def note(
        self, namespace: str, when: float, text_of: Callable[..., str], *arguments: Any
    ) -> None:
        self.noted.append((namespace, when, text_of(*arguments)))

    def same(self, when: float) -> None:
        """Assert that the line which was noted last is that of the last event."""
        namespace, wall, text = self.noted[-1]
        self.assertEqual((text, wall), (self.journal.lines()[-1], when))
        self.assertEqual(self.journal.outcomes[-1]["log_namespace"], namespace)

    def test_command_that_was_proxied(self) -> None:
        for line in LINES:
            command = parse_command(line)
            assert command is not None
            entry = NATEntry(1, KEY, self.journal, CLIENT, command, 7.0, 7.5, lambda: None)
            entry.relayed, entry.outcome = 17, Outcome.COMPLETED
            self.lines.removed(entry, 3.0, 9.0)
            shown = command.shown
            log_translation(
                Removed(1, 3.0, 9.0, 7.0, CLIENT, shown, KEY, 7.5, 3, 17, Outcome.COMPLETED)
            )
            self.same(3.0)
            self.assertNotIn("secret", self.noted[-1][2])

    def test_command_without_a_connection(self) -> None:
        for line in LINES:
            command = parse_command(line)
            assert command is not None
            event = Failed(1, 3.0, 9.0, 7.0, CLIENT, command.shown, 17, Outcome.ERROR, "no")
            self.lines.failed(event)
            log_translation(event)
            self.same(3.0)

    def test_command_of_the_file_server(self) -> None:
        for line in LINES:
            command = parse_command(line)
            assert command is not None
            event = Finished(CLIENT, command, Outcome.TIMEOUT, 17, 7.0, 9.0)
            self.lines.finished(event)
            log_finished(event)
            self.same(5.0)
            self.assertNotIn("secret", self.noted[-1][2])
