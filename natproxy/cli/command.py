"""The base class of every command."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

# For mypy, this is true. `typing` takes longer to import than the modules of all commands.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from natproxy.cli.context import Sessions


class Command:
    """A command of the program, of the prompt, or of both.

    ``natproxy --help`` imports the modules of all commands: they import what is slow to
    import, such as the client, in `run`.

    :cvar name: the word that selects it.
    :cvar help: what it does, in a few words: lower case, no full stop.
    :cvar connects: whether it is a client, and has the settings of the client.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    connects: ClassVar[bool] = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's options and arguments to its parser."""

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        """Run the command and return its exit status.

        :param arguments: as parsed by the command's parser, with the settings of the client.
        :raises ClientError: on failure; it has the exit status.
        """
        raise NotImplementedError
