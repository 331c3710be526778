"""What the options of commands have in common: values, shared options, kinds of arguments.

``--help`` imports this module: it imports nothing that is slow to import.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial

DEFAULT_SERVER = "127.0.0.1:9000"
PROGRESS = ("auto", "always", "never", "json")

# The metavar of an argument states what its value is: to people, and to completion.
REMOTE_FILE = "PATH"
REMOTE_NAME = "NAME"
REMOTE_DIRECTORY = "REMOTE_DIR"
LOCAL_FILE = "DEST"
LOCAL_TARGET = "LOCAL_DIR"
LOCAL_DIRECTORY = "DIR"
CONFIG_FILE = "FILE"
COMMAND = "COMMAND"
ACTION = "ACTION"
CONTROL_SOCKET = "SOCKET"
DAEMON = "DAEMON"
FILTER = "FILTER"
COLUMNS = "COLUMNS"
TIME = "TIME"
DURATION = "DURATION"
DATABASE = "URL"
PATTERN = "PATTERN"
UPSTREAM = "UPSTREAM"
REMOTE = (REMOTE_FILE, REMOTE_NAME, REMOTE_DIRECTORY)
LOCAL = (LOCAL_FILE, LOCAL_TARGET, LOCAL_DIRECTORY, CONFIG_FILE, CONTROL_SOCKET)
OBSERVED = (DAEMON, FILTER, COLUMNS, TIME, UPSTREAM)

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def rate(text: str) -> float:
    """Return the bytes per second that a number, optionally with K, M or G, stands for.

    :raises ArgumentTypeError: for anything else.
    """
    unit = text[-1:].lower() if text[-1:].isalpha() else ""
    try:
        value = float(text[: len(text) - len(unit)]) * _UNITS[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}': must be bytes per second, such as 500K or 2M")
    return value


def duration(text: str) -> float:
    """Return the seconds that a duration such as ``90s`` stands for.

    :raises ArgumentTypeError: for anything else.
    """
    from natproxy.client.retry import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def nonempty(text: str) -> str:
    """Return a name.

    :raises ArgumentTypeError: if it is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("the name must not be empty")
    return text


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers within limits, both included."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(
                f"'{text}': must be a whole number from {least} to {most}"
            )
        return int(text)

    return parse


def number_or_inf(least: int) -> Callable[[str], float]:
    """Return a parser of whole numbers that are not below a limit, and of ``inf``."""

    def parse(text: str) -> float:
        if text == "inf":
            return float("inf")
        if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) >= least):
            raise argparse.ArgumentTypeError(
                f"'{text}': must be a whole number, {least} or more, or inf"
            )
        return int(text)

    return parse


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that connects to a server.

    They may stand before the command as well as after it. They have no defaults here:
    `natproxy.cli.context.configure` adds the settings that no option specifies.
    """
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=argparse.SUPPRESS,
        help="address of the proxy (default: $NATPROXY_SERVER or the configuration file,"
        f" else {DEFAULT_SERVER})",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=argparse.SUPPRESS,
        help="longest silence of the server, in seconds (default: 60)",
    )
    parser.add_argument(
        "--connect-timeout",
        metavar="SECONDS",
        type=float,
        default=argparse.SUPPRESS,
        help="longest time to connect, in seconds (default: 10)",
    )
    add_tls_options(parser)


def add_tls_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of TLS, as `add_server_options` does."""
    parser.add_argument(
        "--tls",
        action="store_true",
        default=argparse.SUPPRESS,
        help="connect by TLS, as for natproxys:// (default port: 9443)",
    )
    for option, help_ in (
        ("--ca", "file with the certificates of trusted authorities (default: the system's)"),
        ("--cert", "file with the certificate that is shown to the server"),
        ("--key", "file with the private key of --cert (default: it is in the same file)"),
    ):
        parser.add_argument(
            option, metavar=CONFIG_FILE, type=nonempty, default=argparse.SUPPRESS, help=help_
        )
    parser.add_argument(
        "--insecure",
        action="store_true",
        default=argparse.SUPPRESS,
        help="accept any certificate of the server, with a warning each time",
    )
    parser.add_argument(
        "--token-file",
        metavar=CONFIG_FILE,
        default=argparse.SUPPRESS,
        help="file with the token for the server (default: $NATPROXY_TOKEN or the configuration"
        " file)",
    )
    parser.add_argument(
        "--token-plain",
        action="store_true",
        default=argparse.SUPPRESS,
        help="send the token to another host even without TLS, where others can read it",
    )


def add_retry_options(parser: argparse.ArgumentParser, retry_for: float | None = None) -> None:
    """Add the options that control how temporary failures are retried.

    :param retry_for: the command's default of ``--retry-for``, in seconds; ``None`` for no retry
        unless ``--wait`` is specified.
    """
    shown = "0" if retry_for is None else f"{retry_for / 60:.0f}m"
    parser.set_defaults(default_retry_for=retry_for)
    parser.add_argument(
        "--retry-for",
        metavar=DURATION,
        type=duration,
        default=argparse.SUPPRESS,
        help=f"time without progress before giving up: 90s, 30m, 2h or inf (default: {shown})",
    )
    parser.add_argument(
        "--retries",
        metavar="N",
        type=whole_number(0, 1000),
        default=argparse.SUPPRESS,
        help="consecutive failures before giving up (default: no limit)",
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        default=argparse.SUPPRESS,
        help="also retry if the first connection fails",
    )


def add_transfer_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that save files."""
    parser.add_argument(
        "--verify", action="store_true", help="compare the SHA-256 digest with the server's"
    )
    parser.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=whole_number(1, 64),
        default=4,
        help="files to download at the same time (default: 4)",
    )
    parser.add_argument(
        "--segments",
        metavar="N",
        type=whole_number(1, 64),
        default=1,
        help="segments of one file to download at the same time (default: 1)",
    )
    parser.add_argument(
        "--limit-rate",
        metavar="RATE",
        type=rate,
        help="limit of all downloads together, in bytes per second, such as 500K or 2M"
        " (default: no limit)",
    )
    parser.add_argument(
        "--progress", choices=PROGRESS, default="auto", help="how to show progress (default: auto)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show errors only")
    parser.add_argument(
        "--no-fsync",
        action="store_true",
        help="do not wait until files are on the disk: a power failure may damage them",
    )


def add_tree_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that download directories.

    The patterns of all options are in one list, ``rules``, since their order matters: each is
    whether it includes, whether its value is the path of a file with patterns, and the value.
    """
    parser.set_defaults(rules=None)
    for option, from_file, metavar, help_ in (
        ("--include", False, PATTERN, "download what matches, unless an earlier pattern matches"),
        ("--exclude", False, PATTERN, "skip what matches, unless an earlier pattern matches"),
        ("--include-from", True, CONFIG_FILE, "read patterns of --include from a file, one a line"),
        ("--exclude-from", True, CONFIG_FILE, "read patterns of --exclude from a file, one a line"),
    ):
        parser.add_argument(
            option,
            metavar=metavar,
            dest="rules",
            action="append",
            type=partial(_rule, option.startswith("--include"), from_file),
            help=help_,
        )
    parser.add_argument(
        "--max-entries",
        metavar="N",
        type=number_or_inf(1),
        help="most entries of a directory to accept, inf for no limit (default: 10000000)",
    )


def _rule(include: bool, from_file: bool, text: str) -> tuple[bool, bool, str]:
    return include, from_file, text


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that take a list of paths from a file."""
    parser.add_argument(
        "-i",
        "--input-file",
        metavar=CONFIG_FILE,
        type=nonempty,
        help="file with further paths, one a line, - for standard input",
    )
    parser.add_argument(
        "-0",
        "--null",
        action="store_true",
        help="a NUL ends each path of --input-file, instead of a line feed",
    )


def release_short_help(parser: argparse.ArgumentParser) -> None:
    """Let ``-h`` be another option of a command, as it is in other programs of this name."""
    action = parser._option_string_actions.pop("-h")
    action.option_strings = ["--help"]


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of the commands that can write JSON."""
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")


def add_control_options(parser: argparse.ArgumentParser, journal: bool = False) -> None:
    """Add the options that select a daemon by its control socket.

    :param journal: whether the command can read a journal without a daemon.
    """
    parser.add_argument(
        "--control",
        metavar=CONTROL_SOCKET,
        help="path of the daemon's control socket (default: $NATPROXY_CONTROL, else that of the"
        " daemon that runs)",
    )
    parser.add_argument("--name", metavar=DAEMON, help="name of the daemon")
    if journal:
        parser.add_argument(
            "--journal",
            metavar=LOCAL_DIRECTORY,
            help="read the journal in this directory, or that of a fleet in PostgreSQL"
            " (postgresql://HOST/DATABASE); no daemon is needed",
        )


def add_filter_options(parser: argparse.ArgumentParser) -> None:
    """Add a filter as the command's words, and the option that explains it."""
    parser.add_argument(
        "filter",
        metavar=FILTER,
        nargs="*",
        help="such as: client 10.0.0.0/24 and not verb STAT (default: all)",
    )
    add_explain_option(parser)


def add_explain_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that shows how a filter was understood."""
    parser.add_argument(
        "--explain", action="store_true", help="print how the filter was understood, and exit"
    )


def add_interval_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of an interval of time."""
    accept_times_ago(parser)
    parser.add_argument(
        "--since",
        metavar=TIME,
        help="begin of the interval: -10min, 14:03, 'yesterday 17:00', 2026-11-26T14:03Z (default:"
        " the oldest record)",
    )
    parser.add_argument(
        "--until",
        metavar=TIME,
        help="end of the interval; 14:03 includes this minute (default: now)",
    )


def accept_times_ago(parser: argparse.ArgumentParser) -> None:
    """Accept values such as ``-10min``, which argparse would take for an option."""
    parser._negative_number_matcher = re.compile(r"-[0-9]")


def add_last_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option that limits the output to the newest records.

    :param what: they are, in the plural.
    """
    parser.add_argument(
        "--last",
        metavar="N",
        type=whole_number(1, 10**9),
        help=f"the newest N {what} only",
    )


def add_columns_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that selects columns."""
    parser.add_argument(
        "--columns",
        metavar=COLUMNS,
        help="columns, separated by commas; a wrong name lists them all",
    )


def add_format_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that can write JSON and CSV."""
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="write JSON, for programs")
    formats.add_argument("--csv", action="store_true", help="write CSV with a header")
