"""Verb and file name of a command in records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import Command, encode_name, name_of, parse_command
from natproxy.records.command_texts import files_of, verb_and_name


def command_of(line: bytes) -> Command:
    command = parse_command(line)
    assert command is not None
    return command


class VerbAndNameTests(SynchronousTestCase):
    @given(st.binary(max_size=20), st.sampled_from([b"GET", b"DOWNLOAD", b"STAT", b"NONSENSE"]))
    def test_name_is_that_of_the_wire(self, name: bytes, verb: bytes) -> None:
        word = encode_name(name) if verb in (b"GET", b"STAT") else name
        command = parse_command(verb + b" " + word.replace(b"\n", b"").replace(b"\r", b""))
        if command is not None:
            found = verb_and_name(command)
            self.assertEqual(found[1], encode_name(name_of(command)).decode())
            self.assertEqual(found[0], verb.decode())

    def test_several_names_are_the_first_and_their_number_or_all(self) -> None:
        command = command_of(b"PACK a%20b c d%ff")
        self.assertEqual(verb_and_name(command), ("PACK", "a%20b and 2 others"))
        self.assertEqual(verb_and_name(command, True), ("PACK", "a%20b and 2 others, c d%FF"))
        self.assertEqual(verb_and_name(command_of(b"PACK a"), True), ("PACK", "a"))
        self.assertEqual(
            [files_of(command_of(line)) for line in (b"PACK a b", b"PACK a", b"GET a", b"LIST")],
            [2, 1, 1, 0],
        )

    def test_verb_of_a_peer_is_printable(self) -> None:
        self.assertEqual(verb_and_name(Command(b"\x1b[2J", b"", b"\x1b[2J"))[0], "\\x1b[2J")
