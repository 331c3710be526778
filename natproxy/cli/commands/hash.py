"""``natproxy hash``: SHA-256 digests, computed by the server."""

from __future__ import annotations

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


class Hash(Command):
    """Writes the digest of each path in the form of ``sha256sum``."""

    name = "hash"
    help = "have the server compute SHA-256 digests"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_server_options(parser)
        add_retry_options(parser)
        parser.add_argument("paths", metavar=REMOTE_FILE, nargs="+", help="file, or a pattern")
        add_json_option(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.context import retrier_of
        from natproxy.cli.records import Replies, digest_record, write_json, write_lines
        from natproxy.cli.targets import targets_of
        from natproxy.client import requests

        session, names, _ = targets_of(arguments, sessions)
        retry = retrier_of(arguments, session, sessions.complain)
        replies = Replies(names, session, requests.Hash, session.hash, retry, sessions.complain)
        if arguments.json:
            write_json(digest_record(name, digest) for name, digest in replies)
        else:
            # `sha256sum -c` reads the names under which `get` saves the files.
            lines = (_sum_line(name, digest.sha256) for name, digest in replies)
            write_lines(lines, raw=True)
        return replies.exit_status


def _sum_line(name: bytes, digest: str) -> bytes:
    # As sha256sum does: a line with an escaped name begins with a backslash.
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"" if escaped == name else b"\\"
    return mark + digest.encode("ascii") + b"  " + escaped
