"""``natproxy top``: the commands in flight, live in a terminal."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import (
    accept_times_ago,
    add_control_options,
    add_filter_options,
    add_json_option,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from natproxy.cli.context import Sessions
    from natproxy.cli.top.screen import Shown
    from natproxy.cli.top.view import Line

GROUPS = ("client", "name", "verb")

FLEET_GROUPS = (*GROUPS, "outcome", "proxy")

WINDOW = "5min"

SHORTEST, LONGEST = 10_000_000, 86_400_000_000
"""Microseconds of the window."""


class Top(Command):
    """Shows the commands in flight and rates until the user quits."""

    name = "top"
    help = "show the commands in flight and rates, live in a terminal"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_filter_options(parser)
        parser.add_argument(
            "--by",
            choices=FLEET_GROUPS,
            help="show groups (default: the commands themselves; with --journal, clients); outcome"
            " and proxy are for --journal",
        )
        accept_times_ago(parser)
        parser.add_argument(
            "--since",
            metavar="DURATION",
            help=f"with --journal, what is summed up: the last 30s, 1h (default: {WINDOW})",
        )
        add_json_option(parser)
        add_control_options(parser, journal=True)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.translations.query import explain, filter_text

        if arguments.explain:
            return explain(arguments.filter)
        text = filter_text(arguments.filter)
        if arguments.journal is not None:
            return _show_fleet(arguments, text, sessions.complain)
        return _show_daemon(arguments, text)


def _show_daemon(arguments: Namespace, text: str) -> int:
    from functools import partial

    from natproxy.cli.top.report import write_groups, write_lines
    from natproxy.cli.top.state import Top as State
    from natproxy.cli.top.view import lines
    from natproxy.cli.translations.sources import proxy_of
    from natproxy.client.errors import UsageError

    if arguments.since is not None:
        raise UsageError("--since: with --journal only; natproxy history has the past of a proxy")
    if arguments.by not in (None, *GROUPS):
        raise UsageError(f"--by {arguments.by}: with --journal only")
    if arguments.json and arguments.by is None:
        raise UsageError("--json: needs --by; natproxy table --json has the commands themselves")
    daemon = proxy_of(arguments)
    # Here a daemon that does not run is an error; later it is waited for.
    daemon.status()
    state = State(daemon, text, arguments.by)
    if arguments.json or not _is_terminal():
        state.update_once()
        if arguments.json:
            write_groups(arguments.by, state.rows())
        else:
            write_lines(partial(lines, state))
        return 0
    return _show(state, partial(lines, state))


def _show_fleet(arguments: Namespace, text: str, complain: Callable[[str], object]) -> int:
    from contextlib import closing

    from natproxy.cli.top.report import write_groups, write_lines
    from natproxy.cli.translations.sources import database_failures, names_database
    from natproxy.client.errors import UsageError
    from natproxy.records.times import parse_duration

    if arguments.control is not None or arguments.name is not None:
        raise UsageError("--journal excludes --control and --name: it needs no daemon")
    if not names_database(arguments.journal):
        raise UsageError(
            "--journal: the database of a fleet is needed, as postgresql://HOST/DATABASE; natproxy"
            " top without it shows the proxy on this machine, and natproxy history a directory"
        )
    try:
        length = parse_duration((arguments.since or WINDOW).removeprefix("-"))
    except ValueError as error:
        raise UsageError(f"--since {arguments.since}: {error}") from None
    if not SHORTEST <= length <= LONGEST:
        raise UsageError(f"--since {arguments.since}: must be from 10s to 1d")
    group = arguments.by or "client"
    with database_failures():
        from natproxy.cli.top.fleet import FleetTop
        from natproxy.cli.top.window import Window
        from natproxy.journal.postgres.activity import Activity

        window = Window(length)
        with closing(Activity(arguments.journal, text, group, window.slot)) as activity:
            state = FleetTop(activity, group, window, text)
            if not arguments.json and _is_terminal():
                return _show(state, state.lines)
            state.update_once()
            if arguments.json:
                for line in state.behind():
                    complain(line)
                write_groups(group, state.rows())
            else:
                write_lines(state.lines)
    return 0


def _is_terminal() -> bool:
    from natproxy.cli.output import is_terminal

    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def _show(state: Shown, lines: Callable[[int, int], list[Line]]) -> int:
    """Show a state in the terminal until the user quits."""
    from natproxy.client.errors import ClientError

    try:
        from natproxy.cli.top.screen import run
    except ImportError as error:
        from natproxy.extras import missing

        raise ClientError(missing("top", "rich", "cli")) from error
    try:
        run(state, lines)
    except KeyboardInterrupt:
        # Ctrl-C is another key that quits.
        return 0
    return 0
