"""``natproxy upstreams``: the file servers behind a proxy, and which of them take commands."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.interrupts import stopped
from natproxy.cli.options import UPSTREAM, add_control_options, add_json_option
from natproxy.cli.watching import add_watch_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions

ACTIONS = ("ready", "drain", "maintenance")
"""The modes of `natproxy.records.upstreams.MODES`, which is slower to import."""


class Upstreams(Command):
    """Shows the upstreams of a proxy, or sets the mode of one."""

    name = "upstreams"
    help = "show the file servers behind a proxy; take one out, and back"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "action",
            metavar="|".join(ACTIONS),
            nargs="?",
            choices=ACTIONS,
            help="set the mode of an upstream: ready to take commands; drain, to finish those that"
            " it has, and take no more; maintenance, not to be checked either (default: show all)",
        )
        parser.add_argument("upstream", metavar=UPSTREAM, nargs="?", help="name of the upstream")
        parser.add_argument(
            "--wait",
            action="store_true",
            help="return when the upstream has no more commands; with ready, when it is up",
        )
        parser.add_argument(
            "--yes", action="store_true", help="do not wait for a confirmation on the terminal"
        )
        add_json_option(parser)
        add_watch_option(parser)
        add_control_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.upstream_modes import set_mode
        from natproxy.cli.translations.upstreams import watch, write_upstreams

        if arguments.action is not None:
            return set_mode(arguments, sessions.complain)
        if arguments.watch is None:
            return write_upstreams(arguments, sessions.complain)
        try:
            watch(arguments, sessions.complain)
        except KeyboardInterrupt:
            return stopped()
