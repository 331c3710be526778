"""``natproxy doctor``: what limits this host, with the remedies."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import CONFIG_FILE, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions


class Doctor(Command):
    """Checks the host for the daemons; the exit status is 1 if there is a problem."""

    name = "doctor"
    help = "check what limits the daemons on this host, and show the remedies"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--config",
            metavar=CONFIG_FILE,
            help="TOML file with the settings of the daemons (default: $NATPROXY_PROXY_CONFIG"
            " and $NATPROXY_FILESERVER_CONFIG)",
        )
        parser.add_argument(
            "--pid",
            metavar="N",
            type=int,
            help="process whose limit of descriptors is checked (default: the command itself)",
        )
        add_json_option(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from json import dumps

        from twisted.internet import reactor

        from natproxy.daemon.doctor.diagnosis import diagnose
        from natproxy.daemon.doctor.finding import Level

        findings = diagnose(reactor, os.environ, arguments.config, arguments.pid)
        if arguments.json:
            sys.stdout.write(dumps([finding.json() for finding in findings], indent=1) + "\n")
        else:
            from natproxy.settings import one_line

            for finding in findings:
                text = one_line(f"{finding.check}: {finding.text}")
                sys.stdout.write(f"{finding.level.value:8} {text}\n")
                if finding.remedy:
                    sys.stdout.write(f"{'':8}   remedy: {one_line(finding.remedy)}\n")
        return int(any(finding.level is Level.PROBLEM for finding in findings))
