"""``natproxy cat``: files, written to standard output."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import REMOTE_FILE, add_retry_options, add_server_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Cat(Command):
    """Writes the content of files to standard output, in the order of the paths."""

    name = "cat"
    help = "write files to standard output"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_server_options(parser)
        add_retry_options(parser, 1800.0)
        parser.add_argument("paths", metavar=REMOTE_FILE, nargs="+", help="file, or a pattern")

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.context import retry_policy_of
        from natproxy.cli.display import display_for
        from natproxy.cli.downloads import write_to_output
        from natproxy.cli.targets import targets_of
        from natproxy.client.transfer.request import DownloadOptions

        session, names, _ = targets_of(arguments, sessions)
        options = DownloadOptions(retry_policy=retry_policy_of(arguments))
        display = display_for("never", quiet=True)
        return write_to_output(session, names, options, display, sessions.prompting)
