"""``natproxy kill``: ends commands in flight."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import FILTER, add_control_options, add_explain_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Kill(Command):
    """Ends the command of one translation, or of all that a filter matches."""

    name = "kill"
    help = "end commands in flight"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "filter",
            metavar=FILTER,
            nargs="+",
            help="a serial number, as 'natproxy top' shows it, with the number of the worker if"
            " there are several (1:345), or a filter: nat-port 40001",
        )
        parser.add_argument(
            "-n", "--dry-run", action="store_true", help="show what would end, and end nothing"
        )
        parser.add_argument(
            "--yes", action="store_true", help="do not wait for a confirmation on the terminal"
        )
        add_explain_option(parser)
        add_control_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.kill import kill

        return kill(arguments, sessions.complain)
