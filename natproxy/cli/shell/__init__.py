"""The prompt: the commands of the command line, typed by a person or piped in by a script.

They are read by the same grammar, `natproxy.cli.options`, and carried out by the same
functions, over connections that stay open from one to the next.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from natproxy.cli.context import Sessions, carry_out
from natproxy.cli.display.text import one_line
from natproxy.cli.encoding import local_path
from natproxy.cli.interrupts import rearm
from natproxy.cli.options import parser_of, summary_of
from natproxy.cli.parsing import commands_of
from natproxy.cli.shell.quoting import split
from natproxy.client.errors import ClientError, Interrupted, LocalError, UsageError
from natproxy.protocol import printable

PROMPT = "proxy> "

_LOCAL = ("output", "destination", "local", "directory")
"""Options that are paths here."""


def run(options: Namespace, sessions: Sessions) -> int:
    """Carry out commands until the end of input; return the exit status.

    The greeting, the prompts and the history are for a person at a terminal. Of a file or a
    pipe, only the commands' own output is on standard output.

    :raises CannotConnect: if there is no server to begin with.
    """
    session = sessions.session(options)
    session.connect()
    interactive = _is_terminal(sys.stdin)
    if interactive:
        _show(f"Connected to proxy at {session.server}\n")
    return Shell(options, sessions, _reader(options), interactive).run()


class Shell:
    """Reads commands and carries them out, whatever goes wrong.

    :param options: those whose server and time-out the commands have, unless they say others.
    :param sessions: to carry them out with.
    :param read: gives the next line for a prompt; raises `EOFError` at the end, and
        `KeyboardInterrupt` for a line that is not to be.
    :param interactive: whether a person types. Otherwise errors are on standard error, and an
        interrupt ends all of it.
    :ivar exit_status: of the last command that failed; 0 if none did.
    """

    def __init__(
        self,
        options: Namespace,
        sessions: Sessions,
        read: Callable[[str], str],
        interactive: bool = True,
    ) -> None:
        self.exit_status = 0
        self._defaults = {
            "server": options.server,
            "timeout": options.timeout,
            "connect_timeout": getattr(options, "connect_timeout", None),
        }
        self._sessions = sessions
        self._read = read
        self._commands = commands_of(parser_of(prompt=True))
        self._interactive = interactive
        if interactive:
            sessions.complain = _complain
            sessions.prompting = True

    def run(self) -> int:
        """Serve the user until the end of input; give the exit status."""
        while True:
            try:
                # Several lines may have been pasted at once.
                for line in self._read(PROMPT).split("\n"):
                    self._take(line)
            except (EOFError, Leaving):
                return self.exit_status
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                rearm()

    def _take(self, line: str) -> None:
        try:
            words = self._words(line)
            if words:
                self._note(carry_out(self._parsed(words), self._sessions))
        except ClientError as error:
            self._sessions.complain(str(error))
            self._note(error.exit_status)
        except KeyboardInterrupt:
            if self._interactive:
                self._note(Interrupted.exit_status)
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

    def _parsed(self, words: list[str]) -> Namespace:
        verb = words[0].lower()
        command = self._commands.get(verb)
        if command is None:
            raise UsageError(f"unknown command '{words[0]}': try 'help'")
        given = Namespace(command=verb, **self._defaults)
        try:
            options = command.parse_args(words[1:], given)
        except SystemExit:
            # It was asked for help, and has given it.
            return Namespace(run="shell:do_nothing")
        for name in _LOCAL:
            path = getattr(options, name, None)
            if path is not None:
                setattr(options, name, os.path.expanduser(path))
        return options

    def _note(self, exit_status: int) -> None:
        self.exit_status = exit_status or self.exit_status


class Leaving(Exception):
    """Whoever types has had enough."""


def change_directory(options: Namespace, _: Sessions) -> int:
    """Go to another directory here."""
    path = local_path(options.directory)
    try:
        os.chdir(path)
    except OSError as error:
        raise LocalError(path, error) from error
    return 0


def tell_directory(_: Namespace, __: Sessions) -> int:
    """Tell which directory here this is."""
    try:
        directory = os.getcwdb()
    except OSError as error:
        raise LocalError(b".", error) from error
    sys.stdout.write(printable(directory, 8192) + "\n")
    return 0


def help_(options: Namespace, _: Sessions) -> int:
    """Tell about all commands, or about one."""
    commands = commands_of(parser_of(prompt=True))
    if options.verb is not None:
        command = commands.get(options.verb.lower())
        if command is None:
            raise UsageError(f"unknown command '{options.verb}': try 'help'")
        sys.stdout.write(command.format_help())
        return 0
    for name, command in commands.items():
        sys.stdout.write(f"{name:<10}{summary_of(command)}\n")
    sys.stdout.write(
        "\n'help COMMAND' shows the options of one. A name with spaces in it is quoted, as"
        " 'a b' or\n\"a b\"; in $'a\\x0ab', \\xHH is a byte that can't be typed.\n"
    )
    return 0


def leave(_: Namespace, __: Sessions) -> int:
    """End the shell."""
    raise Leaving


def do_nothing(_: Namespace, __: Sessions) -> int:
    """All has been said."""
    return 0


def _reader(options: Namespace) -> Callable[[str], str]:
    if not _is_terminal(sys.stdin):
        return _read_piped
    if _is_terminal(sys.stdout):
        try:
            from natproxy.cli.shell.prompt import reader
        except ImportError:
            # It comes with an extra.
            return _read_plainly
        return reader(options.server)
    return _read_plainly


def _read_plainly(prompt: str) -> str:
    try:
        if _is_terminal(sys.stdout):
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
    """Write what is for the person at the terminal alone."""
    if _is_terminal(sys.stdout):
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        # It is closed.
        return False
