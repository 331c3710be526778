"""The prompt: commands that a person types or a script pipes in.

Most of them are those of the command line. Their connections stay open from one command to
the next.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from natproxy.cli.command import Command
from natproxy.cli.context import Sessions, settings_of, tls_options, token_of
from natproxy.cli.interrupts import rearm
from natproxy.cli.options import LOCAL
from natproxy.cli.output import is_terminal
from natproxy.cli.shell.commands import Leave, parsers_with
from natproxy.cli.shell.quoting import split
from natproxy.client.errors import ClientError, Interrupted, LocalError, UsageError
from natproxy.protocol import printable
from natproxy.settings import one_line

LONGEST_SHOWN = 40
"""Characters of the directory in the prompt, at most: the last names are shown."""


def run(arguments: Namespace, sessions: Sessions, commands: Sequence[Command]) -> int:
    """Run commands until the end of input; return the exit status.

    The greeting, the prompts and the history are for a person at a terminal. If lines are
    piped in, standard output has only the output of the commands.

    :param arguments: configured; the commands inherit the settings of the client.
    :param commands: those of the command line that the prompt has, too.
    :raises CannotConnect: if the server cannot be reached at the start.
    """
    session = sessions.session(arguments)
    session.connect()
    interactive = is_terminal(sys.stdin)
    if interactive:
        _show(f"Connected to proxy at {session.server}\n")
    parsers = parsers_with(commands)
    sessions.directory = b""
    read = _reader(arguments, parsers, lambda: sessions.directory or b"")
    return Shell(arguments, sessions, parsers, read, interactive).run()


class Shell:
    """Reads lines and runs them as commands; a command that fails does not end it.

    :param arguments: configured; commands inherit the settings that they do not specify.
    :param sessions: passed to the commands.
    :param parsers: of the commands, by name.
    :param read: returns the next line for a prompt; raises ``EOFError`` at the end of input and
        ``KeyboardInterrupt`` if the line is cancelled.
    :param interactive: whether a person types. Otherwise errors are written to standard
        error, and an interrupt ends the shell.
    :ivar exit_status: of the last command that failed; 0 if none did.
    """

    def __init__(
        self,
        arguments: Namespace,
        sessions: Sessions,
        parsers: Mapping[str, ArgumentParser],
        read: Callable[[str], str],
        interactive: bool = True,
    ) -> None:
        self.exit_status = 0
        self._defaults = settings_of(arguments)
        self._sessions = sessions
        self._read = read
        self._parsers = parsers
        self._interactive = interactive
        if interactive:
            sessions.complain = _complain
            sessions.prompting = True

    def run(self) -> int:
        """Run commands until the end of input; return the exit status."""
        while True:
            try:
                # Several lines may have been pasted at once.
                for line in self._read(self._prompt()).split("\n"):
                    self._run_line(line)
            except (EOFError, Leave):
                return self.exit_status
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                rearm()

    def _prompt(self) -> str:
        directory = self._sessions.directory
        if not directory:
            return "proxy> "
        shown = "/" + printable(directory, 8192)
        if len(shown) > LONGEST_SHOWN:
            shown = f"...{shown[3 - LONGEST_SHOWN :]}"
        return f"proxy:{shown}> "

    def _run_line(self, line: str) -> None:
        try:
            arguments = self._parsed(self._words(line))
            if arguments is not None:
                self._record(arguments.selected.run(arguments, self._sessions))
        except ClientError as error:
            self._sessions.complain(str(error))
            self._record(error.exit_status)
        except KeyboardInterrupt:
            if self._interactive:
                self._record(Interrupted.exit_status)
                # The terminal has shown ``^C``.
                _show("\n")
                _complain("interrupted")
            raise
        # The output must not wait in the buffer for the next command.
        sys.stdout.flush()

    def _words(self, line: str) -> list[str]:
        try:
            return split(line)
        except ValueError as error:
            raise UsageError(f"cannot read the line: {error}") from error

    def _parsed(self, words: list[str]) -> Namespace | None:
        """Return the parsed words of a line; ``None`` if there is nothing to run."""
        if not words:
            return None
        name = words[0].lower()
        parser = self._parsers.get(name)
        if parser is None:
            raise UsageError(f"unknown command '{words[0]}': try 'help'")
        defaults = Namespace(command=name, **self._defaults)
        try:
            arguments = parser.parse_args(words[1:], defaults)
        except SystemExit:
            # The parser has printed the help.
            return None
        for action in parser._actions:
            path = getattr(arguments, action.dest, None)
            if action.metavar in LOCAL and isinstance(path, str):
                setattr(arguments, action.dest, os.path.expanduser(path))
        return arguments

    def _record(self, exit_status: int) -> None:
        self.exit_status = exit_status or self.exit_status


def _reader(
    settings: Namespace, parsers: Mapping[str, ArgumentParser], directory: Callable[[], bytes]
) -> Callable[[str], str]:
    if not is_terminal(sys.stdin):
        return _read_piped
    if is_terminal(sys.stdout):
        try:
            from natproxy.cli.candidates import ManyNames
            from natproxy.cli.shell.prompt import reader
        except ImportError:
            # prompt_toolkit comes with the extra "cli".
            return _read_plainly
        names = ManyNames(
            tls=settings.tls,
            options=tls_options(settings),
            token_of=partial(token_of, settings),
        )
        return reader(settings.server, parsers, directory, names)
    return _read_plainly


def _read_plainly(prompt: str) -> str:
    try:
        if is_terminal(sys.stdout):
            return input(prompt)
        _show(prompt)
        return input()
    except (EOFError, KeyboardInterrupt):
        _show("\n")
        raise


def _read_piped(_: str) -> str:
    try:
        line = sys.stdin.readline()
    except OSError as error:
        raise LocalError(b"standard input", error) from error
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _complain(message: str) -> None:
    _show(f"error: {one_line(message)}\n")


def _show(text: str) -> None:
    """Write text for the person at the terminal; never to a redirected standard output."""
    if is_terminal(sys.stdout):
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()
