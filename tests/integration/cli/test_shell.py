"""The prompt and the command line, against a server played from a script."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy import cli
from natproxy.cli.commands import CLIENT_COMMANDS
from natproxy.cli.context import Sessions, configure
from natproxy.cli.shell import run as run_shell
from natproxy.cli.shell.commands import parsers_with
from natproxy.client.errors import CannotConnect
from tests.support.scripted_server import Scene, ScriptedServer

FEAT = (b"FEAT\n", b"OK\nNATPROXY 2\nEND\n")
DIRECTORY = b"OK type=dir size=0 mtime=1 etag=d\n"
LISTED = (b"LIST\n", b"OK\na b\nEND\n")


@contextlib.contextmanager
def captured() -> Iterator[io.TextIOWrapper]:
    """Capture standard output; the stream is rewound at the end of the block."""
    out = Screen(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    with contextlib.redirect_stdout(out):
        yield out
    out.seek(0)


class Screen(io.TextIOWrapper):
    """Standard output on a terminal."""

    def isatty(self) -> bool:
        return True


class ShellTests(SynchronousTestCase):
    moves = False
    """Whether the prompt shows a directory."""

    def type(self, *typed: str | BaseException, scenes: tuple[Scene, ...] = ()) -> str:
        """Type lines, then Ctrl-D; return what is shown."""
        server = ScriptedServer(*(scenes or ([],)))
        self.addCleanup(server.close)
        read = mock.Mock(side_effect=[*typed, EOFError()])
        options = configure(Namespace(server=server.server_address, timeout=10.0))
        with (
            captured() as out,
            Sessions() as sessions,
            mock.patch("natproxy.cli.shell._reader", return_value=read),
            mock.patch("sys.stdin", Screen(io.BytesIO())),
        ):
            self.exit_status = run_shell(options, sessions, CLIENT_COMMANDS)
        self.prompts = [prompt for call in read.call_args_list for prompt in call.args]
        if not self.moves:
            self.assertEqual(set(self.prompts), {"proxy> "})
        first, *rest = out.read().splitlines(keepends=True)
        self.assertEqual(first, f"Connected to proxy at {server.server_address}\n")
        return "".join(rest)

    def test_list_and_download_in_any_case_and_with_quotes(self) -> None:
        directory = self.mktemp()
        shown = self.type(
            "list",
            f"download 'a b' {directory}/",
            f'DOWNLOAD a\\ b "{directory}/c d"',
            f"Download $'\\xff' {directory}/",
            scenes=(
                [
                    LISTED,
                    (b"DOWNLOAD a b\n", b"OK 2\nhi"),
                    (b"DOWNLOAD a b\n", b"OK 2\nhi"),
                    (b"DOWNLOAD \xff\n", b"OK 2\nhi"),
                ],
            ),
        )
        self.assertEqual(
            shown,
            f"a b\nsaved {directory}/a b (2 bytes)\nsaved {directory}/c d (2 bytes)\n"
            f"saved {directory}/\\xff (2 bytes)\n",
        )
        self.assertEqual(sorted(os.listdir(os.fsencode(directory))), [b"a b", b"c d", b"\xff"])
        self.assertEqual(self.exit_status, 0)

    def test_every_error_is_one_line_and_the_shell_continues(self) -> None:
        shown = self.type(
            "frob\x1bnicate",
            "download",
            "download 'a",
            "list x",
            "get --jobs 0 a",
            "ls --server ::1",
            "help frobnicate",
            "download a\x01",
            "list",
            scenes=([(b"DOWNLOAD a\x01\n", b"ERR file not found\n"), LISTED],),
        )
        self.assertEqual(
            shown.splitlines(),
            [
                "error: unknown command 'frob\\x1bnicate': try 'help'",
                "error: download: the following arguments are required: NAME",
                "error: cannot read the line: no closing quotation",
                "error: list: unrecognized arguments: x",
                "error: get: argument -j/--jobs: '0': must be a whole number from 1 to 64",
                "error: server '::1': an IPv6 address is written [ADDRESS]:PORT",
                "error: unknown command 'frobnicate': try 'help'",
                "error: file not found",
                "a b",
            ],
        )
        self.assertEqual(self.exit_status, 3)

    def test_file_of_several_that_cannot_be_had_is_an_error_of_the_same_kind(self) -> None:
        missing = b"ERR 404 file not found\n"
        commands = [(b"GET a\n", missing), *2 * [(b"STAT a\n", missing)]]
        shown = self.type("get -q a", scenes=([FEAT, *commands],))
        self.assertEqual(shown, "error: a: file not found\n")
        self.assertEqual(self.exit_status, 3)

    def test_help_names_every_command(self) -> None:
        shown = self.type("help")
        for verb in (*parsers_with(CLIENT_COMMANDS), "get", "lcd", "Ctrl-D"):
            self.assertIn(verb, shown)
        for verb in ("up", "shell", "completion"):
            self.assertNotRegex(shown, rf"(?m)^{verb}\b")

    def test_help_for_a_command_shows_its_options(self) -> None:
        for line in ("help get", "HELP GET", "get --help"):
            shown = self.type(line)
            self.assertRegex(shown, r"\Ausage: get ")
            self.assertIn("--limit-rate", shown)
            self.assertEqual(self.exit_status, 0)

    def test_exit_and_quit_leave(self) -> None:
        for last in ("exit", "quit", "EXIT"):
            self.assertEqual(self.type("", "  ", last, "frobnicate"), "")

    def test_several_lines_at_once_are_several_commands(self) -> None:
        shown = self.type("\nlist\nlist\n", scenes=([LISTED, LISTED],))
        self.assertEqual(shown, "a b\na b\n")

    def test_local_directory_can_be_changed(self) -> None:
        directory = os.path.realpath(self.mktemp())
        os.makedirs(os.path.join(directory, "sub dir"))
        self.addCleanup(os.chdir, os.getcwd())
        with mock.patch.dict(os.environ, HOME=directory):
            shown = self.type(
                "lcd", "lpwd", "lcd 'sub dir'", "lpwd", "lcd nowhere", "lcd ~/", "lpwd"
            )
        self.assertEqual(
            shown,
            f"{directory}\n{directory}/sub dir\n"
            f"error: nowhere: No such file or directory\n{directory}\n",
        )
        self.assertEqual(self.exit_status, 9)

    def test_directory_on_the_server_can_be_changed(self) -> None:
        self.moves = True
        names = (b"tables", b"tables/a", b"b", b"c", b"tables/2024", b"tables")
        shown = self.type(
            *("pwd", "cd tables/", "pwd", "stat a /b ../c", "cd 2024", "cd ..", "CD", "pwd"),
            scenes=([FEAT, *((b"STAT " + name + b"\n", DIRECTORY) for name in names)],),
        )
        lines = [line for line in shown.splitlines() if line.startswith(("/", "name: "))]
        self.assertEqual(
            lines, ["/", "/tables", "name:     tables/a", "name:     b", "name:     c", "/"]
        )
        top, tables = "proxy> ", "proxy:/tables> "
        self.assertEqual(
            self.prompts,
            [top, top, tables, tables, tables, "proxy:/tables/2024> ", tables, top, top],
        )

    def test_directory_that_is_missing_is_not_changed_to(self) -> None:
        missing = (b"STAT nowhere\n", b"ERR 404 file not found\n")
        file = (b"STAT a\n", b"OK type=file size=1 mtime=1 etag=e\n")
        self.assertEqual(
            self.type(
                "cd nowhere", "cd a", "cd natproxy://other:1/d", "pwd",
                scenes=([FEAT, missing, file],),
            ),
            "error: nowhere: file not found\nerror: a: not a directory\n"
            "error: d: is on another server than the prompt's\n/\n",
        )  # fmt: skip
        self.assertEqual(self.exit_status, 2)

    def test_end_of_a_long_directory_is_shown(self) -> None:
        self.moves = True
        long = b"d" * 30 + b"/" + b"e" * 30
        stat = (b"STAT " + long + b"\n", DIRECTORY)
        self.type(f"cd {long.decode()}", scenes=([FEAT, stat],))
        self.assertEqual(self.prompts[-1], f"proxy:...{'d' * 6}/{'e' * 30}> ")

    def test_lists_are_files_and_not_the_lines_of_the_prompt(self) -> None:
        home = os.path.realpath(self.mktemp())
        os.mkdir(home)
        with open(os.path.join(home, "patterns"), "w") as file:
            file.write("[\n")
        with mock.patch.dict(os.environ, HOME=home):
            shown = self.type(
                "get -i -", "get -r a --exclude-from -", "get -r a --exclude-from ~/patterns"
            )
        self.assertEqual(
            shown.splitlines(),
            [
                *2 * ["error: standard input has the commands of the prompt: a file is needed"],
                "error: the pattern '[' cannot be used: a [ without its ] in the same name",
            ],
        )

    def test_home_is_meant_by_a_tilde(self) -> None:
        directory = self.mktemp()
        with mock.patch.dict(os.environ, HOME=directory):
            shown = self.type("download a ~/", scenes=([(b"DOWNLOAD a\n", b"OK 2\nhi")],))
        self.assertEqual(shown, f"saved {directory}/a (2 bytes)\n")

    def test_interrupt_at_the_prompt_shows_a_new_prompt(self) -> None:
        shown = self.type(KeyboardInterrupt(), "list", scenes=([LISTED],))
        self.assertEqual(shown, "a b\n")
        self.assertEqual(self.exit_status, 0)

    def test_interrupt_cancels_a_download_and_not_the_shell(self) -> None:
        download = mock.Mock(side_effect=KeyboardInterrupt)
        with mock.patch("natproxy.client.transfer.version1.download_version1", download):
            shown = self.type("download a\ndownload b", "list", scenes=([LISTED],))
        self.assertEqual(shown, "\nerror: interrupted\na b\n")
        self.assertEqual(self.exit_status, 130)
        self.assertEqual(download.call_count, 1)

    def test_server_that_cannot_be_reached_is_an_error_at_the_start(self) -> None:
        with captured(), Sessions() as sessions:
            options = configure(Namespace(server="127.0.0.1:1", timeout=10.0))
            self.assertRaises(CannotConnect, run_shell, options, sessions, CLIENT_COMMANDS)

    def piped(self, lines: bytes, *scenes: Scene) -> tuple[int, str, str]:
        """Pipe lines into the program; return its status, output and errors."""
        server = ScriptedServer(*scenes)
        self.addCleanup(server.close)
        state = self.mktemp()
        ended = subprocess.run(
            [sys.executable, "-m", "natproxy", "shell", "--server", server.server_address],
            input=lines,
            capture_output=True,
            timeout=30,
            env={**os.environ, "XDG_STATE_HOME": state},
        )
        self.assertFalse(os.path.exists(state))
        return ended.returncode, ended.stdout.decode(), ended.stderr.decode()

    def test_of_piped_lines_only_the_commands_write(self) -> None:
        for lines in (b"list\n\n  \nlist\n", b"list\nLIST", b"list\nlist\nexit\nfrobnicate\n"):
            self.assertEqual(self.piped(lines, [LISTED, LISTED]), (0, "a b\na b\n", ""))

    def test_errors_of_piped_lines_are_on_standard_error(self) -> None:
        missing = (b"DOWNLOAD x\n", b"ERR file not found\n")
        status, out, errors = self.piped(b"download x\nlist\nfrob\n", [missing, LISTED])
        self.assertEqual((status, out), (2, "a b\n"))
        self.assertEqual(
            errors,
            "natproxy: file not found\nnatproxy: unknown command 'frob': try 'help'\n",
        )

    def test_input_that_cannot_be_read_is_one_line(self) -> None:
        server = ScriptedServer([])
        self.addCleanup(server.close)
        unreadable = os.open(os.devnull, os.O_WRONLY)
        self.addCleanup(os.close, unreadable)
        ended = subprocess.run(
            [sys.executable, "-m", "natproxy", "shell", "--server", server.server_address],
            stdin=unreadable,
            capture_output=True,
            timeout=60,
        )
        self.assertEqual(
            (ended.returncode, ended.stdout, ended.stderr),
            (9, b"", b"natproxy: standard input: Bad file descriptor\n"),
        )

    def test_interrupt_ends_piped_lines(self) -> None:
        download = mock.Mock(side_effect=KeyboardInterrupt)
        with (
            captured(),
            mock.patch("sys.stdin", io.StringIO("download a\ndownload b\n")),
            mock.patch("natproxy.client.transfer.version1.download_version1", download),
        ):
            server = ScriptedServer([])
            self.addCleanup(server.close)
            with contextlib.redirect_stderr(io.StringIO()) as err:
                self.assertEqual(cli.main(["shell", "--server", server.server_address]), 130)
        self.assertEqual(err.getvalue(), "natproxy: interrupted\n")
        self.assertEqual(download.call_count, 1)

    def test_redirected_output_has_no_greeting_and_no_prompts(self) -> None:
        server = ScriptedServer([LISTED])
        self.addCleanup(server.close)
        options = configure(Namespace(server=server.server_address, timeout=10.0))
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(io.StringIO()) as err,
            mock.patch("sys.stdin", Screen(io.BytesIO())),
            mock.patch("builtins.input", side_effect=["list", "frob", EOFError]),
            Sessions() as sessions,
        ):
            self.assertEqual(run_shell(options, sessions, CLIENT_COMMANDS), 2)
        self.assertEqual(out.buffer.getvalue(), b"a b\n")  # type: ignore[attr-defined]
        self.assertEqual(
            err.getvalue().splitlines(),
            [
                f"Connected to proxy at {server.server_address}",
                "proxy> proxy> error: unknown command 'frob': try 'help'",
                "proxy> ",
            ],
        )

    def test_terminal_without_the_library_is_read_plainly(self) -> None:
        server = ScriptedServer([LISTED])
        self.addCleanup(server.close)
        options = configure(Namespace(server=server.server_address, timeout=10.0))
        with (
            captured() as out,
            mock.patch.dict(sys.modules, {"natproxy.cli.shell.prompt": None}),
            mock.patch("sys.stdin") as typed,
            mock.patch.object(out, "isatty", return_value=True),
            mock.patch("builtins.input", side_effect=["list", EOFError]),
            Sessions() as sessions,
        ):
            typed.isatty.return_value = True
            self.assertEqual(run_shell(options, sessions, CLIENT_COMMANDS), 0)
        self.assertTrue(out.read().endswith("\na b\n\n"))


class CommandLineTests(SynchronousTestCase):
    def play(self, *scenes: Scene) -> str:
        """Return the address of a server that plays the scenes."""
        server = ScriptedServer(*scenes)
        self.addCleanup(server.close)
        return server.server_address

    def main(self, *arguments: str) -> tuple[int, bytes, str]:
        """Return exit status, standard output and standard error of a command line."""
        with (
            io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as out,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            status = cli.main(arguments)
            out.flush()
            return status, out.buffer.getvalue(), err.getvalue()  # type: ignore[attr-defined]

    def test_download_reports_the_saved_file(self) -> None:
        target = self.mktemp()
        address = self.play([(b"DOWNLOAD a b\n", b"OK 2\nhi")])
        status, out, _ = self.main("download", "a b", target, "--server", address)
        self.assertEqual((status, out.decode()), (0, f"saved {target} (2 bytes)\n"))

    def test_client_imports_no_twisted(self) -> None:
        code = "import sys, natproxy.cli, natproxy.cli.shell; print('twisted' in sys.modules)"
        run = self.python("-c", code)
        self.assertEqual(run.stdout, "False\n")

    def test_commands_of_clients_run_without_twisted(self) -> None:
        code = (
            "import sys\n"
            "sys.modules['twisted'] = sys.modules['zope'] = None\n"
            "from natproxy.cli import main\n"
            "sys.exit(main(sys.argv[1:]))"
        )
        tokens = self.mktemp()
        address = self.play([(b"LIST\n", b"OK\na\nEND\n")])
        for arguments in (
            ("token", "new", "ann", "--file", tokens),
            ("token", "list", "--file", tokens),
            ("token", "revoke", "ann", "--file", tokens),
            ("config", "show", "--daemon", "client"),
            ("config", "check", "--daemon", "client"),
            ("list", "--server", address),
        ):
            run = self.python("-c", code, *arguments)
            self.assertNotIn("Twisted", run.stderr, arguments)
        for arguments in (
            ("config", "check", "--daemon", "proxy"),
            ("config", "check", "--as", "client=10.0.0.1", "GET a"),
            ("up",),
        ):
            run = self.python("-c", code, *arguments, check=False)
            self.assertEqual(
                (run.returncode, run.stderr),
                (1, f"natproxy: {arguments[0]} needs Twisted: pip install twisted\n"),
            )

    def test_reader_of_a_pipe_may_close_it_early(self) -> None:
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

    def python(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run this Python."""
        run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
        return run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=30, check=check
        )
