"""How the words of a command line are parsed: the values of options, and what is wrong.

Nothing is imported here that ``--help`` can do without.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def rate(text: str) -> float:
    """Parse bytes a second: a number, perhaps with K, M or G."""
    unit = text[-1:].lower() if text[-1:].isalpha() else ""
    try:
        value = float(text[: len(text) - len(unit)]) * _UNITS[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"'{text}': bytes a second, such as 500K or 2M, are needed"
        )
    return value


def duration(text: str) -> float:
    """Parse a duration into seconds, for the command line."""
    from natproxy.client.retry import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def nonempty(text: str) -> str:
    """Return a name; it must not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("a name is needed")
    return text


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from a least to a greatest one."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"'{text}': a number from {least} to {most} is needed")
        return int(text)

    return read


def number_or_inf(least: int) -> Callable[[str], float]:
    """Return a parser of whole numbers from a least one on; ``inf`` is any number."""

    def read(text: str) -> float:
        if text == "inf":
            return float("inf")
        if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) >= least):
            raise argparse.ArgumentTypeError(
                f"'{text}': a number from {least} on, or inf, is needed"
            )
        return int(text)

    return read


class CommandLineParser(argparse.ArgumentParser):
    """Prints the usage of the command whose options are wrong, not that of all commands."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse a command line.

        :raises SystemExit: if it is wrong, or asks for help.
        """
        words = sys.argv[1:] if args is None else list(args)
        options, unknown = self.parse_known_args(words, namespace)
        if unknown:
            first = words.index(options.command)
            # An option before the command is none of the command's.
            before = unknown[0] in words[:first]
            parser = self if before else commands_of(self)[options.command]
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options


class CommandParser(argparse.ArgumentParser):
    """Parses the words after a command.

    An error reminds of how a name that begins with a hyphen is written.
    """

    _words: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the words; return what they mean, and those that are unknown."""
        self._words = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage of the command and what is wrong.

        :raises SystemExit: always.
        """
        super().error(message + self._reminder())

    def _reminder(self) -> str:
        for word in self._words:
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


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return a parser's commands, each with its own parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
