"""``natproxy token``: the tokens by which daemons identify clients."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import CONFIG_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Token(Command):
    """Creates a token and prints it once, lists the names of tokens, or revokes one."""

    name = "token"
    help = "create, list and revoke the tokens that a daemon accepts"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "action",
            choices=("new", "list", "revoke"),
            help="new: create one and print it; list: print names and times; revoke: remove one",
        )
        parser.add_argument(
            "client", metavar="CLIENT", nargs="?", help="name of the client that has the token"
        )
        parser.add_argument(
            "--file",
            metavar=CONFIG_FILE,
            help="file of the tokens, as of the daemon's --tokens (default: /etc/natproxy/tokens"
            " for root, else natproxy/tokens in $XDG_CONFIG_HOME)",
        )
        parser.add_argument(
            "--expires",
            metavar="WHEN",
            help="with new: when the token expires: 90d, 12h, 2027-11-26 or 2027-11-26T10:00:00Z",
        )
        parser.add_argument("--json", action="store_true", help="with list: print JSON lines")

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.tokens import run

        return run(arguments, sessions.complain)
