"""The log line of a command: its text, its fields, and no secret."""

from __future__ import annotations

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import parse_command
from natproxy.server.command_log import describe, log_command
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

    def test_description_of_a_command_is_logged_as_the_command_is(self) -> None:
        command = parse_command(b"DOWNLOAD a b")
        for logged in (command, describe(command)):
            log_command(self.log, self.client, logged, Outcome.ERROR, 0, 0.5)
        first, second = self.journal.lines()
        self.assertEqual(first, second)
        self.assertEqual(first, "127.0.0.1:43210 DOWNLOAD a b: error, 0 bytes in 0.500 s")

    def test_unknown_verb_is_printable(self) -> None:
        self.assertEqual(describe(parse_command(b"\x1b[2J" * 40)).verb[-3:], "...")
        self.assertEqual(describe(parse_command(b"LIST")), ("LIST", "", "LIST"))

    def test_secret_is_not_logged(self) -> None:
        for line in (b"AUTH s3cret", b"auth s3cret more", b"AuTh\ts3cret", b"auth:s3cret"):
            log_command(self.log, self.client, parse_command(line), Outcome.COMPLETED, 3, 0.0)
        self.assertNotIn("s3cret", repr(self.journal.events).lower())
        self.assertEqual(self.journal.outcomes[-1]["name"], "[redacted]")
        self.assertIn("AUTH [redacted]: completed", self.journal.lines()[-1])
