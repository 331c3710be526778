"""``natproxy stat``: the metadata of files and directories."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import (
    REMOTE_FILE,
    add_json_option,
    add_retry_options,
    add_server_options,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Stat(Command):
    """Writes the metadata of each path."""

    name = "stat"
    help = "show the metadata of files"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_server_options(parser)
        add_retry_options(parser)
        parser.add_argument(
            "paths", metavar=REMOTE_FILE, nargs="+", help="file or directory, or a pattern"
        )
        add_json_option(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.context import retrier_of
        from natproxy.cli.records import Replies, record_of, time_text, write_json
        from natproxy.cli.targets import targets_of
        from natproxy.client import requests
        from natproxy.protocol import ROOT, printable

        session, names, _ = targets_of(arguments, sessions, directories=True)
        retry = retrier_of(arguments, session, sessions.complain)
        replies = Replies(names, session, requests.Stat, session.stat, retry, sessions.complain)
        if arguments.json:
            write_json(record_of(name, metadata) for name, metadata in replies)
        else:
            for name, metadata in replies:
                sys.stdout.write(
                    f"name:     {printable(name or ROOT)}\n"
                    f"type:     {metadata.type}\n"
                    f"size:     {metadata.size}\n"
                    f"modified: {time_text(metadata.mtime_ns)}\n"
                    f"etag:     {metadata.etag}\n"
                )
        return replies.exit_status
