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
from natproxy.cli.parsing import Actions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Journal(Command):
    """Works on the directory of a journal; no daemon is needed, and one may be running."""

    name = "journal"
    help = "list, verify or ship the segments of a journal, or erase a client from it"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = Actions(parser)
        segments = actions.add("segments", "list the files of a journal")
        verify = actions.add("verify", "read all files of a journal, and report what is damaged")
        erase = actions.add("erase", "remove what identifies a client from a journal")
        erase.add_argument(
            "--client",
            metavar="ADDRESS",
            required=True,
            help="address or network of the client",
        )
        erase.add_argument(
            "--yes", action="store_true", help="do not wait for a confirmation on the terminal"
        )
        for each in (segments, verify, erase):
            add_json_option(each)
            each.add_argument(
                "--journal",
                metavar=LOCAL_DIRECTORY,
                help="the directory (default: that of the only journal in the usual place, or of"
                " the proxy that runs)",
            )
            each.add_argument(
                "--control",
                metavar=CONTROL_SOCKET,
                help="control socket of the proxy whose journal it is (default: $NATPROXY_CONTROL)",
            )
            each.add_argument(
                "--name", metavar=DAEMON, help="name of the proxy whose journal it is"
            )
        ship = actions.add(
            "ship",
            "copy what is new in journals to PostgreSQL",
            "It continues until it is stopped. While the database is away, the journals wait.",
        )
        _add_database(
            ship,
            "--to",
        )
        ship.add_argument("--once", action="store_true", help="copy what is there now, and exit")
        ship.add_argument(
            "--retention",
            metavar=DURATION,
            help="delete from the database the days that ended longer ago, such as 90d (default:"
            " delete nothing)",
        )
        ship.add_argument(
            "--journal",
            metavar=LOCAL_DIRECTORY,
            action="append",
            help="the directory of a journal; it can be repeated (default: all journals in the"
            " usual place)",
        )
        ship.add_argument("--name", metavar=DAEMON, help="name of the only proxy to ship")
        migrate = actions.add("migrate", "create or change the tables in PostgreSQL")
        _add_database(
            migrate,
            "--to",
        )
        proxies = actions.add(
            "proxies",
            "list the proxies whose journals are in PostgreSQL, and how far each is behind",
        )
        _add_database(
            proxies,
            "--journal",
        )
        add_json_option(proxies)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        if arguments.action in ("ship", "migrate", "proxies"):
            from natproxy.cli.translations.fleet import run_fleet

            return run_fleet(arguments, sessions.complain)
        from natproxy.cli.translations.journal import run_journal

        return run_journal(arguments, sessions.complain)


def _add_database(parser: ArgumentParser, option: str) -> None:
    parser.add_argument(
        option,
        metavar=DATABASE,
        required=True,
        help="the database: postgresql://USER@HOST/DATABASE; a password is better in $PGPASSWORD or"
        " ~/.pgpass, as others can read a command line",
    )
