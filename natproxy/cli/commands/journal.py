"""``natproxy journal``: the segments of a journal, their check, and the erasure of a client."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import CONTROL_SOCKET, DAEMON, LOCAL_DIRECTORY, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Journal(Command):
    """Works on the directory of a journal; no daemon is needed, and one may be running."""

    name = "journal"
    help = "list or verify the segments of a journal, or erase a client from it"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "action",
            choices=("segments", "verify", "erase"),
            help="segments: list the files; verify: read all of them and report what is damaged;"
            " erase: remove what identifies a client",
        )
        parser.add_argument(
            "--client",
            metavar="ADDRESS",
            help="address or network of the client to erase; for erase only",
        )
        parser.add_argument(
            "--yes", action="store_true", help="do not wait for a confirmation on the terminal"
        )
        add_json_option(parser)
        parser.add_argument(
            "--journal",
            metavar=LOCAL_DIRECTORY,
            help="the directory (default: that of the only journal in the usual place, or of the"
            " proxy that runs)",
        )
        parser.add_argument(
            "--control",
            metavar=CONTROL_SOCKET,
            help="control socket of the proxy whose journal it is (default: $NATPROXY_CONTROL)",
        )
        parser.add_argument("--name", metavar=DAEMON, help="name of the proxy whose journal it is")

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.journal import run_journal

        return run_journal(arguments, sessions.complain)
