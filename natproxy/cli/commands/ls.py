"""``natproxy ls``: the entries of a directory."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import (
    REMOTE_FILE,
    add_json_option,
    add_retry_options,
    add_server_options,
    release_short_help,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from natproxy.cli.context import Sessions
    from natproxy.protocol import Entry

ORDERS = ("name", "size", "time")
VERSION_2_OPTIONS = ("long", "recursive", "json", "sort", "reverse", "total")
"""Options that need more than the names that a server of version 1 lists."""


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
            help="directory or file, or a pattern (default: the served directory)",
        )
        parser.add_argument(
            "-l", "--long", action="store_true", help="show sizes in bytes, and times"
        )
        release_short_help(parser)
        parser.add_argument(
            "-h",
            "--human-readable",
            action="store_true",
            help="with -l and --total, show sizes with units, such as 1.5 MB",
        )
        parser.add_argument(
            "-R", "--recursive", action="store_true", help="list all directories below it, too"
        )
        parser.add_argument(
            "--sort",
            choices=ORDERS,
            help="sort by name, by size (the largest first) or by time (the newest first)"
            " (default: by name)",
        )
        parser.add_argument("-r", "--reverse", action="store_true", help="reverse the order")
        parser.add_argument(
            "--total", action="store_true", help="end with a line of numbers and sizes"
        )
        add_json_option(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.context import retrier_of
        from natproxy.cli.listing import (
            CountedEntries,
            ListingTotal,
            entries_of,
            long_line,
            names_of,
            short_line,
            sorted_entries,
        )
        from natproxy.cli.records import record_of, write_json, write_lines
        from natproxy.client.errors import Unsupported, UsageError
        from natproxy.pattern import has_wildcard

        if arguments.json and arguments.total:
            raise UsageError("--total is for people: a program can add up the sizes of --json")
        session, (name,) = sessions.targets(arguments, [arguments.path])
        retry = retrier_of(arguments, session, sessions.complain)
        plain = not name and not any(getattr(arguments, each) for each in VERSION_2_OPTIONS)
        # Entries are written as they arrive and not kept, unless they are sorted: a listing may
        # have any length.
        depth = float("inf") if arguments.recursive else 1
        listed = CountedEntries(entries_of(session, retry, name, depth))
        entries: Iterable[Entry] = listed
        if plain:
            try:
                entries = _begun(listed)
            except Unsupported:
                if session.version > 1:
                    raise
                write_lines(names_of(session, retry))
                return 0
        if has_wildcard(name):
            from natproxy.cli.search import Search

            search = Search(session, retry, sessions.complain)
            glob = search.glob_of(name)
            if glob is not None:
                if arguments.recursive:
                    raise UsageError("-R lists a directory: a pattern has ** for any directories")
                entries = search.existing(name, glob)
        if arguments.reverse or arguments.sort in ("size", "time"):
            entries = sorted_entries(entries, arguments.sort, arguments.reverse)
        total = ListingTotal()
        if arguments.total:
            entries = total.counting(entries)
        human = arguments.human_readable
        if arguments.json:
            write_json(record_of(entry.name, entry.metadata, entry.unread) for entry in entries)
        elif arguments.long:
            write_lines(long_line(entry, human) for entry in entries)
        else:
            write_lines(map(short_line, entries))
        if arguments.total:
            sys.stdout.write(f"{total.line(human)}\n")
        return listed.complain(sessions.complain) if arguments.recursive else 0


def _begun(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Return an iterator whose first entry has been received, by the first command."""
    from itertools import chain, islice

    remaining = iter(entries)
    return chain(list(islice(remaining, 1)), remaining)
