"""The prompt on a terminal: editing, completion and a history."""

from __future__ import annotations

import asyncio
import os
import threading
from argparse import ArgumentParser
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import suppress

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from natproxy.cli.candidates import ManyNames
from natproxy.cli.shell.suggestions import Suggester


def reader(
    server: str,
    parsers: Mapping[str, ArgumentParser],
    directory: Callable[[], bytes],
    names: ManyNames,
) -> Callable[[str], str]:
    """Return a function that reads a line from the terminal.

    :param server: whose names are completed.
    :param parsers: of the commands that are completed, by name.
    :param directory: returns the directory on the server that paths are relative to.
    :param names: on servers.
    """
    session: PromptSession[str] = PromptSession(
        history=history(),
        completer=SuggestingCompleter(Suggester(server, parsers, directory, names)),
        complete_while_typing=False,
        key_bindings=bindings(),
    )
    return session.prompt


class SuggestingCompleter(Completer):
    """Finds completions in a thread, so that the user does not have to wait for the server."""

    def __init__(self, suggester: Suggester) -> None:
        self._suggester = suggester

    def get_completions(self, document: Document, _: CompleteEvent) -> Iterator[Completion]:
        """Yield completions of the word before the cursor."""
        line = document.text_before_cursor
        start, suggestions = self._suggester.suggest(line)
        # A completed word ends with a space, unless one follows already.
        spaced = document.current_char == " "
        for each in suggestions:
            text = each.text.removesuffix(" ") if spaced else each.text
            yield Completion(text, start - len(line), each.shown, each.note)

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """Yield completions when the thread has found them."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Completion]] = loop.create_future()

        def find() -> None:
            completions = list(self.get_completions(document, complete_event))
            with suppress(RuntimeError):
                # If the loop is closed, the prompt has ended.
                loop.call_soon_threadsafe(set_result, completions)

        def set_result(completions: list[Completion]) -> None:
            if not found.done():
                found.set_result(completions)

        # A daemon thread: asyncio waits for its executor's threads at the end of the line.
        threading.Thread(target=find, name="completion", daemon=True).start()
        for completion in await found:
            yield completion


def bindings() -> KeyBindings:
    """Return the key bindings for completion that differ from the defaults."""
    keys = KeyBindings()

    @Condition
    def choosing() -> bool:
        from prompt_toolkit.application import get_app

        state = get_app().current_buffer.complete_state
        return state is not None and state.current_completion is not None

    @keys.add("tab")
    def complete(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and len(buffer.complete_state.completions) > 1:
            buffer.complete_next()
        else:
            # The completed word may be a directory: complete its entries next.
            buffer.complete_state = None
            buffer.start_completion(insert_common_part=True)

    @keys.add("enter", filter=choosing)
    def choose(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        several = buffer.complete_state is not None and len(buffer.complete_state.completions) > 1
        buffer.complete_state = None
        if not several:
            buffer.validate_and_handle()

    return keys


def history() -> History:
    """Return the history: in a file if it can be written, else in memory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.expanduser("~/.local/state")
        if not os.path.isabs(state):
            # The user has no home directory.
            return InMemoryHistory()
    directory = os.path.join(state, "natproxy")
    path = os.path.join(directory, "history")
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        return InMemoryHistory()
    return _FileHistory(path)


class _FileHistory(FileHistory):
    """Ignores lines that cannot be written to the file."""

    def store_string(self, string: str) -> None:
        with suppress(OSError, UnicodeError):
            super().store_string(string)
