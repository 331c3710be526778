"""``natproxy journal``: the segments of journals, and their copy in PostgreSQL."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import (
    CONTROL_SOCKET,
    DAEMON,
    DATABASE,
    DURATION,
    LOCAL_DIRECTORY,
    add_json_option,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Journal(Command):
    """Works on the directory of a journal; no daemon is needed, and one may be running."""

    name = "journal"
    help = "list, verify or ship the segments of a journal, or erase a client from it"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "action",
            choices=("segments", "verify", "erase", "ship", "migrate", "proxies"),
            help="segments: list the files; verify: read all of them and report what is damaged;"
            " erase: remove what identifies a client; ship: copy what is new to PostgreSQL, and"
            " continue until it is stopped; migrate: create or change the tables there; proxies:"
            " list those whose journals are there",
        )
        parser.add_argument(
            "--client",
            metavar="ADDRESS",
            help="address or network of the client to erase; for erase only",
        )
        parser.add_argument(
            "--yes", action="store_true", help="do not wait for a confirmation on the terminal"
        )
        parser.add_argument(
            "--to",
            metavar=DATABASE,
            help="the database to ship to, or to migrate: postgresql://USER@HOST/DATABASE; a"
            " password is better in $PGPASSWORD or ~/.pgpass, as others can read a command line",
        )
        parser.add_argument(
            "--once", action="store_true", help="ship what is there now, and exit; for ship only"
        )
        parser.add_argument(
            "--retention",
            metavar=DURATION,
            help="delete from the database the days that ended longer ago, such as 90d; for ship"
            " only (default: delete nothing)",
        )
        add_json_option(parser)
        parser.add_argument(
            "--journal",
            metavar=LOCAL_DIRECTORY,
            action="append",
            help="the directory (default: that of the only journal in the usual place, or of the"
            " proxy that runs); for ship, which takes it more than once, all of the"
            " journals in the usual place; for proxies, the URL of the database",
        )
        parser.add_argument(
            "--control",
            metavar=CONTROL_SOCKET,
            help="control socket of the proxy whose journal it is (default: $NATPROXY_CONTROL)",
        )
        parser.add_argument("--name", metavar=DAEMON, help="name of the proxy whose journal it is")

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        if arguments.action in ("ship", "migrate", "proxies"):
            from natproxy.cli.translations.fleet import run_fleet

            return run_fleet(arguments, sessions.complain)
        from natproxy.cli.translations.journal import run_journal

        return run_journal(arguments, sessions.complain)
