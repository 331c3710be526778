"""The command line's grammar: commands, their options, and the help for them.

Nothing is imported here that ``--help`` can do without.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TypeAlias

from natproxy import __version__

DEFAULT_SERVER = "127.0.0.1:9000"
PROGRESS = ("auto", "always", "never", "json")

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def rate(text: str) -> float:
    """Read bytes a second: a number, perhaps with K, M or G."""
    unit = text[-1:].lower() if text[-1:].isalpha() else ""
    try:
        value = float(text[: len(text) - len(unit)]) * _UNITS[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"'{text}': bytes a second, such as 500K or 2M, are needed"
        )
    return value


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Give a reader of whole numbers between two."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"'{text}': a number from {least} to {most} is needed")
        return int(text)

    return read


def parser_of(prompt: bool = False) -> argparse.ArgumentParser:
    """Make the parser.

    :param prompt: for the shell: without what makes no sense inside it.
    """
    parser = argparse.ArgumentParser(
        prog="" if prompt else "natproxy",
        description=None if prompt else "Fetch files through a natproxy, or run one.",
        epilog=None if prompt else "A PATH may be natproxy://HOST:PORT/PATH, server and all.",
        add_help=not prompt,
    )
    if not prompt:
        parser.add_argument("--version", action="version", version=f"natproxy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    client = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    # Said before the command or after it, an option means the same.
    for level in (parser, client):
        level.add_argument(
            "--server",
            metavar="HOST:PORT",
            help=f"where the proxy is ($NATPROXY_SERVER, else {DEFAULT_SERVER})",
        )
        level.add_argument(
            "--timeout", metavar="SECONDS", type=float, help="how long it may be silent (60)"
        )
    parser.set_defaults(server=os.environ.get("NATPROXY_SERVER") or DEFAULT_SERVER, timeout=60.0)
    transfer = _transfer_options()
    _add_questions(commands, client)
    _add_transfers(commands, client, transfer)
    if not prompt:
        _add_others(commands, client)
    return parser


def _add_questions(commands: _Commands, client: argparse.ArgumentParser) -> None:
    ls = commands.add_parser("ls", parents=[client], help="list a folder")
    ls.set_defaults(run="listing:ls")
    ls.add_argument("path", metavar="PATH", nargs="?", default="", help="of a folder or a file")
    ls.add_argument("-l", "--long", action="store_true", help="with size and time")
    ls.add_argument("-R", "--recursive", action="store_true", help="with all folders below")
    _add_json(ls)

    stat = commands.add_parser("stat", parents=[client], help="tell what a file is like")
    stat.set_defaults(run="listing:stat")
    stat.add_argument("paths", metavar="PATH", nargs="+", help="of a file or a folder")
    _add_json(stat)

    hashing = commands.add_parser(
        "hash", parents=[client], help="have the server compute SHA-256 digests"
    )
    hashing.set_defaults(run="listing:hash_")
    hashing.add_argument("paths", metavar="PATH", nargs="+", help="of a file")
    _add_json(hashing)

    listing = commands.add_parser(
        "list", parents=[client], help="list the names in the top folder (version 1)"
    )
    listing.set_defaults(run="listing:list_")


def _add_transfers(
    commands: _Commands, client: argparse.ArgumentParser, transfer: argparse.ArgumentParser
) -> None:
    get = commands.add_parser(
        "get", parents=[client, transfer], help="fetch files; go on where it was interrupted"
    )
    get.set_defaults(run="fetching:get")
    get.add_argument("paths", metavar="PATH", nargs="+", help="of a file")
    get.add_argument(
        "-o",
        "--output",
        metavar="DEST",
        help="file or folder to save to, - for standard output (.)",
    )
    existing = get.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace files that are there")
    existing.add_argument(
        "--no-clobber", action="store_true", help="leave files alone that are there"
    )

    cat = commands.add_parser("cat", parents=[client], help="write files to standard output")
    cat.set_defaults(run="fetching:cat")
    cat.add_argument("paths", metavar="PATH", nargs="+", help="of a file")

    sync = commands.add_parser(
        "sync", parents=[client, transfer], help="fetch what is new or changed in a folder"
    )
    sync.set_defaults(run="fetching:sync")
    sync.add_argument("remote", metavar="REMOTE_DIR", help="on the server; . for all of it")
    sync.add_argument("local", metavar="LOCAL_DIR", help="here; made if it is missing")
    sync.add_argument(
        "--delete", action="store_true", help="delete here what the server does not have"
    )
    sync.add_argument(
        "-n", "--dry-run", action="store_true", help="say what would be done, and do nothing"
    )

    download = commands.add_parser(
        "download", parents=[client], help="fetch a file in one go (version 1)"
    )
    download.set_defaults(run="fetching:download")
    download.add_argument("name", metavar="NAME", help="of the file, as listed")
    download.add_argument(
        "destination", metavar="DEST", nargs="?", help="file or folder to save it to (.)"
    )


def _add_others(commands: _Commands, client: argparse.ArgumentParser) -> None:
    shell = commands.add_parser("shell", parents=[client], help="open a prompt")
    shell.set_defaults(run="shell:run")

    up = commands.add_parser("up", help="run a file server and a proxy in the foreground")
    up.set_defaults(run="running:up")
    up.add_argument("--files", metavar="DIR", default="./files", help="folder to serve (./files)")
    up.add_argument(
        "--listen",
        metavar="ENDPOINT",
        action="append",
        help="where the proxy listens (tcp:9000); may be given many times",
    )
    up.add_argument(
        "--fileserver-listen",
        metavar="ENDPOINT",
        default="tcp:9001:interface=127.0.0.1",
        help="where the file server listens (%(default)s)",
    )

    completion = commands.add_parser(
        "completion", help="print a script that completes natproxy's command lines"
    )
    completion.set_defaults(run="completion:print_script")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="as JSON, for programs")


def _transfer_options() -> argparse.ArgumentParser:
    transfer = argparse.ArgumentParser(add_help=False)
    transfer.add_argument(
        "--verify", action="store_true", help="compare the SHA-256 with the server's"
    )
    transfer.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=whole_number(1, 64),
        default=4,
        help="files to fetch at the same time (4)",
    )
    transfer.add_argument(
        "--segments",
        metavar="N",
        type=whole_number(1, 64),
        default=1,
        help="pieces of one file to fetch at the same time (1)",
    )
    transfer.add_argument(
        "--limit-rate", metavar="RATE", type=rate, help="bytes a second, such as 500K or 2M"
    )
    transfer.add_argument(
        "--retries",
        metavar="N",
        type=whole_number(0, 1000),
        default=8,
        help="failures in a row to put up with (8)",
    )
    transfer.add_argument(
        "--progress", choices=PROGRESS, default="auto", help="how progress is shown (auto)"
    )
    transfer.add_argument("-q", "--quiet", action="store_true", help="show errors only")
    return transfer
