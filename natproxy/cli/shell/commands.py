"""The commands that only the prompt has."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence

from natproxy.cli.command import Command
from natproxy.cli.context import Sessions
from natproxy.cli.encoding import local_path
from natproxy.cli.options import COMMAND, LOCAL_DIRECTORY, REMOTE_DIRECTORY
from natproxy.cli.parsing import prompt_parsers, summary_of
from natproxy.client.errors import LocalError, UsageError
from natproxy.protocol import DIRECTORY, printable


class Leave(Exception):
    """Raised by the commands that end the prompt."""


class ChangeDirectory(Command):
    """Changes the directory on the server that paths are relative to."""

    name = "cd"
    help = "change the directory on the server"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "directory",
            metavar=REMOTE_DIRECTORY,
            nargs="?",
            default="/",
            help="directory to change to (default: the served directory)",
        )

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        session, (name,) = sessions.targets(arguments, [arguments.directory])
        if session is not sessions.session(arguments):
            raise UsageError(f"{printable(name)}: is on another server than the prompt's")
        if name:
            session.require_version_2("list directories")
            if session.stat(name).type != DIRECTORY:
                raise UsageError(f"{printable(name)}: not a directory")
        sessions.directory = name
        return 0


class ShowDirectory(Command):
    """Writes the directory on the server that paths are relative to."""

    name = "pwd"
    help = "show the directory on the server"

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        sys.stdout.write(f"/{printable(sessions.directory or b'', 8192)}\n")
        return 0


class ChangeLocalDirectory(Command):
    """Changes the local directory."""

    name = "lcd"
    help = "change the local directory"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "directory",
            metavar=LOCAL_DIRECTORY,
            nargs="?",
            default="~",
            help="directory to change to (default: ~)",
        )

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        path = local_path(arguments.directory)
        try:
            os.chdir(path)
        except OSError as error:
            raise LocalError(path, error) from error
        return 0


class ShowLocalDirectory(Command):
    """Writes the local directory."""

    name = "lpwd"
    help = "show the local directory"

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        try:
            directory = os.getcwdb()
        except OSError as error:
            raise LocalError(b".", error) from error
        sys.stdout.write(printable(directory, 8192) + "\n")
        return 0


class Help(Command):
    """Writes a line for each command, or the help of one.

    :ivar parsers: those of all commands of the prompt, by name.
    """

    name = "help"
    help = "show the commands, or one of them"

    def __init__(self) -> None:
        self.parsers: Mapping[str, ArgumentParser] = {}

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("verb", metavar=COMMAND, nargs="?", help="command to show")

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        if arguments.verb is not None:
            parser = self.parsers.get(arguments.verb.lower())
            if parser is None:
                raise UsageError(f"unknown command '{arguments.verb}': try 'help'")
            sys.stdout.write(parser.format_help())
            return 0
        for name, parser in self.parsers.items():
            sys.stdout.write(f"{name:<10}{summary_of(parser)}\n")
        sys.stdout.write(
            "\n'help COMMAND' shows the options of one. A name with spaces in it is quoted, as"
            " 'a b' or\n\"a b\"; in $'a\\x0ab', \\xHH is a byte that cannot be typed.\n"
        )
        return 0


class Exit(Command):
    """Ends the prompt."""

    name = "exit"
    help = "leave; so does Ctrl-D"

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        raise Leave


class Quit(Exit):
    """Ends the prompt under another name."""

    name = "quit"


def parsers_with(commands: Sequence[Command]) -> Mapping[str, ArgumentParser]:
    """Return the parsers of the prompt's own commands and of others, by name.

    :param commands: the others; they come first.
    """
    help_ = Help()
    help_.parsers = prompt_parsers(
        [
            *commands,
            ChangeDirectory(),
            ShowDirectory(),
            ChangeLocalDirectory(),
            ShowLocalDirectory(),
            help_,
            Exit(),
            Quit(),
        ]
    )
    return help_.parsers
