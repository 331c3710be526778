"""Start-up imports only what the command needs; time would depend on the machine."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.commands import COMMANDS
from tests.support.answering_server import AnsweringServer, Version2
from tests.support.commands import FILES
from tests.support.paths import ROOT

PROGRAM = """
import os, sys
from natproxy.cli import main
status = main(sys.argv[1:])
os.write(2, " ".join(sys.modules).encode())
sys.exit(status)
"""

SLOW = {
    "argcomplete",
    "asyncio",
    "concurrent",
    "email",
    "http",
    "importlib.metadata",
    "logging",
    "prompt_toolkit",
    "rich",
    "shutil",
    "ssl",
    "subprocess",
    "tempfile",
    "tomllib",
    "twisted",
    "urllib",
    "zope",
}
"""Modules that no command needs before it runs; most take longer than the whole start-up."""

PARSING = {
    "natproxy",
    "natproxy.cli",
    "natproxy.cli.command",
    "natproxy.cli.commands",
    "natproxy.cli.interrupts",
    "natproxy.cli.options",
    "natproxy.cli.output",
    "natproxy.cli.parsing",
    *(type(command).__module__ for command in COMMANDS),
}
"""What it takes to parse a command line, and to print help."""


class ImportTests(SynchronousTestCase):
    def imported(self, *arguments: str) -> set[str]:
        """Run a command line in a process of its own; return the modules that it has imported."""
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            capture_output=True,
            timeout=60,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "COVERAGE_PROCESS_START": "",
                "NATPROXY_CONFIG": "",
                "XDG_CONFIG_HOME": "/nowhere",
            },
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        return set(run.stderr.decode().split())

    def serve(self) -> str:
        server = AnsweringServer(Version2(dict(FILES)))
        self.addCleanup(server.close)
        return server.server_address

    def test_help_imports_no_client(self) -> None:
        for arguments in (["--help"], ["get", "--help"], ["--version"]):
            modules = self.imported(*arguments)
            self.assertEqual({each for each in modules if each.startswith("natproxy")}, PARSING)
            self.assertEqual(modules & (SLOW | {"json", "socket", "dataclasses"}), set())

    def test_ls_imports_no_transfers(self) -> None:
        modules = self.imported("ls", "--server", self.serve())
        self.assertEqual(modules & (SLOW | {"json", "hashlib", "dataclasses"}), set())
        for package in ("natproxy.client.transfer", "natproxy.cli.display", "natproxy.cli.shell"):
            self.assertNotIn(package, modules)

    def test_get_imports_no_terminal(self) -> None:
        target = self.mktemp()
        modules = self.imported("get", "-q", "a.txt", "-o", target, "--server", self.serve())
        self.assertEqual(modules & SLOW - {"shutil"}, set())
        for package in ("natproxy.cli.display.bars", "natproxy.cli.shell", "natproxy.daemon"):
            self.assertNotIn(package, modules)
