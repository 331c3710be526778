"""``natproxy list``: the names in the served directory, by version 1 of the protocol."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import add_retry_options, add_server_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class List(Command):
    """Writes the names of the files in the served directory itself."""

    name = "list"
    help = "list the files in the served directory itself (version 1)"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_server_options(parser)
        add_retry_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.context import retrier_of
        from natproxy.cli.listing import names_of
        from natproxy.cli.records import write_lines

        session = sessions.session(arguments)
        write_lines(names_of(session, retrier_of(arguments, session, sessions.complain)))
        return 0
