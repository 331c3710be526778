"""The prompt and the command line, against a server played from a script."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy import cli
from natproxy.client import Connection, Server
from natproxy.client.shell import Shell
from tests.played_server import PlayedServer, Scene

LISTED = (b"LIST\n", b"OK\na b\nEND\n")


class ShellTests(SynchronousTestCase):
    def run_shell(self, *typed: str | BaseException, scenes: tuple[Scene, ...] = ()) -> str:
        """Type lines, then Ctrl-D; give what is shown."""
        self.server = PlayedServer(*(scenes or ([],)))
        self.addCleanup(self.server.close)
        shown: list[str] = []
        read = mock.Mock(side_effect=[*typed, EOFError()])
        connection = Connection(Server("127.0.0.1", self.server.port), 10)
        with connection:
            shell = Shell(connection, read, shown.append)
            self.exit_status = shell.run()
        self.assertEqual({call.args for call in read.call_args_list}, {("proxy> ",)})
        first, *rest = "".join(shown).splitlines(keepends=True)
        self.assertEqual(first, f"Connected to proxy at {self.server.server_address}\n")
        return "".join(rest)

    def test_list_and_download_with_posix_quoting(self) -> None:
        folder = self.mktemp()
        shown = self.run_shell(
            "list",
            f"download 'a b' {folder}/",
            f'DOWNLOAD a\\ b "{folder}/c d"',
            scenes=([LISTED, (b"DOWNLOAD a b\n", b"OK 2\nhi"), (b"DOWNLOAD a b\n", b"OK 2\nhi")],),
        )
        self.assertEqual(
            shown, f"a b\nsaved {folder}/a b (2 bytes)\nsaved {folder}/c d (2 bytes)\n\n"
        )
        self.assertEqual(sorted(os.listdir(folder)), ["a b", "c d"])
        self.assertEqual(self.exit_status, 0)

    def test_every_error_is_one_line_and_the_shell_goes_on(self) -> None:
        shown = self.run_shell(
            "frobnicate",
            "download",
            "download 'a",
            "list x",
            "download a\x01",
            "list",
            scenes=([(b"DOWNLOAD a\x01\n", b"ERR file not found\n"), LISTED],),
        )
        self.assertEqual(
            shown.splitlines(),
            [
                "error: unknown command 'frobnicate': try 'help'",
                "error: usage: download <filename> [dest]",
                "error: cannot read the line: no closing quotation",
                "error: list takes no arguments",
                "error: file not found",
                "a b",
                "",
            ],
        )
        self.assertEqual(self.exit_status, 3)

    def test_help_names_every_command_and_exit_and_quit_leave(self) -> None:
        for last in ("exit", "quit", "EXIT"):
            shown = self.run_shell("", "  ", "help", last)
            for verb in ("list", "download <filename> [dest]", "help", "exit", "quit", "Ctrl-D"):
                self.assertIn(verb, shown)

    def test_interrupt_at_the_prompt_gives_a_new_prompt(self) -> None:
        self.assertEqual(self.run_shell(KeyboardInterrupt()), "\n\n")

    def test_interrupt_of_a_transfer_stops_it_and_not_the_shell(self) -> None:
        download = mock.Mock(side_effect=KeyboardInterrupt)
        with mock.patch("natproxy.client.shell.download", download):
            shown = self.run_shell("download a", "list", scenes=([], [LISTED]))
        self.assertEqual(shown, "\nerror: interrupted\na b\n\n")
        self.assertEqual(self.exit_status, 130)


class CommandLineTests(SynchronousTestCase):
    def play(self, *scenes: Scene) -> str:
        """Give the address of a server that plays the scenes."""
        server = PlayedServer(*scenes)
        self.addCleanup(server.close)
        return server.server_address

    def main(self, *arguments: str) -> tuple[int, bytes, str]:
        """Give exit status, standard output and standard error of a command line."""
        with (
            io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as out,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            status = cli.main(arguments)
            out.flush()
            return status, out.buffer.getvalue(), err.getvalue()  # type: ignore[attr-defined]

    def test_list_writes_names_as_they_are_when_nobody_is_looking(self) -> None:
        address = self.play([(b"LIST\n", b"OK\n\xe9\x1b\nEND\n")])
        self.assertEqual(self.main("list", "--server", address), (0, b"\xe9\x1b\n", ""))

    def test_server_may_be_said_first_or_by_the_environment(self) -> None:
        address = self.play([LISTED], [LISTED])
        self.assertEqual(self.main("--server", address, "list"), (0, b"a b\n", ""))
        with mock.patch.dict(os.environ, NATPROXY_SERVER=address):
            self.assertEqual(self.main("list"), (0, b"a b\n", ""))

    def test_download_tells_what_it_saved(self) -> None:
        target = self.mktemp()
        address = self.play([(b"DOWNLOAD a b\n", b"OK 2\nhi")])
        status, out, _ = self.main("download", "a b", target, "--server", address)
        self.assertEqual((status, out.decode()), (0, f"saved {target} (2 bytes)\n"))

    def test_failures_are_one_line_on_standard_error_with_their_exit_status(self) -> None:
        address = self.play([(b"DOWNLOAD a\n", b"ERR file not found\n")], [(b"LIST\n", b"x\n")])
        cases: list[tuple[int, tuple[str, ...]]] = [
            (3, ("download", "a", "--server", address)),
            (6, ("list", "--server", address)),
            (4, ("list", "--server", "127.0.0.1:1")),
            (2, ("list", "--server", "::1")),
            (2, ("list", "--timeout", "0")),
            (2, ("download", "a\nb", "--server", "127.0.0.1:1")),
        ]
        for status, arguments in cases:
            got, out, err = self.main(*arguments)
            self.assertEqual((got, out), (status, b""), arguments)
            self.assertRegex(err, r"\Anatproxy: [^\n]+\n\Z")

    def test_interrupt_ends_with_130(self) -> None:
        with mock.patch("natproxy.cli.Connection", side_effect=KeyboardInterrupt):
            self.assertEqual(self.main("list"), (130, b"", "natproxy: interrupted\n"))

    def test_client_wing_imports_no_twisted(self) -> None:
        code = "import sys, natproxy.cli, natproxy.client.shell; print('twisted' in sys.modules)"
        run = self.python("-c", code)
        self.assertEqual(run.stdout, "False\n")

    def test_reader_of_a_pipe_may_leave_early(self) -> None:
        names = b"".join(b"file %d\n" % number for number in range(50_000))
        address = self.play([(b"LIST\n", b"OK\n" + names + b"END\n")])
        reader, writer = os.pipe()
        os.close(reader)
        run = subprocess.run(
            [sys.executable, "-m", "natproxy", "list", "--server", address],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=30,
        )
        os.close(writer)
        self.assertEqual((run.returncode, run.stderr), (0, b""))

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run this Python."""
        run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
        return run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=30, check=True
        )
