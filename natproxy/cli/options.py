"""The grammar of the command line and of the prompt: commands, options, help.

Nothing is imported here that ``--help`` can do without.
"""

from __future__ import annotations

import argparse
import os
from typing import TypeAlias

from natproxy import __version__
from natproxy.cli.parsing import (
    CommandLineParser,
    CommandParser,
    PromptParser,
    duration,
    nonempty,
    number_or_inf,
    rate,
    whole_number,
)

DEFAULT_SERVER = "127.0.0.1:9000"
PROGRESS = ("auto", "always", "never", "json")
SHELLS = ("bash", "zsh", "fish")

# What an argument means, its metavar says: to people, and to completion.
REMOTE_FILE = "PATH"
REMOTE_NAME = "NAME"
REMOTE_DIRECTORY = "REMOTE_DIR"
LOCAL_FILE = "DEST"
LOCAL_TARGET = "LOCAL_DIR"
LOCAL_DIRECTORY = "DIR"
REMOTE = (REMOTE_FILE, REMOTE_NAME, REMOTE_DIRECTORY)
LOCAL = (LOCAL_FILE, LOCAL_TARGET, LOCAL_DIRECTORY)

_Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"


def parser_of(prompt: bool = False) -> argparse.ArgumentParser:
    """Make the parser.

    :param prompt: for the shell: with the commands that make sense only there, and without
        those that don't.
    """
    parser: argparse.ArgumentParser
    if prompt:
        parser = PromptParser(prog="", add_help=False)
    else:
        parser = CommandLineParser(
            prog="natproxy",
            description="Fetch files through a natproxy, or run one.",
            epilog="A PATH may be natproxy://HOST:PORT/PATH, server and all.",
        )
        parser.add_argument("--version", action="version", version=f"natproxy {__version__}")
    commands = parser.add_subparsers(
        required=True,
        metavar="COMMAND",
        dest="command",
        parser_class=PromptParser if prompt else CommandParser,
    )
    client = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    # Said before the command or after it, an option means the same.
    for level in (parser, client):
        level.add_argument(
            "--server",
            metavar="HOST:PORT",
            help=f"where the proxy is ($NATPROXY_SERVER, else {DEFAULT_SERVER})",
        )
        level.add_argument(
            "--timeout",
            metavar="SECONDS",
            type=float,
            help="how long the server may be silent (60)",
        )
        level.add_argument(
            "--connect-timeout",
            metavar="SECONDS",
            type=float,
            help="how long a connection may take to be made (10)",
        )
    parser.set_defaults(server=os.environ.get("NATPROXY_SERVER") or DEFAULT_SERVER, timeout=60.0)
    parser.set_defaults(connect_timeout=None)
    transfer = _transfer_options()
    _add_questions(commands, client, _patience_options(None))
    _add_transfers(commands, client, transfer, _patience_options(1800.0))
    if prompt:
        _add_conveniences(commands)
    else:
        _add_others(commands, client)
    return parser


def summary_of(command: argparse.ArgumentParser) -> str:
    """Tell what a command does, in a few words."""
    text = (command.description or "").rstrip(".")
    return text[:1].lower() + text[1:]


def _add(
    commands: _Commands, name: str, run: str, summary: str, *parents: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        parents=parents,  # type: ignore[arg-type]
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
    )
    command.set_defaults(run=run)
    # At the prompt there is no program to name before it.
    command.prog = command.prog.strip()
    for action in command._actions:
        if action.dest == "help":
            action.help = "show this help"
    return command


def _add_questions(
    commands: _Commands, client: argparse.ArgumentParser, patience: argparse.ArgumentParser
) -> None:
    ls = _add(commands, "ls", "listing:ls", "list a directory", client, patience)
    ls.add_argument(
        "path", metavar=REMOTE_FILE, nargs="?", default="", help="of a directory or a file"
    )
    ls.add_argument("-l", "--long", action="store_true", help="with size and time")
    ls.add_argument("-R", "--recursive", action="store_true", help="with all directories below")
    _add_json(ls)

    stat = _add(commands, "stat", "listing:stat", "show the metadata of files", client, patience)
    stat.add_argument("paths", metavar=REMOTE_FILE, nargs="+", help="of a file or a directory")
    _add_json(stat)

    hashing = _add(
        commands,
        "hash",
        "listing:hash_",
        "have the server compute SHA-256 digests",
        client,
        patience,
    )
    hashing.add_argument("paths", metavar=REMOTE_FILE, nargs="+", help="of a file")
    _add_json(hashing)

    _add(
        commands,
        "list",
        "listing:list_",
        "list the files in the served directory itself (version 1)",
        client,
        patience,
    )


def _add_transfers(
    commands: _Commands,
    client: argparse.ArgumentParser,
    transfer: argparse.ArgumentParser,
    patience: argparse.ArgumentParser,
) -> None:
    get = _add(
        commands,
        "get",
        "fetching:get",
        "fetch files; resume interrupted downloads",
        client,
        transfer,
        patience,
    )
    get.add_argument("paths", metavar=REMOTE_FILE, nargs="+", help="of a file")
    get.add_argument(
        "-o",
        "--output",
        metavar=LOCAL_FILE,
        help="file or directory to save to, - for standard output (.)",
    )
    existing = get.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace files that are there")
    existing.add_argument("--no-clobber", action="store_true", help="skip files that are there")

    cat = _add(commands, "cat", "fetching:cat", "write files to standard output", client, patience)
    cat.add_argument("paths", metavar=REMOTE_FILE, nargs="+", help="of a file")

    sync = _add(
        commands,
        "sync",
        "fetching:sync",
        "fetch what is new or changed in a directory",
        client,
        transfer,
        patience,
    )
    sync.add_argument("remote", metavar=REMOTE_DIRECTORY, help="on the server; . for all of it")
    sync.add_argument(
        "local", metavar=LOCAL_TARGET, type=nonempty, help="here; created if it is missing"
    )
    sync.add_argument(
        "--delete", action="store_true", help="delete here what the server does not have"
    )
    sync.add_argument(
        "--max-delete",
        metavar="N",
        type=number_or_inf(0),
        help="delete up to N files and directories, or any number (inf);"
        " by default, half of the files, and none if the server has none",
    )
    sync.add_argument(
        "--max-entries",
        metavar="N",
        type=number_or_inf(1),
        default=10_000_000,
        help="fail if the server lists more, or never (inf) (10000000)",
    )
    sync.add_argument(
        "-n", "--dry-run", action="store_true", help="say what would be done, and do nothing"
    )

    download = _add(
        commands,
        "download",
        "fetching:download",
        "fetch a file whole, without resuming (version 1)",
        client,
    )
    download.add_argument("name", metavar=REMOTE_NAME, help="of the file, as listed")
    download.add_argument(
        "destination", metavar=LOCAL_FILE, nargs="?", help="file or directory to save it to (.)"
    )


def _add_others(commands: _Commands, client: argparse.ArgumentParser) -> None:
    _add(commands, "shell", "shell:run", "open a prompt", client)

    up = _add(commands, "up", "up:up", "run a file server and a proxy in the foreground")
    up.add_argument(
        "--files",
        metavar=LOCAL_DIRECTORY,
        help="directory to serve (./files, which is created if it is missing)",
    )
    up.add_argument(
        "--listen",
        metavar="ENDPOINT",
        action="append",
        help="where the proxy listens (tcp:9000:interface=127.0.0.1); may be given many times",
    )
    up.add_argument(
        "--fileserver-listen",
        metavar="ENDPOINT",
        default="tcp:9001:interface=127.0.0.1",
        help="where the file server listens (%(default)s)",
    )

    completion = _add(
        commands,
        "completion",
        "completion:print_script",
        "print a script that completes natproxy's command lines",
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell that is to run it")


def _add_conveniences(commands: _Commands) -> None:
    lcd = _add(commands, "lcd", "shell:change_directory", "change the local directory")
    lcd.add_argument(
        "directory",
        metavar=LOCAL_DIRECTORY,
        nargs="?",
        default="~",
        help="to go to; without it, home",
    )
    _add(commands, "lpwd", "shell:tell_directory", "show the local directory")
    help_ = _add(commands, "help", "shell:help_", "show the commands, or one of them")
    help_.add_argument("verb", metavar="COMMAND", nargs="?", help="to show")
    for name in ("exit", "quit"):
        _add(commands, name, "shell:leave", "leave; so does Ctrl-D")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="as JSON, for programs")


def _patience_options(retry_for: float | None) -> argparse.ArgumentParser:
    """Make the options that say how long temporary failures are retried.

    :param retry_for: the default, in seconds; `None` for no retry unless ``--wait`` is given.
    """
    patience = argparse.ArgumentParser(add_help=False)
    patience.add_argument(
        "--retry-for",
        metavar="DURATION",
        type=duration,
        default=retry_for,
        help="how long to retry without progress: 90s, 30m, 2h, inf"
        f" ({'0' if retry_for is None else '30m'})",
    )
    patience.add_argument(
        "--retries",
        metavar="N",
        type=whole_number(0, 1000),
        help="give up after N failures in a row, if that comes sooner",
    )
    patience.add_argument(
        "--wait", action="store_true", help="wait for a server that is not there yet, too"
    )
    return patience


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
        "--progress", choices=PROGRESS, default="auto", help="how progress is shown (auto)"
    )
    transfer.add_argument("-q", "--quiet", action="store_true", help="show errors only")
    return transfer
