"""``natproxy up``: both daemons, in the foreground."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from contextlib import suppress

from natproxy.cli.command import Command
from natproxy.cli.options import CONFIG_FILE, CONTROL_SOCKET, DAEMON, LOCAL_DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Up(Command):
    """Runs a file server and a proxy until they are stopped by a signal."""

    name = "up"
    help = "run a file server and a proxy in the foreground"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--files",
            metavar=LOCAL_DIRECTORY,
            help="directory to serve, or s3://BUCKET/PREFIX (default: ./files, created if missing)",
        )
        parser.add_argument(
            "--s3-endpoint",
            metavar="URL",
            help="URL of the S3 service (default: of the environment, or AWS)",
        )
        parser.add_argument(
            "--etag",
            choices=("file", "content"),
            help="what etags are made of: inode and times of the file, or size, mtime and name, as"
            " its copies have them (default: file)",
        )
        parser.add_argument(
            "--listen",
            metavar="ENDPOINT",
            action="append",
            help="endpoint of the proxy; may be repeated (default: tcp:9000:interface=127.0.0.1)",
        )
        parser.add_argument(
            "--fileserver-listen",
            metavar="ENDPOINT",
            help="endpoint of the file server (default: tcp:9001:interface=127.0.0.1)",
        )
        parser.add_argument(
            "--config",
            metavar=CONFIG_FILE,
            help="TOML file with the settings of both (default: none)",
        )

        parser.add_argument(
            "--name",
            metavar=DAEMON,
            help="name of the daemon, and of its control socket (default: up-PORT)",
        )
        parser.add_argument(
            "--control",
            metavar=CONTROL_SOCKET,
            help="path of the control socket; none: no socket (default: NAME.sock in the usual"
            " place)",
        )
        parser.add_argument(
            "--journal",
            metavar=LOCAL_DIRECTORY,
            help="directory of a journal of translations (default: no journal)",
        )
        parser.add_argument(
            "--web",
            metavar="ENDPOINT",
            action="append",
            help="endpoint of the page and the metrics; may be repeated (default: none)",
        )

        parser.add_argument(
            "--workers",
            metavar="N",
            help="processes of each daemon that serve clients, or auto: one for each core"
            " (default: 1)",
        )

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.daemon.up import run

        with suppress(OSError, ValueError):
            descriptor = sys.stdout.fileno()
            try:
                os.write(descriptor, b"")
            except OSError:
                # Standard output was closed: the daemons run without their greeting.
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return run(
            arguments.files,
            arguments.listen or (),
            arguments.fileserver_listen,
            arguments.config,
            observation={
                option: value
                for option in ("name", "control", "journal", "web", "workers")
                if (value := getattr(arguments, option)) is not None
            },
            storage={
                option: value
                for option in ("s3-endpoint", "etag")
                if (value := getattr(arguments, option.replace("-", "_"))) is not None
            },
        )
