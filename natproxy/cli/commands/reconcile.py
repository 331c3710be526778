"""``natproxy reconcile``: compares a proxy's table with its sockets."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import add_control_options, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Reconcile(Command):
    """Writes what differs between the NAT table of a proxy and the sockets of its process."""

    name = "reconcile"
    help = "compare a proxy's NAT table with the sockets of its process"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_json_option(parser)
        add_control_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.reconcile import write_comparison

        return write_comparison(arguments, sessions.complain)
