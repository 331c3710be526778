"""``natproxy``, the command that people type.

The client's commands stand on `natproxy.client`; only ``up``, which runs the daemons,
imports Twisted, and only when it is asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from natproxy import __version__, wire
from natproxy.client import ClientError, Connection, Server, UsageError, download

DEFAULT_SERVER = "127.0.0.1:9000"
INTERRUPTED = 130
LONGEST_TIMEOUT = 10**6


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line and give its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except ClientError as error:
        sys.stderr.write(f"natproxy: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("natproxy: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough; nor can it be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="natproxy", description="Fetch files through a natproxy, or run one."
    )
    parser.add_argument("--version", action="version", version=f"natproxy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="run a file server and a proxy in the foreground")
    up.set_defaults(run=_up)
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

    # Said before the command or after it, an option means the same.
    client = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
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

    listing = commands.add_parser("list", parents=[client], help="list the files")
    listing.set_defaults(run=_list)

    fetching = commands.add_parser("download", parents=[client], help="fetch a file")
    fetching.set_defaults(run=_download)
    fetching.add_argument("name", metavar="NAME", help="of the file, as listed")
    fetching.add_argument(
        "destination", metavar="DEST", nargs="?", help="file or folder to save it to (.)"
    )

    shell = commands.add_parser("shell", parents=[client], help="open a prompt")
    shell.set_defaults(run=_shell)
    return parser


def _connection(options: argparse.Namespace) -> Connection:
    if not 0 < options.timeout <= LONGEST_TIMEOUT:
        raise UsageError(f"--timeout {options.timeout:g}: seconds, more than 0, are needed")
    return Connection(Server.parse(options.server), options.timeout)


def _list(options: argparse.Namespace) -> int:
    with _connection(options) as connection:
        if sys.stdout.isatty():
            for name in connection.list():
                sys.stdout.write(wire.printable(name) + "\n")
        else:
            sys.stdout.buffer.writelines(name + b"\n" for name in connection.list())
    return 0


def _download(options: argparse.Namespace) -> int:
    from natproxy.client.shell import saved

    destination = None if options.destination is None else os.fsencode(options.destination)
    with _connection(options) as connection:
        path = download(connection, os.fsencode(options.name), destination)
    sys.stdout.write(saved(path) + "\n")
    return 0


def _shell(options: argparse.Namespace) -> int:
    from natproxy.client.shell import Shell

    for stream in (sys.stdin, sys.stdout):
        # File names are bytes: those that are not UTF-8 pass through.
        stream.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    with _connection(options) as connection:
        return Shell(connection).run()


def _up(options: argparse.Namespace) -> int:
    from natproxy.up import run

    return run(options.files, options.listen or [], options.fileserver_listen)
