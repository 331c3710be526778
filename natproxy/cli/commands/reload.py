"""``natproxy reload``: makes a daemon read its settings again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import add_control_options, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Reload(Command):
    """Makes a daemon read its settings again, and shows what has changed."""

    name = "reload"
    help = "make a daemon read its settings again, without interrupting commands"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "-n",
            "--dry-run",
            action="store_true",
            help="show what would change, and change nothing",
        )
        add_json_option(parser)
        add_control_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.reload import reload

        return reload(arguments, sessions.complain, arguments.dry_run, arguments.json)
