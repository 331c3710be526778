"""``natproxy table``: the translations that exist now."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.interrupts import stopped
from natproxy.cli.options import (
    add_columns_option,
    add_control_options,
    add_filter_options,
    add_format_options,
)
from natproxy.cli.watching import add_watch_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions

SORTS = ("age", "bytes", "rate", "client")


class Table(Command):
    """Writes the table of a proxy, once or again and again."""

    name = "table"
    help = "show the commands in flight: client, port, command, bytes"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_filter_options(parser)
        parser.add_argument(
            "--sort",
            choices=SORTS,
            help="the largest first, or clients by address (default: the oldest first)",
        )
        add_columns_option(parser)
        add_format_options(parser)
        add_watch_option(parser, "; rates are those between")
        add_control_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.query import explain, filter_text
        from natproxy.cli.translations.table import TableReport

        if arguments.explain:
            return explain(arguments.filter)
        text = filter_text(arguments.filter)
        report = TableReport(arguments)
        if arguments.watch is not None:
            try:
                report.watch(text, arguments.watch, sessions.complain)
            except KeyboardInterrupt:
                return stopped()
        written = report.write(text)
        report.report(sessions.complain)
        if not written and not (arguments.json or arguments.csv):
            matching = " matches the filter" if text.strip() else ""
            sessions.complain(f"no command in flight{matching}")
        return 0
