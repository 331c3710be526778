"""``natproxy shell``: the prompt."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from natproxy.cli.command import Command
from natproxy.cli.options import add_server_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Shell(Command):
    """Runs commands that are typed, or piped in, over connections that stay open.

    :param commands: those that the prompt has, besides its own.
    """

    name = "shell"
    help = "open a prompt"

    def __init__(self, commands: Sequence[Command]) -> None:
        self._commands = commands

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_server_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.shell import run

        return run(arguments, sessions, self._commands)
