"""``natproxy ls``: the entries of a directory."""

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


class Ls(Command):
    """Writes the paths of a directory's entries; those of directories end with a slash."""

    name = "ls"
    help = "list a directory"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_server_options(parser)
        add_retry_options(parser)
        parser.add_argument(
            "path",
            metavar=REMOTE_FILE,
            nargs="?",
            default="",
            help="directory or file (default: the served directory)",
        )
        parser.add_argument(
            "-l", "--long", action="store_true", help="show sizes in bytes, and times"
        )
        parser.add_argument(
            "-R", "--recursive", action="store_true", help="list all directories below it, too"
        )
        add_json_option(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.context import retrier_of
        from natproxy.cli.listing import CountedEntries, entries_of, long_line, names_of, short_line
        from natproxy.cli.records import record_of, write_json, write_lines

        session, (name,) = sessions.targets(arguments, [arguments.path])
        retry = retrier_of(arguments, session, sessions.complain)
        plain = not (name or arguments.long or arguments.recursive or arguments.json)
        if retry(lambda: session.version) < 2 and plain:
            write_lines(names_of(session, retry))
            return 0
        # Entries are written as they arrive and not kept: a listing may have any length.
        depth = float("inf") if arguments.recursive else 1
        entries = CountedEntries(entries_of(session, retry, name, depth))
        if arguments.json:
            write_json(record_of(entry.name, entry.metadata, entry.unread) for entry in entries)
        else:
            write_lines(map(long_line if arguments.long else short_line, entries))
        return entries.complain(sessions.complain) if arguments.recursive else 0
