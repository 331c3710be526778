"""Replies to the completion script of the user's shell."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli import main
from natproxy.cli.candidates import ManyNames
from natproxy.cli.commands import COMMANDS
from natproxy.cli.completion import complete
from natproxy.cli.parsing import program_parser


class WithoutTheLibraryTests(SynchronousTestCase):
    def test_error_names_the_extra(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"argcomplete.shell_integration": None}),
            mock.patch("sys.stderr") as stderr,
        ):
            self.assertEqual(main(["completion", "bash"]), 1)
        stderr.write.assert_called_once_with(
            "natproxy: completion needs argcomplete: pip install 'natproxy[cli]'\n"
        )

    def test_script_gets_nothing(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"argcomplete.completers": None}),
            mock.patch.dict(os.environ, _ARGCOMPLETE="1"),
        ):
            self.assertRaises(SystemExit, main, [])


class ReplyTests(SynchronousTestCase):
    """The replies to the script of a shell."""

    def replies(self, line: str, *found: bytes, shell: str = "bash") -> list[str]:
        def starting_with(_: object, typed: str, *__: object) -> Iterator[bytes]:
            return (name for name in found if name.startswith(os.fsencode(typed)))

        reply = io.StringIO()
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
            complete(program_parser(COMMANDS), reply, lambda status: None)
        return list(filter(None, reply.getvalue().split("\013")))

    def test_commands_and_options(self) -> None:
        self.assertEqual(self.replies("natproxy s"), ["stat", "sync", "shell", "status"])
        self.assertEqual(self.replies("natproxy ls --rec"), ["--recursive "])
        self.assertEqual(self.replies("natproxy get --jobs "), [])

    def test_upstreams_and_their_modes(self) -> None:
        self.assertEqual(self.replies("natproxy upstreams dr"), ["drain "])
        with mock.patch(
            "natproxy.cli.translations.candidates.upstream_names",
            return_value=["files-a", "files-b", "other"],
        ):
            found = self.replies("natproxy upstreams drain f")
        self.assertEqual(found, ["files-a", "files-b"])

    def test_names_are_quoted_for_the_shell(self) -> None:
        for name, word in (
            (b"two words", "two\\ words "),
            (b"d/", "d/"),
            (b"new\nline", "$'new\\nline'"),
            (b"\xff", "$'\\xff'"),
            (b"\xff/", "$'\\xff/"),
        ):
            self.assertEqual(self.replies("natproxy get ", name), [word])
            self.assertEqual(self.replies("natproxy sync ", name), [word])

    def test_names_that_cannot_be_written_there_are_omitted(self) -> None:
        self.assertEqual(self.replies("natproxy get 'n", b"n\nl", b"nl"), ["nl"])
        self.assertEqual(self.replies("natproxy get a:", b"a:\n", b"a:b"), ["b "])
        self.assertEqual(self.replies("natproxy get n", b"n\nl", b"nl", shell="fish"), ["nl "])
