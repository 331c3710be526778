"""``natproxy events``: what happens to translations, as it happens."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from natproxy.cli.command import Command
from natproxy.cli.interrupts import stopped
from natproxy.cli.options import (
    add_control_options,
    add_filter_options,
    add_interval_options,
    add_json_option,
    add_last_option,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


def cursor(text: str) -> str:
    """Return the numbers of events, ``WORKER:SEQ`` or ``WORKER:SEQ:BOOT``, one of each worker.

    :raises ArgumentTypeError: for anything else.
    """
    one = "[0-9]{1,6}:[0-9]{1,18}(:[0-9A-Za-z_-]{1,64})?"
    if re.fullmatch(f"{one}(,{one})*", text) is None:
        raise ArgumentTypeError(f"'{text}': must be WORKER:SEQ, such as 0:1234")
    return text


class Events(Command):
    """Writes events, those of the past and new ones."""

    name = "events"
    help = "show what has happened to commands, and with -f what happens"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_filter_options(parser)
        parser.add_argument(
            "-f", "--follow", action="store_true", help="wait for new events, after the newest 20"
        )
        add_last_option(parser, "events")
        add_interval_options(parser)
        parser.add_argument(
            "--after",
            metavar="WORKER:SEQ",
            type=cursor,
            help="continue after the event with this number; several workers: 0:1234,1:99",
        )
        add_json_option(parser)
        add_control_options(parser, journal=True)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.events import write_events
        from natproxy.cli.translations.query import explain

        if arguments.explain:
            return explain(arguments.filter)
        try:
            return write_events(arguments, sessions.complain)
        except KeyboardInterrupt:
            if not arguments.follow:
                raise
            return stopped()
