"""``natproxy whois``: which client held a port, and with which command."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import (
    TIME,
    add_control_options,
    add_interval_options,
    add_json_option,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Whois(Command):
    """Writes who held a port, now or in the past."""

    name = "whois"
    help = "show which client was behind a port of the proxy, and its command"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "port",
            metavar="[ADDRESS:]PORT",
            help="the port that the upstream saw; - reads lines 'PORT TIME' from standard input",
        )
        parser.add_argument(
            "--at", metavar=TIME, help="when: 14:03, '-10min', 2026-11-26T14:03:07Z (default: now)"
        )
        parser.add_argument(
            "--within",
            metavar="DURATION",
            type=_span,
            default=0.0,
            help="also search this long before and after the time: 5s (default: 0)",
        )
        parser.add_argument(
            "--upstream", metavar="HOST[:PORT]", help="only connections to this upstream"
        )
        add_interval_options(parser)
        add_json_option(parser)
        add_control_options(parser, journal=True)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.whois import write_each, write_one

        write = write_each if arguments.port == "-" else write_one
        return write(arguments, sessions.complain)


def _span(text: str) -> float:
    """Return the seconds of a duration, in the units of times and filters.

    :raises ArgumentTypeError: if it is malformed.
    """
    from natproxy.records.times import parse_duration

    try:
        return parse_duration(text) / 1_000_000
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}: {error}") from None
