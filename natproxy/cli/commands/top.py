"""``natproxy top``: the commands in flight, live in a terminal."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import add_control_options, add_filter_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions

GROUPS = ("client", "name", "verb")


class Top(Command):
    """Shows the commands in flight and rates until the user quits."""

    name = "top"
    help = "show the commands in flight and rates, live in a terminal"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_filter_options(parser)
        parser.add_argument(
            "--by", choices=GROUPS, help="show groups (default: the commands themselves)"
        )
        add_control_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.output import is_terminal
        from natproxy.cli.top.state import Top as State
        from natproxy.cli.translations.query import explain, filter_text
        from natproxy.cli.translations.sources import proxy_of
        from natproxy.client.errors import ClientError

        if arguments.explain:
            return explain(arguments.filter)
        text = filter_text(arguments.filter)
        daemon = proxy_of(arguments)
        # Here a daemon that does not run is an error; later it is waited for.
        daemon.status()
        state = State(daemon, text, arguments.by)
        if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
            from natproxy.cli.top.report import write_once

            write_once(state)
            return 0
        try:
            from natproxy.cli.top.screen import run
        except ImportError as error:
            from natproxy.extras import missing

            raise ClientError(missing("top", "rich", "cli")) from error
        try:
            run(state)
        except KeyboardInterrupt:
            # Ctrl-C is another key that quits.
            return 0
        return 0
