"""``natproxy download``: one whole file, by version 1 of the protocol."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import LOCAL_FILE, REMOTE_NAME, add_server_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Download(Command):
    """Downloads a whole file and replaces an existing one."""

    name = "download"
    help = "download a whole file, without resuming (version 1)"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_server_options(parser)
        parser.add_argument("name", metavar=REMOTE_NAME, help="name of the file, as listed")
        parser.add_argument(
            "destination",
            metavar=LOCAL_FILE,
            nargs="?",
            help="file or directory to save to (default: .)",
        )

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.encoding import local_path, remote_name
        from natproxy.client.errors import NotFound
        from natproxy.client.requests import as_name
        from natproxy.client.transfer.version1 import download_version1
        from natproxy.protocol import FILE_NOT_FOUND, printable

        destination = None
        if arguments.destination is not None:
            destination = local_path(arguments.destination)
        try:
            path = download_version1(
                sessions.session(arguments),
                as_name(sessions.absolute(remote_name(arguments.name))),
                destination,
            )
        except NotFound as error:
            # The text of version 1 alone: programs compare it.
            raise NotFound(FILE_NOT_FOUND) from error
        sys.stdout.write(f"saved {printable(path)} ({os.stat(path).st_size} bytes)\n")
        return 0
