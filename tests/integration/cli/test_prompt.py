"""The keys, the completion and the history of the prompt, without a terminal."""

from __future__ import annotations

import os
from unittest import mock

from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.candidates import ManyNames
from natproxy.cli.shell import prompt
from natproxy.cli.shell.suggestions import Suggestion


class Scripted:
    """Suggests texts from a list."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    def suggest(self, line: str) -> tuple[int, list[Suggestion]]:
        start = line.rfind(" ") + 1
        fitting = [text for text in self._texts if text.startswith(line[start:])]
        return start, [Suggestion(text, text) for text in fitting]


class KeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        state = os.path.realpath(self.mktemp())
        environment = mock.patch.dict(os.environ, XDG_STATE_HOME=state)
        environment.start()
        self.addCleanup(environment.stop)
        self.directory = os.path.join(state, "natproxy")

    def read(self, typed: str, *texts: str) -> str:
        """Type keys one after the other, each when the last one has been processed."""
        self.patch(prompt, "Suggester", lambda *_: Scripted(*texts))
        with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
            read = prompt.reader("server:1", {}, bytes, ManyNames())
            session = read.__self__  # type: ignore[attr-defined]
            waiting = list(typed)

            def next_key(buffer: object = None) -> None:
                if waiting:
                    keys.send_text(waiting.pop(0))

            buffer = session.default_buffer
            for event in (buffer.on_text_changed, buffer.on_completions_changed):
                event += next_key
            return read("> ", pre_run=next_key)  # type: ignore[call-arg]

    def test_single_completion_is_inserted(self) -> None:
        self.assertEqual(self.read("get h\t\r", "hello.txt ", "other "), "get hello.txt ")

    def test_common_part_of_completions_is_inserted(self) -> None:
        self.assertEqual(self.read("h\tp\r", "hello ", "help "), "help")

    def test_history_is_readable_by_its_owner_only(self) -> None:
        remembered = prompt.history()
        self.assertIsInstance(remembered, FileHistory)
        remembered.append_string("first")
        remembered.append_string("\ud800 has no bytes")
        self.assertEqual(os.stat(self.directory).st_mode & 0o777, 0o700)
        path = os.path.join(self.directory, "history")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(list(prompt.history().load_history_strings())[-1], "first")

    def test_history_that_cannot_be_written_is_kept_in_memory(self) -> None:
        os.makedirs(os.path.dirname(self.directory))
        with open(self.directory, "w"):
            pass
        self.assertIsInstance(prompt.history(), InMemoryHistory)
