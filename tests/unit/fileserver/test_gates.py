"""Commands that a gate of the file server refuses, and what is published about them."""

from __future__ import annotations

from natproxy.nat import Outcome
from natproxy.server.events import Finished
from tests.support.fileserver import FileServerCase
from tests.support.gates import DENIED, PlayedGate


class GateTests(FileServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.gate = PlayedGate()
        self.factory.gates = (self.gate,)

    def test_refused_command_is_one_event(self) -> None:
        events: list[Finished] = []
        self.factory.subscribe(events.append)
        self.gate.verdicts.append(DENIED)
        self.assertEqual(self.send(b"GET a\n"), b"ERR 403 forbidden\n")
        (event,) = events
        self.assertEqual(
            (event.command.line, event.outcome, event.sent, event.reason),
            (b"GET a", Outcome.DENIED, 18, "rule 1"),
        )
        self.assertEqual(self.journal.ends, ["denied"])

    def test_end_is_noted_when_the_reply_has_been_sent(self) -> None:
        self.assertEqual(self.send(b"STAT a\n"), b"ERR 404 file not found\n")
        self.assertEqual((self.gate.asked, self.gate.ends), ([b"STAT a"], [b"STAT a"]))
