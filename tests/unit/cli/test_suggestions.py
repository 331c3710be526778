"""Suggestions for the lines of the prompt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.candidates import ManyNames
from natproxy.cli.commands import CLIENT_COMMANDS
from natproxy.cli.shell.commands import parsers_with
from natproxy.cli.shell.suggestions import Suggester


class SuggesterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.requested: list[tuple[str, str, bool]] = []
        self.found = [b"a", b"b c/"]

        def starting_with(
            _: object, typed: str, server: str, directories: bool, directory: bytes
        ) -> Iterator[bytes]:
            self.requested.append((typed, server, directories))
            self.assertEqual(directory, self.directory)
            return iter(self.found)

        replaced = mock.patch.object(ManyNames, "starting_with", starting_with)
        replaced.start()
        self.addCleanup(replaced.stop)
        self.directory = b""
        parsers = parsers_with(CLIENT_COMMANDS)
        self.suggester = Suggester("here:1", parsers, lambda: self.directory)

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
        self.assertEqual(
            self.texts("sync --exclude a --exclude"), ["--exclude ", "--exclude-from "]
        )

    def test_values_of_options_are_completed_by_their_kind(self) -> None:
        self.assertEqual(self.texts("get --progress a"), ["auto ", "always "])
        self.assertEqual(self.texts("get --progress=n"), ["--progress=never "])
        self.assertEqual(self.texts("get --jobs "), [])
        self.assertEqual(self.requested, [])

    def test_names_are_listed_on_the_right_server(self) -> None:
        for line, typed, server, directories in (
            ("ls ", "", "here:1", False),
            ("GET a b 'c d", "c d", "here:1", False),
            ("get -j 4 --server there:2 x", "x", "there:2", False),
            ("get --server=there:2 $'\\xff", "\udcff", "there:2", False),
            ("sync d", "d", "here:1", True),
            ("download x", "x", "here:1", False),
        ):
            self.requested.clear()
            self.assertTrue(self.texts(line))
            self.assertEqual(self.requested, [(typed, server, directories)])
        self.assertEqual(self.texts("ls a "), [])

    def test_names_are_relative_to_the_directory_of_the_prompt(self) -> None:
        self.directory = b"b c"
        self.assertEqual(self.texts("cd x"), ["a ", "'b c/'"])
        self.assertEqual(self.requested, [("x", "here:1", True)])

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

    def test_local_paths_are_completed_for_arguments_that_take_them(self) -> None:
        directory = os.path.realpath(self.mktemp())
        os.makedirs(os.path.join(directory, "sub"))
        with open(os.path.join(directory, "some"), "w"):
            pass
        for line in ("get x -o ", "get x --output=", "download x "):
            self.assertEqual(len(self.texts(f"{line}{directory}/s")), 2)
        for line in ("lcd ", "sync x "):
            self.assertEqual(self.texts(f"{line}{directory}/s"), [f"{directory}/sub/"])
        self.assertEqual(self.requested, [])
