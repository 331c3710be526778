"""Completion: of the prompt's lines, and of command lines in the user's own shell."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.cli import main
from natproxy.cli.candidates import MOST, ManyNames, RemoteNames, local_names
from natproxy.cli.commands import CLIENT_COMMANDS, COMMANDS
from natproxy.cli.completion import complete
from natproxy.cli.parsing import program_parser
from natproxy.cli.shell.commands import parsers_with
from natproxy.cli.shell.suggestions import Suggester
from natproxy.protocol import DIRECTORY, FILE, Entry, Metadata, format_entry
from tests.support.paths import ROOT
from tests.support.scripted_server import PlayedServer, Scene
from tests.support.terminal import Terminal, running

FEAT = (b"FEAT\n", b"OK\nNATPROXY 2\nEND\n")
OLD = (b"FEAT\n", b"ERR unknown command\n")


def page(*names: bytes) -> bytes:
    """Give the reply that lists files, and directories, whose names end with a slash."""
    entries = (
        Entry(
            name.rstrip(b"/"),
            Metadata(DIRECTORY if name.endswith(b"/") else FILE, 1, 1, "x"),
        )
        for name in names
    )
    body = b"".join(map(format_entry, entries))
    return b"OK %d\n%b" % (len(body), body)


class RemoteNamesTests(SynchronousTestCase):
    def names(self, *scenes: Scene) -> RemoteNames:
        self.server = PlayedServer(*scenes)
        self.addCleanup(self.server.close)
        self.now = 0.0
        names = RemoteNames(Address("127.0.0.1", self.server.port), 5.0, lambda: self.now)
        self.addCleanup(names.close)
        return names

    def test_directory_is_listed_once_in_a_while(self) -> None:
        first = (b"LS\n", page(b"a", b"b/", b"ba"))
        names = self.names([FEAT, first, (b"LS\n", page(b"b"))])
        self.assertEqual(names.starting_with(b""), [b"a", b"b/", b"ba"])
        self.assertEqual(names.starting_with(b"b"), [b"b/", b"ba"])
        self.now = 6.0
        self.assertEqual(names.starting_with(b"b"), [b"b"])

    def test_directory_below_is_listed_for_what_is_in_it(self) -> None:
        names = self.names([FEAT, (b"LS a/b\n", page(b"a/b/c", b"a/b/d/"))])
        self.assertEqual(names.starting_with(b"a/b/"), [b"a/b/c", b"a/b/d/"])
        self.assertEqual(names.starting_with(b"a/b/d"), [b"a/b/d/"])

    def test_of_a_large_directory_only_what_is_wanted_is_asked_for(self) -> None:
        many = (b"LS\n", page(*(b"a%06d" % number for number in range(MOST + 10))))
        after = (b"LS after=w%FF\n", page(b"x", b"xy/", b"y"))
        names = self.names([FEAT, many], [after])
        self.assertEqual(len(names.starting_with(b"")), MOST)
        self.assertEqual(names.starting_with(b"x"), [b"x", b"xy/"])

    def test_server_of_version_1_has_a_top_directory_only(self) -> None:
        names = self.names([OLD, (b"LIST\n", b"OK\nab\nb\nEND\n")])
        self.assertEqual(names.starting_with(b"a"), [b"ab"])
        self.assertEqual(names.starting_with(b"a/"), [])

    def test_nothing_that_goes_wrong_is_told_or_tried_again_at_once(self) -> None:
        names = self.names([FEAT, (b"LS\n", b"ERR 503 busy\n")], [FEAT, (b"LS\n", page(b"a"))])
        self.assertEqual(names.starting_with(b""), [])
        self.assertEqual(names.starting_with(b"a"), [])
        self.now = 6.0
        self.assertEqual(names.starting_with(b""), [b"a"])

    def test_servers_that_are_not_there_have_no_names(self) -> None:
        names = ManyNames(0.5)
        for typed, server in (
            ("a", "127.0.0.1:1"),
            ("a", "::1"),
            ("natproxy://", "127.0.0.1:1"),
            ("natproxy://127.0.0.1:1", "127.0.0.1:1"),
            ("natproxy://127.0.0.1:1/a", "127.0.0.1:2"),
        ):
            self.assertEqual(list(names.starting_with(typed, server)), [])
        names.close()


class LocalNamesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.realpath(self.mktemp())
        os.makedirs(os.path.join(self.directory, "sub/deep"))
        for name in ("file", ".hidden", "-dash", "~tilde"):
            with open(os.path.join(self.directory, name), "w"):
                pass
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)

    def test_they_are_said_as_they_were_typed(self) -> None:
        self.assertEqual(local_names(""), ["./-dash", "./~tilde", "file", "sub/"])
        self.assertEqual(local_names("./"), ["./-dash", "./file", "./sub/", "./~tilde"])
        self.assertEqual(local_names("f"), ["file"])
        self.assertEqual(local_names("."), [".hidden"])
        self.assertEqual(local_names("sub/d"), ["sub/deep/"])
        self.assertEqual(local_names(f"{self.directory}/s"), [f"{self.directory}/sub/"])
        self.assertEqual(local_names("", directories_only=True), ["sub/"])
        self.assertEqual(local_names("nowhere/"), [])
        with mock.patch.dict(os.environ, HOME=self.directory):
            self.assertEqual(local_names("~/s"), ["~/sub/"])


class SuggesterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.asked: list[tuple[str, str, bool]] = []
        self.found = [b"a", b"b c/"]

        def starting_with(_: object, typed: str, server: str, directories: bool) -> Iterator[bytes]:
            self.asked.append((typed, server, directories))
            return iter(self.found)

        replaced = mock.patch.object(ManyNames, "starting_with", starting_with)
        replaced.start()
        self.addCleanup(replaced.stop)
        self.suggester = Suggester("here:1", parsers_with(CLIENT_COMMANDS))

    def texts(self, line: str) -> list[str]:
        return [each.text for each in self.suggester.suggest(line)[1]]

    def test_commands_come_first(self) -> None:
        self.assertEqual(self.texts("L"), ["ls ", "list ", "lcd ", "lpwd "])
        self.assertEqual(self.texts("help qu"), ["quit "])
        self.assertEqual(self.texts("frobnicate "), [])
        self.assertEqual(self.texts("exit "), [])

    def test_options_are_offered_once_and_not_after_a_double_hyphen(self) -> None:
        self.assertEqual(self.texts("ls --rec"), ["--recursive "])
        self.assertEqual(self.texts("ls -R --rec"), ["a ", "'b c/'"])
        self.assertEqual(self.texts("ls -- --rec"), ["a ", "'b c/'"])

    def test_values_of_options_are_known_by_their_kind(self) -> None:
        self.assertEqual(self.texts("get --progress a"), ["auto ", "always "])
        self.assertEqual(self.texts("get --progress=n"), ["--progress=never "])
        self.assertEqual(self.texts("get --jobs "), [])
        self.assertEqual(self.asked, [])

    def test_paths_are_asked_for_where_they_are(self) -> None:
        for line, typed, server, directories in (
            ("ls ", "", "here:1", False),
            ("GET a b 'c d", "c d", "here:1", False),
            ("get -j 4 --server there:2 x", "x", "there:2", False),
            ("get --server=there:2 $'\\xff", "\udcff", "there:2", False),
            ("sync d", "d", "here:1", True),
            ("download x", "x", "here:1", False),
        ):
            self.asked.clear()
            self.assertTrue(self.texts(line))
            self.assertEqual(self.asked, [(typed, server, directories)])
        self.assertEqual(self.texts("ls a "), [])

    def test_names_replace_the_whole_word_in_its_own_quotes(self) -> None:
        self.found = [b"two words", b"sub dir/", b"\xff"]
        for typed, style in (("", "'"), ("'", "'"), ('"', '"'), ("$'", "$'")):
            start, (file, directory, other) = self.suggester.suggest(f"get  {typed}")
            self.assertEqual(start, 5)
            end = style[-1]
            self.assertEqual(file.text, f"{style}two words{end} ")
            self.assertEqual(
                (directory.text, directory.shown), (f"{style}sub dir/{end}", "sub dir/")
            )
            self.assertEqual((other.text, other.shown), ("$'\\xff' ", "\\xff"))

    def test_paths_here_are_completed_where_they_are_meant(self) -> None:
        directory = os.path.realpath(self.mktemp())
        os.makedirs(os.path.join(directory, "sub"))
        with open(os.path.join(directory, "some"), "w"):
            pass
        for line in ("get x -o ", "get x --output=", "download x "):
            self.assertEqual(len(self.texts(f"{line}{directory}/s")), 2)
        for line in ("lcd ", "sync x "):
            self.assertEqual(self.texts(f"{line}{directory}/s"), [f"{directory}/sub/"])
        self.assertEqual(self.asked, [])


class WithoutTheLibraryTests(SynchronousTestCase):
    def test_error_names_the_extra(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"argcomplete.shell_integration": None}),
            mock.patch("sys.stderr") as stderr,
        ):
            self.assertEqual(main(["completion", "bash"]), 1)
        stderr.write.assert_called_once_with(
            "natproxy: completion needs argcomplete: install natproxy[cli]\n"
        )

    def test_script_gets_nothing(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"argcomplete.completers": None}),
            mock.patch.dict(os.environ, _ARGCOMPLETE="1"),
        ):
            self.assertRaises(SystemExit, main, [])


class AnswerTests(SynchronousTestCase):
    """What the script of a shell is told."""

    def answers(self, line: str, *found: bytes, shell: str = "bash") -> list[str]:
        def starting_with(_: object, typed: str, *__: object) -> Iterator[bytes]:
            return (name for name in found if name.startswith(os.fsencode(typed)))

        answer = io.StringIO()
        environment = {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_SHELL": shell,
            "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        }
        with (
            mock.patch.dict(os.environ, environment),
            mock.patch.object(ManyNames, "starting_with", starting_with),
            # It may not be closed: it is the tests' own standard error.
            mock.patch("argcomplete.finders.CompletionFinder._init_debug_stream"),
            mock.patch("argcomplete.io.debug_stream", io.StringIO()),
        ):
            complete(program_parser(COMMANDS), answer, lambda status: None)
        return list(filter(None, answer.getvalue().split("\013")))

    def test_commands_and_options(self) -> None:
        self.assertEqual(self.answers("natproxy s"), ["stat", "sync", "shell"])
        self.assertEqual(self.answers("natproxy ls --rec"), ["--recursive "])
        self.assertEqual(self.answers("natproxy get --jobs "), [])

    def test_names_are_quoted_for_the_shell(self) -> None:
        for name, word in (
            (b"two words", "two\\ words "),
            (b"d/", "d/"),
            (b"new\nline", "$'new\\nline'"),
            (b"\xff", "$'\\xff'"),
            (b"\xff/", "$'\\xff/"),
        ):
            self.assertEqual(self.answers("natproxy get ", name), [word])
            self.assertEqual(self.answers("natproxy sync ", name), [word])

    def test_names_that_the_place_has_no_words_for_are_left_out(self) -> None:
        self.assertEqual(self.answers("natproxy get 'n", b"n\nl", b"nl"), ["nl"])
        self.assertEqual(self.answers("natproxy get a:", b"a:\n", b"a:b"), ["b "])
        self.assertEqual(self.answers("natproxy get n", b"n\nl", b"nl", shell="fish"), ["nl "])


FILES = ["hello.txt", "two words", "it's", "a:b=c", "-dash", "new\nline", "sub dir/inner"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("files")
    (directory / "sub dir").mkdir()
    for name in FILES:
        (directory / name).write_text(name)
    with running(directory) as address:
        yield address


def program(directory: Path) -> str:
    """Make a program ``natproxy`` of the modules here, and give a ``PATH`` that finds it."""
    directory.mkdir()
    path = directory / "natproxy"
    path.write_text(
        f"#!{sys.executable}\nfrom natproxy.cli import main\nraise SystemExit(main())\n"
    )
    path.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(natproxy completion bash)"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -U compinit; compinit -u -D; source <(natproxy completion zsh)",
    ),
    "fish": (["fish", "--no-config", "-i"], "natproxy completion fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_names_on_the_server_are_completed_in(shell: str, server: str, tmp_path: Path) -> None:
    command, script = SHELLS[shell]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {shell} here")
    here = tmp_path / "here"
    here.mkdir()
    path = program(tmp_path / "bin")
    begun = ["hel", "tw", "it", "a:", "/-d", "sub\\ dir/i"]
    if shell == "bash":
        begun.append("new")
    environment = {"PATH": path, "NATPROXY_SERVER": server, "HOME": str(tmp_path)}
    with Terminal(command, here, **environment) as terminal:
        terminal.type(f"{script}; echo rea''dy\r")
        terminal.wait_for(r"^ready")
        for number, typed in enumerate(begun):
            terminal.type(f"natproxy get -q {typed}\t && echo don''e {number}\r")
            terminal.wait_for(rf"^done {number}")
        terminal.type("exit\r")
        terminal.wait_for_end()
    fetched = {path.name for path in here.iterdir()}
    expected = {"hello.txt", "two words", "it's", "a:b=c", "-dash", "inner"}
    assert fetched == expected | ({"new\nline"} if shell == "bash" else set())


def test_without_a_server_the_shell_hears_nothing(tmp_path: Path) -> None:
    path = program(tmp_path / "bin")
    line = "natproxy get a"
    run = subprocess.run(
        ["bash", "-c", "natproxy 8>&1 9>/dev/null"],
        env={
            **os.environ,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "NATPROXY_SERVER": "127.0.0.1:1",
            "_ARGCOMPLETE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        },
        capture_output=True,
        timeout=30,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
