"""Start-up imports only what the command needs; time would depend on the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.commands import COMMANDS
from tests.support.answering_server import AnsweringServer, Version2
from tests.support.commands import FILES
from tests.support.control_server import ControlServer
from tests.support.observed_daemon import FakeDaemon, entry
from tests.support.paths import ROOT

PROGRAM = """
import os, sys
from natproxy.cli import main
status = main(sys.argv[1:])
os.write(2, " ".join(sys.modules).encode())
sys.exit(status)
"""

IDLE = """
import os, sys
os.write(2, " ".join(sys.modules).encode())
"""

SLOW = {
    *("argcomplete", "prompt_toolkit", "rich", "twisted", "zope"),
    *("asyncio", "concurrent", "ctypes", "email", "http", "importlib.metadata", "logging"),
    *("random", "shutil", "ssl", "subprocess", "tempfile", "tomllib", "unittest", "urllib"),
    "zipfile",
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
    "natproxy.cli.watching",
    *(type(command).__module__ for command in COMMANDS),
}
"""What it takes to parse a command line, and to print help."""


class ImportTests(SynchronousTestCase):
    def imported(self, *arguments: str) -> set[str]:
        """Return the modules that a command line imports, with the packages that contain them."""
        return self.modules(PROGRAM, *arguments) - self.modules(IDLE)

    def modules(self, program: str, *arguments: str) -> set[str]:
        """Run a program in a process of its own; return the modules that it has at its end."""
        run = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            timeout=60,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "NATPROXY_CONFIG": "",
                "XDG_CONFIG_HOME": "/nowhere",
            },
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        names = run.stderr.decode().split()
        return {*names, *(name.partition(".")[0] for name in names)}

    def serve(self) -> str:
        server = AnsweringServer(Version2(dict(FILES)))
        self.addCleanup(server.close)
        return server.server_address

    def test_help_imports_no_client(self) -> None:
        for arguments in (["--help"], ["get", "--help"], ["--version"]):
            modules = self.imported(*arguments)
            self.assertEqual({each for each in modules if each.startswith("natproxy")}, PARSING)
            unused = {"dataclasses", "hashlib", "json", "socket", "threading", "typing"}
            self.assertEqual(modules & (SLOW | unused), set())

    def test_ls_imports_no_transfers(self) -> None:
        address = self.serve()
        for arguments in (["ls"], ["ls", "-lR"], ["list"], ["stat", "b c"], ["hash", "b c"]):
            modules = self.imported(*arguments, "--server", address)
            self.assertIn("natproxy.client.blocking.session", modules)
            unused = {"dataclasses", "hashlib", "inspect", "json", "string"}
            self.assertEqual(modules & (SLOW | unused), set(), arguments)
            for package in ("client.transfer", "cli.display", "cli.search", "cli.shell", "daemon"):
                self.assertNotIn(f"natproxy.{package}", modules)
            # Most sessions have no token.
            self.assertNotIn("natproxy.client.authentication", modules)

    def test_get_imports_neither_a_terminal_nor_a_prompt(self) -> None:
        target = self.mktemp()
        modules = self.imported("get", "-q", "a.txt", "-o", target, "--server", self.serve())
        self.assertEqual(modules & SLOW - {"shutil"}, set())
        for package in ("cli.display.bars", "cli.search", "cli.shell", "daemon"):
            self.assertNotIn(f"natproxy.{package}", modules)
        for module in ("small_files", "pattern", "volumes"):
            self.assertNotIn(f"natproxy.client.transfer.{module}", modules)

    def test_commands_of_the_control_socket_import_neither_twisted_nor_http(self) -> None:
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        daemon = FakeDaemon()
        daemon.table = [entry(1)]
        server = ControlServer(directory / "a.sock", daemon.reply)
        self.addCleanup(server.close)
        for command in (["table"], ["whois", "40001"], ["events"], ["status"], ["history"]):
            modules = self.imported(*command, "--control", server.path)
            self.assertEqual(modules & SLOW, set(), command)
            unused = {"csv", "decimal", "ipaddress", "pwd", "sqlite3", "natproxy.records.filter"}
            self.assertEqual(modules & unused, set(), command)
            for package in ("cli.top", "cli.display.bars", "client.transfer.download", "journal"):
                self.assertNotIn(f"natproxy.{package}", modules)

    def test_display_imports_no_terminal(self) -> None:
        modules = self.modules(f"import natproxy.cli.display{IDLE}")
        # Coverage of this process needs them.
        measuring = {"json", "threading"} if "COVERAGE_PROCESS_CONFIG" in os.environ else set()
        unused = {"rich", "json", "threading", "natproxy.client", "natproxy.cli.display.lines"}
        self.assertEqual(modules & unused - measuring, set())
