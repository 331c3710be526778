"""``natproxy completion``: a script that completes command lines in the user's shell."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions

SHELLS = ("bash", "zsh", "fish")


class Completion(Command):
    """Prints a script for a shell. The script calls `natproxy.cli.completion` for the names."""

    name = "completion"
    help = "print a script that completes natproxy's command lines"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("shell", choices=SHELLS, help="shell that runs the script")

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.client.errors import ClientError

        try:
            from argcomplete.shell_integration import shellcode
        except ImportError as error:
            from natproxy.extras import missing

            raise ClientError(missing("completion", "argcomplete", "cli")) from error
        # `-o default` is left out: bash would offer local files if no remote name matches.
        options = ["-o nospace"]
        script = shellcode(["natproxy"], shell=arguments.shell, complete_arguments=options)
        sys.stdout.write(script.strip() + "\n")
        return 0
