"""``natproxy table``: the translations that exist now."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from natproxy.cli.command import Command
from natproxy.cli.interrupts import stopped
from natproxy.cli.options import (
    add_columns_option,
    add_control_options,
    add_filter_options,
    add_format_options,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions

SORTS = ("age", "bytes", "rate", "client")
INTERVAL = 2.0
"""Seconds between two states of ``--watch``."""


def seconds(text: str) -> float:
    """Return the seconds of an interval.

    :raises ArgumentTypeError: if it is malformed, too short or too long.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise ArgumentTypeError(
            f"'{text}': must be from 0.1 to 86400 seconds; a filter is written before --watch"
        )
    return value


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
        parser.add_argument(
            "--watch",
            metavar="SECONDS",
            nargs="?",
            type=seconds,
            const=INTERVAL,
            help=f"repeat at this interval (default: {INTERVAL:g} s); rates are those between",
        )
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
