"""``natproxy history``: translations of the past."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import (
    add_columns_option,
    add_control_options,
    add_filter_options,
    add_format_options,
    add_interval_options,
    add_last_option,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class History(Command):
    """Writes translations of the past, the oldest first."""

    name = "history"
    help = "show commands of the past, and in flight, from the journal"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_filter_options(parser)
        add_interval_options(parser)
        add_last_option(parser, "commands")
        add_columns_option(parser)
        add_format_options(parser)
        add_control_options(parser, journal=True)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.history import write_history
        from natproxy.cli.translations.query import explain

        if arguments.explain:
            return explain(arguments.filter)
        return write_history(arguments, sessions.complain)
