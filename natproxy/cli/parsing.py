"""The parsers of the command line and of the lines at the prompt.

``--help`` imports this module: it imports nothing that is slow to import.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from natproxy import __version__
from natproxy.cli.command import Command
from natproxy.cli.options import ACTION, COMMAND, add_server_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def program_parser(commands: Iterable[Command]) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    The namespace that it returns has the command to run as ``selected``.
    """
    parser = CommandLineParser(
        prog="natproxy",
        description="Download files through a natproxy, run one, and observe it.",
        formatter_class=HelpFormatter,
        epilog="A PATH may be a URL, natproxy://HOST:PORT/PATH, which includes the server.",
    )
    _shorten_help(parser)
    parser.add_argument(
        "--version",
        action="version",
        version=f"natproxy {__version__}",
        help="show the version of the program",
    )
    add_server_options(parser)
    _add_commands(parser, commands, CommandParser)
    return parser


def prompt_parsers(commands: Iterable[Command]) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of the lines at the prompt, by the names of the commands."""
    parser = PromptParser(prog="", add_help=False, formatter_class=HelpFormatter)
    _add_commands(parser, commands, PromptParser)
    return commands_of(parser)


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's commands, with their options, by their names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                each.add_pending_arguments()
            return dict(action.choices)
    return {}


def lines_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands and of their actions, by words: ``journal ship``."""
    found: dict[str, argparse.ArgumentParser] = {}
    for name, command in commands_of(parser).items():
        found[name] = command
        found.update({f"{name} {action}": each for action, each in commands_of(command).items()})
    return found


def summary_of(parser: argparse.ArgumentParser) -> str:
    """Return what a command does, in a few words."""
    command: Command = parser.get_default("selected")
    return command.help


class HelpFormatter(argparse.HelpFormatter):
    """Formats help for the width of the terminal.

    ``argparse`` imports ``shutil`` to find the width, and makes a formatter for each option.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=columns() - 2)


class CommandLineParser(argparse.ArgumentParser):
    """Prints the usage of the command whose options are wrong, not that of all commands."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse a command line.

        :raises SystemExit: if it is wrong, or after help has been printed.
        """
        words = sys.argv[1:] if args is None else list(args)
        arguments, unknown = self.parse_known_args(words, namespace)
        if unknown:
            first = words.index(arguments.command)
            # An unknown option before the command belongs to the program, not to the command.
            before = unknown[0] in words[:first]
            parser: argparse.ArgumentParser = self
            if not before:
                parser = commands_of(self)[arguments.command]
                parser = commands_of(parser).get(getattr(arguments, "action", None) or "", parser)
            # The value of an option that another action has may be a password.
            options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            parser.error(f"unrecognized arguments: {' '.join(options or unknown)}")
        return arguments

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """Return the options of the program that a word abbreviates, if it is one option.

        A word that could be several of them may be an option of the command.
        """
        found = super()._get_option_tuples(option_string)
        return found if len(found) == 1 else []


class CommandParser(argparse.ArgumentParser):
    """Parses the words after a command.

    It has no arguments until it is used: a command line needs those of one command only.
    Its errors include how to write a name that begins with a hyphen.
    """

    _words: Sequence[str] = ()
    pending: Command | None = None
    """The command whose arguments have not been added yet."""
    takes_names = True
    """Whether words of the command may be names of files."""

    def add_pending_arguments(self) -> None:
        """Add the arguments of the command, unless that has been done."""
        command, self.pending = self.pending, None
        if command is not None:
            command.add_arguments(self)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Return the parsed arguments, and the words that are unknown."""
        self.add_pending_arguments()
        self._words = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage of the command and what is wrong.

        :raises SystemExit: always.
        """
        # The words of the command line may come from elsewhere, such as a list of names.
        shown = "".join(
            each
            if each.isprintable() or each == "\n"
            else each.encode("unicode_escape").decode("ascii")
            for each in message
        )
        super().error(shown + self._reminder())

    def _reminder(self) -> str:
        for word in self._words if self.takes_names else ():
            option = word[:2] in self._option_string_actions or word.startswith("--")
            if word.startswith("-") and word != "-" and not option:
                return " (a name that begins with a hyphen is written /-name)"
        return ""


class PromptParser(CommandParser):
    """Raises `UsageError` with what is wrong, in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with a line.

        :raises UsageError: always.
        """
        from natproxy.client.errors import UsageError

        raise UsageError(f"{self.prog}: {message}{self._reminder()}")


def _add_commands(
    parser: argparse.ArgumentParser,
    commands: Iterable[Command],
    parser_class: type[CommandParser],
) -> None:
    added = parser.add_subparsers(
        required=True, metavar=COMMAND, dest="command", parser_class=parser_class
    )
    for command in commands:
        each = added.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            formatter_class=HelpFormatter,
        )
        # At the prompt, no program is named before the command.
        each.prog = each.prog.strip()
        _shorten_help(each)
        each.pending = command
        each.takes_names = command.connects
        each.set_defaults(selected=command)


class Actions:
    """The actions of a command, each with arguments of its own: ``natproxy journal ship``.

    :param parser: of the command. The namespace has the action's name as ``action``.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._added = parser.add_subparsers(
            required=True, metavar=ACTION, dest="action", parser_class=type(parser)
        )

    def add(self, name: str, summary: str, details: str = "") -> argparse.ArgumentParser:
        """Return the parser of an action.

        :param summary: what it does, in a few words: lower case, no full stop.
        :param details: further sentences.
        """
        described = f"{summary[0].upper()}{summary[1:]}."
        parser: argparse.ArgumentParser = self._added.add_parser(
            name,
            help=summary,
            description=f"{described} {details}" if details else described,
            formatter_class=HelpFormatter,
        )
        _shorten_help(parser)
        return parser


def _shorten_help(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if action.dest == "help":
            action.help = "show this help"


def columns() -> int:
    """Return the columns of the terminal, as ``shutil.get_terminal_size`` does."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):
        return 80
