"""The prompt: commands typed by a person, or piped in by a script."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable

from natproxy import wire
from natproxy.client.errors import ClientError, UsageError
from natproxy.client.saving import download
from natproxy.client.session import Session

PROMPT = "proxy> "

HELP = """\
list                        names of the files on the server
download <filename> [dest]  fetch a file; quote a name with spaces in it
help                        this text
exit, quit, Ctrl-D          leave
"""


class Shell:
    """Reads commands and carries them out, whatever goes wrong.

    :param connection: to the server.
    :param read: gives the next line for a prompt; raises `EOFError` at the end.
    :param write: takes the text to show.
    :ivar exit_status: of the last command that failed; 0 if none did.
    """

    def __init__(
        self,
        connection: Session,
        read: Callable[[str], str] = input,
        write: Callable[[str], object] = sys.stdout.write,
    ) -> None:
        self.exit_status = 0
        self._connection = connection
        self._read = read
        self._write = write
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "list": self._list,
            "download": self._download,
            "help": self._help,
        }

    def run(self) -> int:
        """Serve the user until the end of input; give the exit status."""
        self._connection.connect()
        self._write(f"Connected to proxy at {self._connection.server}\n")
        while True:
            try:
                line = self._read(PROMPT)
            except EOFError:
                self._write("\n")
                return self.exit_status
            except KeyboardInterrupt:
                self._write("\n")
                continue
            if not self._carry_out(line):
                return self.exit_status

    def _carry_out(self, line: str) -> bool:
        try:
            words = shlex.split(line)
            if not words:
                return True
            verb, *arguments = words
            if verb.lower() in ("exit", "quit"):
                return False
            command = self._commands.get(verb.lower())
            if command is None:
                raise UsageError(f"unknown command '{verb}': try 'help'")
            command(arguments)
        except ValueError as error:
            self._fail(f"cannot read the line: {str(error).lower()}", UsageError.exit_status)
        except ClientError as error:
            self._fail(str(error), error.exit_status)
        except KeyboardInterrupt:
            # What was under way can't be taken up again on this connection.
            self._connection.close()
            self._write("\n")
            self._fail("interrupted", 130)
        return True

    def _fail(self, message: str, exit_status: int) -> None:
        self.exit_status = exit_status
        self._write(f"error: {message}\n")

    def _list(self, arguments: list[str]) -> None:
        if arguments:
            raise UsageError("list takes no arguments")
        for name in self._connection.list():
            self._write(wire.printable(name) + "\n")

    def _download(self, arguments: list[str]) -> None:
        if not 1 <= len(arguments) <= 2:
            raise UsageError("usage: download <filename> [dest]")
        name, *destination = (os.fsencode(argument) for argument in arguments)
        path = download(self._connection, name, *destination)
        self._write(saved(path) + "\n")

    def _help(self, arguments: list[str]) -> None:
        self._write(HELP)


def saved(path: bytes) -> str:
    """Say that a file has been fetched."""
    return f"saved {wire.printable(path)} ({os.stat(path).st_size} bytes)"
