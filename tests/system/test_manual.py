"""The manual page describes every command, option and exit status of the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from argparse import ArgumentParser

import pytest
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.commands import CLIENT_COMMANDS, COMMANDS
from natproxy.cli.parsing import commands_of, program_parser
from natproxy.cli.shell.commands import parsers_with
from natproxy.cli.translations.whois import STATUSES
from natproxy.client import errors
from tests.support.manual import PAGE, TEXT, section


def options_of(parser: ArgumentParser) -> set[str]:
    """Return the names of all options of a parser and of its commands."""
    names = {name for action in parser._actions for name in action.option_strings}
    return names.union(*map(options_of, commands_of(parser).values()))


def every_subclass(kind: type[errors.ClientError]) -> set[type[errors.ClientError]]:
    return {kind}.union(*map(every_subclass, kind.__subclasses__()))


class ManualTests(SynchronousTestCase):
    def test_it_has_every_option_and_no_other(self) -> None:
        # In the sections that explain them, not in the synopsis with its ``-lR``.
        explained = section("DESCRIPTION")
        flags = set()
        for line in re.findall(r"^\.It (Fl .*)$", explained, re.MULTILINE):
            flags |= {f"-{flag}" for flag in re.findall(r"Fl (\S+)", line)}
        parsers = parsers_with(CLIENT_COMMANDS).values()
        expected = options_of(program_parser(COMMANDS)).union(*map(options_of, parsers))
        self.assertEqual(flags, expected)

    def test_it_has_every_command_and_no_other(self) -> None:
        commands = set()
        for line in re.findall(r"^\.It Cm (.*)$", section("DESCRIPTION"), re.MULTILINE):
            # Several share an explanation; what is in italics, or a choice, is no command.
            words = re.split(r" (?:Ar|Op|Cm) ", line)[0]
            commands |= set(words.split(" , "))
        expected = {*commands_of(program_parser(COMMANDS)), *parsers_with(CLIENT_COMMANDS)}
        self.assertEqual(commands, expected)

    def test_synopsis_has_every_command_of_the_command_line(self) -> None:
        commands = re.findall(r"^\.Cm (.*)$", section("SYNOPSIS"), re.MULTILINE)
        named = {word for line in commands for word in line.split(" | ")}
        self.assertEqual(named - {"bash", "zsh", "fish"}, {each.name for each in COMMANDS})

    def test_it_has_every_exit_status_and_no_other(self) -> None:
        documented = {int(number) for number in re.findall(r"^\.It (\d+)$", TEXT, re.MULTILINE)}
        known = {kind.exit_status for kind in every_subclass(errors.ClientError)}
        self.assertEqual(documented, known.union(STATUSES.values()))

    def test_it_names_the_environment_and_the_files(self) -> None:
        for name in ("NATPROXY_SERVER", "NATPROXY_CONFIG", "NATPROXY_CONTROL", "XDG_STATE_HOME"):
            self.assertIn(f".It Ev {name}\n", section("ENVIRONMENT"))
        for path in (".NAME.part", ".NAME.part.json", "~/.local/state/natproxy/history"):
            self.assertIn(f".It Pa {path}\n", section("FILES"))


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff here")
def test_groff_reports_no_error() -> None:
    run = subprocess.run(
        ["groff", "-ww", "-mdoc", "-Tascii", PAGE], capture_output=True, timeout=30, check=True
    )
    assert run.stderr == b""
    assert run.stdout


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="there is no mandoc here")
def test_mandoc_reports_no_error() -> None:
    run = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", PAGE], capture_output=True, timeout=30
    )
    assert run.stdout == b""
