"""``natproxy completion``, and what its scripts call: names and options for the user's shell."""

from __future__ import annotations

import os
import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from natproxy.cli.candidates import ManyNames
from natproxy.cli.context import configure
from natproxy.cli.encoding import argument_for
from natproxy.cli.options import CONFIG_FILE, LOCAL, LOCAL_FILE, REMOTE, REMOTE_DIRECTORY
from natproxy.cli.parsing import commands_of
from natproxy.cli.shell.quoting import quoted
from natproxy.client.errors import UsageError

if TYPE_CHECKING:
    from argcomplete.finders import CompletionFinder

TIMEOUT = 1.0
"""Seconds to wait for a server."""


def complete(
    parser: ArgumentParser,
    answer: TextIO | None = None,
    leave: Callable[[int], object] = os._exit,
) -> None:
    """Answer the script that calls this program in place of the user, and exit.

    :param answer: where to write to, in place of what the script has opened for it.
    """
    try:
        from argcomplete.completers import ChoicesCompleter, DirectoriesCompleter, FilesCompleter
    except ImportError:
        sys.exit(1)
    for each in (parser, *commands_of(parser).values()):
        for action in each._actions:
            if action.metavar in REMOTE:
                completer: object = remote_paths
            elif action.metavar in (LOCAL_FILE, CONFIG_FILE):
                completer = FilesCompleter()
            elif action.metavar in LOCAL:
                completer = DirectoriesCompleter()
            elif action.choices is None and action.nargs != 0:
                # Numbers, for example: nothing that is there would do.
                completer = ChoicesCompleter({})
            else:
                continue
            action.completer = completer  # type: ignore[attr-defined]
    if answer is None:
        # What is not text in this locale is passed on as it is.
        place = os.environ.get("_ARGCOMPLETE_STDOUT_FILENAME", 8)
        with suppress(OSError):
            answer = open(place, "w", errors="surrogateescape")  # noqa: SIM115
    _finder()(parser, always_complete_options=False, exit_method=leave, output_stream=answer)


def remote_paths(prefix: str, action: Action, parsed_args: Namespace, **_: object) -> list[str]:
    """Return the paths on the server that begin with a prefix, as words of the locale."""
    try:
        server = configure(parsed_args).server
    except UsageError:
        # A broken configuration is reported when the command runs.
        return []
    names = ManyNames(TIMEOUT)
    directories = action.metavar == REMOTE_DIRECTORY
    found = map(argument_for, names.starting_with(prefix, server, directories))
    # A name with characters that the locale lacks cannot be typed.
    return [each for each in found if each is not None]


def _finder() -> CompletionFinder:
    from argcomplete.finders import CompletionFinder

    class Finder(CompletionFinder):
        """Quotes what the library's own way of quoting would spoil."""

        def quote_completions(
            self, completions: list[str], cword_prequote: str, last_wordbreak_pos: int | None
        ) -> list[str]:
            usual = [each for each in completions if each.isprintable()]
            unusual: list[str] = []
            # Only there is a word replaced as a whole, by what is given and no other.
            if os.environ.get("_ARGCOMPLETE_SHELL") == "bash" and not cword_prequote:
                unusual = [
                    _in_bash(each)
                    for each in completions
                    if not each.isprintable() and last_wordbreak_pos is None
                ]
            if unusual:
                self.append_space = False
            return [*super().quote_completions(usual, cword_prequote, last_wordbreak_pos), *unusual]

    return Finder()


def _in_bash(name: str) -> str:
    word = quoted(os.fsencode(name), "$'", local=True)
    # After a directory, its quotes are left open, as bash does.
    return word.removesuffix("'") if name.endswith("/") else word
