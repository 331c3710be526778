"""No option is forgotten: each is in the manual page below its command, and is completed."""

from __future__ import annotations

import io
import os
import re
from argparse import Action, ArgumentParser
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.commands import CLIENT_COMMANDS, COMMANDS
from natproxy.cli.completion import complete
from natproxy.cli.options import COMMAND, LOCAL, OBSERVED, REMOTE
from natproxy.cli.parsing import commands_of, lines_of, program_parser
from natproxy.cli.shell.commands import parsers_with
from natproxy.cli.shell.suggestions import Suggester
from tests.support.manual import section

TYPED = {
    *("N", "PATTERN", "RATE", "SECONDS", "DURATION", "TIME", "WORKER:SEQ", "WORD", "URL"),
    *("CLIENT", "WHEN"),
    # Of one option with two values.
    ("CLIENT", "COMMAND"),
    *("ADDRESS", "HOST:PORT", "HOST[:PORT]", "[ADDRESS:]PORT", "ENDPOINT", "URL"),
}
"""Values that have no completion; the values of all other options are completed."""

OF_SERVERS = "Options of every command that connects to a server"


def options_in(command: ArgumentParser) -> list[Action]:
    """Return the options of a command, and those of its actions."""
    parsers = (command, *commands_of(command).values())
    return [action for each in parsers for action in each._actions if action.option_strings]


def explained() -> dict[str, set[str]]:
    """Return the options that the manual page explains for each command.

    A command's own are in a list within the list of commands; what several share is in a
    list after the sentence that names them.
    """
    found: dict[str, set[str]] = {}
    title = ""
    depth = 0
    commands: list[str] = []
    for line in section("DESCRIPTION").splitlines():
        if line.startswith(".Ss "):
            title, commands = line[4:], []
        elif line.startswith(".Bl"):
            depth += 1
        elif line.startswith(".El"):
            depth -= 1
            if not depth:
                commands = []
        elif line.startswith(".Pp") and not depth:
            commands = []
        elif line.startswith(".Cm ") and not depth:
            commands.append(line.split()[1])
        elif line.startswith(".It Cm ") and depth == 1:
            words = re.split(r" (?:Ar|Op|Cm) ", line.removeprefix(".It Cm "))[0]
            commands = words.split(" , ")
        elif line.startswith(".It Fl "):
            named = {f"-{flag}" for flag in re.findall(r"Fl (\S+)", line)}
            for command in [title] if title == OF_SERVERS else commands:
                found.setdefault(command, set()).update(named)
    return found


class ManualTests(SynchronousTestCase):
    def test_every_option_is_explained_below_its_command(self) -> None:
        parser = program_parser(COMMANDS)
        found = explained()
        shared = found[OF_SERVERS]
        for name, command in commands_of(parser).items():
            for action in options_in(command):
                names = set(action.option_strings)
                if "--help" not in names:
                    documented = found.get(name, set()) | shared
                    self.assertLessEqual(names, documented, f"{name}: not in the manual page")

    def test_manual_names_no_option_that_a_command_lacks(self) -> None:
        commands = {**parsers_with(CLIENT_COMMANDS), **commands_of(program_parser(COMMANDS))}
        for name, documented in explained().items():
            if name in commands:
                has = {
                    each for action in options_in(commands[name]) for each in action.option_strings
                }
                self.assertLessEqual(documented, has, name)


class CompletionTests(SynchronousTestCase):
    def test_values_of_options_have_a_completion_or_are_free(self) -> None:
        for parsers in (lines_of(program_parser(COMMANDS)), parsers_with(CLIENT_COMMANDS)):
            for name, command in parsers.items():
                for action in command._actions:
                    known = (
                        action.nargs == 0
                        or action.choices is not None
                        or action.metavar in (*REMOTE, *LOCAL, *OBSERVED, COMMAND, *TYPED)
                    )
                    self.assertTrue(known, f"{name} {action.option_strings or action.dest}")

    def test_prompt_completes_every_option(self) -> None:
        parsers = parsers_with(CLIENT_COMMANDS)
        suggester = Suggester("127.0.0.1:1", parsers)
        for name, command in parsers.items():
            for action in options_in(command):
                long = action.option_strings[-1]
                _, found = suggester.suggest(f"{name} {long}")
                self.assertIn(f"{long} ", [each.text for each in found], name)
                for choice in action.choices or ():
                    _, found = suggester.suggest(f"{name} {long} {choice}")
                    self.assertEqual([each.text for each in found], [f"{choice} "])

    def test_shells_complete_every_option(self) -> None:
        for name, command in lines_of(program_parser(COMMANDS)).items():
            offered = self.offered(f"natproxy {name} --")
            for action in command._actions:
                if not action.option_strings:
                    continue
                self.assertIn(action.option_strings[-1], offered, name)
                for choice in action.choices or ():
                    line = f"natproxy {name} {action.option_strings[-1]} {choice}"
                    self.assertEqual(self.offered(line), {str(choice)})

    def offered(self, line: str) -> set[str]:
        reply = io.StringIO()
        environment = {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_SHELL": "bash",
            "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        }
        with (
            mock.patch.dict(os.environ, environment),
            # It may not be closed: it is the tests' own standard error.
            mock.patch("argcomplete.finders.CompletionFinder._init_debug_stream"),
            mock.patch("argcomplete.io.debug_stream", io.StringIO()),
        ):
            complete(program_parser(COMMANDS), reply, lambda status: None)
        return {each.strip() for each in reply.getvalue().split("\013")}
