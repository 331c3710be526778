"""``natproxy status``: what daemons run, and how they are."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import add_control_options, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Status(Command):
    """Writes the status of a daemon, or of all that run."""

    name = "status"
    help = "show the daemons that run: addresses, clients, counters, journal"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_json_option(parser)
        add_control_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.status import write_status

        return write_status(arguments, sessions.complain)
