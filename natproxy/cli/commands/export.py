"""``natproxy export``: translations of the past, for other programs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import (
    add_control_options,
    add_filter_options,
    add_interval_options,
    add_last_option,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions

FORMATS = ("jsonl", "csv")


class Export(Command):
    """Writes translations of the past as JSON lines or CSV, the oldest first."""

    name = "export"
    help = "write commands of the past as JSON lines or CSV, for other programs"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_filter_options(parser)
        add_interval_options(parser)
        add_last_option(parser, "commands")
        parser.add_argument(
            "--format",
            choices=FORMATS,
            default=FORMATS[0],
            help="jsonl: a JSON object in each line; csv: CSV with a header (default: jsonl)",
        )
        parser.add_argument(
            "--ipfix-names",
            action="store_true",
            help="write the create and the delete event of each translation, with the names of"
            " IPFIX's information elements (RFC 8158)",
        )
        add_control_options(parser, journal=True)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.export import write_export
        from natproxy.cli.translations.query import explain

        if arguments.explain:
            return explain(arguments.filter)
        return write_export(arguments, sessions.complain)
