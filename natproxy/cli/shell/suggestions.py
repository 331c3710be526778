"""Suggestions for the word at the cursor: commands, options, names."""

from __future__ import annotations

import os
from argparse import Action, ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from natproxy.cli.candidates import ManyNames, local_names
from natproxy.cli.options import COMMAND, LOCAL, LOCAL_FILE, REMOTE, REMOTE_DIRECTORY
from natproxy.cli.parsing import summary_of
from natproxy.cli.shell.quoting import Word, quoted, read
from natproxy.protocol import printable


class Suggestion(NamedTuple):
    """A word that completes the typed one.

    :ivar text: that replaces the typed word, with the necessary quotes.
    :ivar shown: in the list of suggestions.
    :ivar note: what it does.
    """

    text: str
    shown: str
    note: str = ""


class Suggester:
    """Completes lines of the prompt.

    :param server: whose names complete a line that does not specify a server.
    :param parsers: of the commands, by name.
    :param directory: returns the directory on the server that paths are relative to.
    :param names: on servers; by default, those without TLS.
    """

    def __init__(
        self,
        server: str,
        parsers: Mapping[str, ArgumentParser],
        directory: Callable[[], bytes] = bytes,
        names: ManyNames | None = None,
    ) -> None:
        self._server = server
        self._parsers = parsers
        self._directory = directory
        self._names = names or ManyNames()

    def suggest(self, line: str) -> tuple[int, list[Suggestion]]:
        """Return the offset of the last word of a line, and suggestions that replace it.

        This may block for as long as the server takes to list names.
        """
        words, _ = read(line)
        word = Word("", len(line), len(line))
        if words and words[-1].end == len(line):
            word = words.pop()
        before = [each.text for each in words]
        return word.start, list(self._fitting(before, word))

    def _fitting(self, before: Sequence[str], word: Word) -> Iterator[Suggestion]:
        if not before:
            yield from self._verbs(word.text)
            return
        command = self._parsers.get(before[0].lower())
        if command is None:
            return
        expected = Expected(command, before[1:])
        if expected.value_of is not None:
            yield from self._values(expected.value_of, expected, word)
            return
        option, equals, value = word.text.partition("=")
        if expected.options and word.text.startswith("--") and equals:
            action = expected.flags.get(option)
            if action is not None and takes_value(action):
                for found in self._values(action, expected, word._replace(text=value)):
                    yield found._replace(text=f"{option}={found.text}")
            return
        if expected.options and word.text.startswith("-"):
            options = list(_options(command, word.text, before))
            yield from options
            if options:
                return
        if expected.positional is not None:
            yield from self._values(expected.positional, expected, word)

    def _values(self, action: Action, expected: Expected, word: Word) -> Iterator[Suggestion]:
        if action.choices is not None:
            yield from _plain(map(str, action.choices), word.text)
        elif action.metavar == COMMAND:
            yield from self._verbs(word.text)
        elif action.metavar in REMOTE:
            server = expected.server or self._server
            for name in self._names.starting_with(
                word.text, server, action.metavar == REMOTE_DIRECTORY, self._directory()
            ):
                yield _named(name, word.style)
        elif action.metavar in LOCAL:
            for path in local_names(word.text, action.metavar != LOCAL_FILE):
                yield _named(os.fsencode(path), word.style, local=True)

    def _verbs(self, typed: str) -> Iterator[Suggestion]:
        for name, command in self._parsers.items():
            if name.startswith(typed.lower()):
                yield Suggestion(f"{name} ", name, summary_of(command))


class Expected:
    """What may follow the words after a command.

    :ivar flags: the command's options by their names.
    :ivar value_of: the option whose value must follow; ``None`` if none must.
    :ivar positional: the positional argument that may follow; ``None`` if none may.
    :ivar options: whether an option may follow.
    :ivar server: the value of ``--server``; may be empty.
    """

    def __init__(self, command: ArgumentParser, words: Sequence[str]) -> None:
        actions = command._actions
        self.flags = {name: action for action in actions for name in action.option_strings}
        self.value_of: Action | None = None
        self.options = True
        self.server = ""
        positionals = 0
        for word in words:
            if self.value_of is not None:
                self._take(self.value_of, word)
                self.value_of = None
            elif self.options and word == "--":
                self.options = False
            elif self.options and word.startswith("-") and word != "-":
                name, equals, value = word.partition("=")
                action = self.flags.get(name)
                if action is not None and takes_value(action):
                    if equals:
                        self._take(action, value)
                    else:
                        self.value_of = action
            else:
                positionals += 1
        self.positional: Action | None = None
        for action in actions:
            if action.option_strings:
                continue
            if positionals == 0 or action.nargs in ("+", "*"):
                self.positional = action
                break
            positionals -= 1

    def _take(self, action: Action, value: str) -> None:
        if action.dest == "server":
            self.server = value


def takes_value(action: Action) -> bool:
    """Return whether an option has a value."""
    return action.nargs != 0


def _options(command: ArgumentParser, typed: str, before: Iterable[str]) -> Iterator[Suggestion]:
    for action in command._actions:
        fitting = [name for name in action.option_strings if name.startswith(typed)]
        repeatable = action.dest == "rules"
        if fitting and (repeatable or not set(action.option_strings) & set(before)):
            # The last name is the long one.
            yield Suggestion(f"{fitting[-1]} ", ", ".join(action.option_strings), action.help or "")


def _plain(values: Iterable[str], typed: str) -> Iterator[Suggestion]:
    for value in values:
        if value.startswith(typed):
            yield Suggestion(f"{value} ", value)


def _named(path: bytes, style: str, local: bool = False) -> Suggestion:
    directory = path.endswith(b"/")
    last = path.rstrip(b"/").rpartition(b"/")[2] + (b"/" if directory else b"")
    word = quoted(path, style, local) + ("" if directory else " ")
    return Suggestion(word, printable(last, 60))
