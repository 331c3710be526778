"""``natproxy drain``: ends a daemon after the commands in flight."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import add_control_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Drain(Command):
    """Makes a daemon refuse new clients, finish the commands in flight, and exit."""

    name = "drain"
    help = "stop a daemon after the commands in flight"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--wait", action="store_true", help="return when the daemon has ended")
        add_control_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.drain import drain

        return drain(arguments, sessions.complain)
