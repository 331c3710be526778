"""The options of the program and those of its commands."""

from __future__ import annotations

from argparse import ArgumentParser

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.commands import COMMANDS
from natproxy.cli.parsing import commands_of, program_parser


class ParsingTests(SynchronousTestCase):
    def test_option_of_a_command_may_begin_as_options_of_the_program_do(self) -> None:
        """An option that could be short for several is an error before a command has it."""
        parser = program_parser(COMMANDS)
        self.assertEqual(len(ArgumentParser._get_option_tuples(parser, "--to")), 2)
        for name, command in commands_of(parser).items():
            for option in command._option_string_actions:
                self.assertLessEqual(len(parser._get_option_tuples(option)), 1, (name, option))

    def test_option_of_the_program_may_be_shortened(self) -> None:
        arguments = program_parser(COMMANDS).parse_args(["--serv", "host:1", "ls"])
        self.assertEqual(arguments.server, "host:1")
