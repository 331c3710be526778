"""Completion of command lines in the user's shell: replies to its completion script."""

from __future__ import annotations

import os
import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TextIO

from natproxy.cli.candidates import ManyNames
from natproxy.cli.context import configure, tls_options, token_of
from natproxy.cli.encoding import argument_for
from natproxy.cli.options import (
    COLUMNS,
    CONFIG_FILE,
    CONTROL_SOCKET,
    DAEMON,
    LOCAL,
    LOCAL_FILE,
    OBSERVED,
    REMOTE,
    REMOTE_DIRECTORY,
    TIME,
    UPSTREAM,
)
from natproxy.cli.parsing import lines_of
from natproxy.cli.shell.quoting import quoted
from natproxy.client.errors import UsageError

if TYPE_CHECKING:
    from argcomplete.finders import CompletionFinder

TIMEOUT = 1.0
"""Seconds to wait for a server."""


def complete(
    parser: ArgumentParser,
    reply: TextIO | None = None,
    leave: Callable[[int], object] = os._exit,
) -> None:
    """Write the completions that the script has requested, and exit.

    The request is in the environment: ``COMP_LINE``, ``COMP_POINT`` and others.

    :param reply: to write to; by default, the descriptor or file that the script has opened.
    :param leave: exits with a status.
    """
    try:
        from argcomplete.completers import ChoicesCompleter, DirectoriesCompleter, FilesCompleter
    except ImportError:
        sys.exit(1)
    for each in (parser, *lines_of(parser).values()):
        for action in each._actions:
            if action.metavar in REMOTE:
                completer: object = remote_paths
            elif action.metavar in OBSERVED:
                completer = observed_words
            elif action.metavar in (LOCAL_FILE, CONFIG_FILE, CONTROL_SOCKET):
                completer = FilesCompleter()
            elif action.metavar in LOCAL:
                completer = DirectoriesCompleter()
            elif action.choices is None and action.nargs != 0:
                # Values such as numbers have no completions; argcomplete would offer files.
                completer = ChoicesCompleter({})
            else:
                continue
            action.completer = completer  # type: ignore[attr-defined]
    if reply is None:
        # Bytes that the locale cannot decode are written unchanged.
        place = os.environ.get("_ARGCOMPLETE_STDOUT_FILENAME", 8)
        with suppress(OSError):
            reply = open(place, "w", errors="surrogateescape")  # noqa: SIM115
    _finder()(parser, always_complete_options=False, exit_method=leave, output_stream=reply)


def remote_paths(prefix: str, action: Action, parsed_args: Namespace, **_: object) -> list[str]:
    """Return the paths on the server that begin with a prefix, as words of the locale."""
    try:
        settings = configure(parsed_args)
    except UsageError:
        # A broken configuration is reported when the command runs.
        return []
    tokens = partial(token_of, settings)
    names = ManyNames(TIMEOUT, settings.tls, tls_options(settings), tokens)
    directories = action.metavar == REMOTE_DIRECTORY
    found = map(argument_for, names.starting_with(prefix, settings.server, directories))
    # A name with characters that the locale lacks cannot be typed.
    return [each for each in found if each is not None]


def observed_words(prefix: str, action: Action, parsed_args: Namespace, **_: object) -> list[str]:
    """Return daemons, columns, times, upstreams, or words of a filter that begin with a prefix."""
    from natproxy.cli.translations import candidates

    if action.metavar == DAEMON:
        found = candidates.daemon_names()
    elif action.metavar == COLUMNS:
        found = candidates.columns(prefix)
    elif action.metavar == TIME:
        found = list(candidates.TIMES)
    elif action.metavar == UPSTREAM:
        found = candidates.upstream_names(parsed_args)
    else:
        found = candidates.filter_words(prefix, parsed_args.filter or ())
    return [each for each in found if each.startswith(prefix)]


def _finder() -> CompletionFinder:
    from argcomplete.finders import CompletionFinder

    class Finder(CompletionFinder):
        """Quotes names that argcomplete quotes incorrectly."""

        def quote_completions(
            self, completions: list[str], cword_prequote: str, last_wordbreak_pos: int | None
        ) -> list[str]:
            usual = [each for each in completions if each.isprintable()]
            unusual: list[str] = []
            # Only bash, outside quotes, replaces the whole word by a completion as it is.
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
    # As bash does, leave the quotes of a directory open.
    return word.removesuffix("'") if name.endswith("/") else word
