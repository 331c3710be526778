"""The log line of a command: its text and its fields, without a secret."""

from __future__ import annotations

from typing import Any

from twisted.logger import LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import parse_command
from natproxy.server import command_log
from natproxy.server.command_log import CommandLines, log_command, log_finished
from natproxy.server.events import Finished
from tests.support.doubles import Journal


class CommandLogTests(SynchronousTestCase):
    log = Logger()
    client = Address("127.0.0.1", 43210)

    def setUp(self) -> None:
        self.journal = Journal(self)

    def test_event_has_its_fields(self) -> None:
        command = parse_command(b"get a%20file offset=3")
        log_command(
            self.log, self.client, command, Outcome.COMPLETED, 17, 3.0, ", by road", more="fields"
        )
        (event,) = self.journal.outcomes
        expected = {
            "client_host": "127.0.0.1",
            "client_port": 43210,
            "verb": "GET",
            "name": "a file",
            "bytes": 17,
            "duration": 3,
            "outcome": "completed",
            "more": "fields",
        }
        self.assertEqual({key: event[key] for key in expected}, expected)
        self.assertEqual(
            self.journal.lines(),
            ["127.0.0.1:43210 GET a%20file offset=3: completed, 17 bytes in 3.000 s, by road"],
        )

    def test_translation_of_the_proxy_is_the_end_of_the_line(self) -> None:
        command = parse_command(b"LIST")
        outcome = Outcome.COMPLETED
        event = Finished(self.client, command, outcome, 3, 1.0, 1.5, translation="ab:7")
        lines: list[str] = []

        def note(namespace: str, when: float, text_of: Any, *arguments: Any) -> None:
            lines.append(text_of(*arguments))

        CommandLines(note).finished(event)
        log_finished(event)
        expected = ["127.0.0.1:43210 LIST: completed, 3 bytes in 0.500 s, translation ab:7"]
        self.assertEqual((lines, self.journal.lines()), (expected, expected))
        (logged,) = self.journal.outcomes
        self.assertEqual(logged["translation"], "ab:7")

    def test_several_files_are_the_first_and_their_number(self) -> None:
        for line, request, files in (
            (b"PACK a%20b c d", "PACK a b and 2 others", 3),
            (b"PACK a b", "PACK a and 1 other", 2),
            (b"PACK a%20b", "PACK a%20b", None),
        ):
            log_command(self.log, self.client, parse_command(line), Outcome.COMPLETED, 1, 0.0)
            event = self.journal.outcomes[-1]
            self.assertEqual((event["request"], event.get("files")), (request, files))
        self.assertEqual(self.journal.outcomes[0]["name"], "a b")

    def test_braces_are_no_format(self) -> None:
        command = parse_command(b"DOWNLOAD {client} {0!r} }{")
        log_command(self.log, self.client, command, Outcome.COMPLETED, 1, 0.0)
        self.assertEqual(
            self.journal.lines(),
            ["127.0.0.1:43210 DOWNLOAD {client} {0!r} }{: completed, 1 bytes in 0.000 s"],
        )

    def test_text_is_formatted_only_when_it_is_taken(self) -> None:
        formatted: list[object] = []
        self.patch(command_log.CommandText, "__str__", lambda text: formatted.append(text) or "")
        events: list[LogEvent] = []
        # Not the global publisher, where the test runner takes each text.
        log = Logger(observer=events.append)
        log_command(log, self.client, parse_command(b"LIST"), Outcome.COMPLETED, 1, 0.0)
        self.assertEqual(formatted, [])
        self.assertEqual([formatEvent(event) for event in events], [""])
        self.assertEqual(len(formatted), 1)

    def test_event_is_as_one_of_a_logger(self) -> None:
        log_command(self.log, self.client, parse_command(b"LIST"), Outcome.ERROR, 0, 0.5)
        self.log.info("another")
        event, other = self.journal.events
        self.assertLessEqual(other.keys(), event.keys())
        same = ("log_level", "log_namespace", "log_source")
        self.assertEqual([event[key] for key in same], [other[key] for key in same])
        self.assertLessEqual(event["log_time"], other["log_time"])

    def test_command_without_arguments(self) -> None:
        log_command(self.log, self.client, parse_command(b"LIST"), Outcome.ERROR, 0, 0.5)
        self.assertEqual(self.journal.lines(), ["127.0.0.1:43210 LIST: error, 0 bytes in 0.500 s"])

    def test_unknown_verb_is_printable(self) -> None:
        command = parse_command(b"\x1b[2J" * 40)
        log_command(self.log, self.client, command, Outcome.COMPLETED, 0, 0.5)
        (line,) = self.journal.lines()
        self.assertTrue(line.isprintable())
        self.assertIn("...: completed", line)

    def test_secret_is_not_logged(self) -> None:
        for line in (b"AUTH s3cret", b"auth s3cret more", b"AuTh\ts3cret", b"auth:s3cret"):
            log_command(self.log, self.client, parse_command(line), Outcome.COMPLETED, 3, 0.0)
        self.assertNotIn("s3cret", repr(self.journal.events).lower())
        self.assertEqual(self.journal.outcomes[-1]["name"], "[redacted]")
        self.assertIn("AUTH [redacted]: completed", self.journal.lines()[-1])
