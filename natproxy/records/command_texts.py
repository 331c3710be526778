"""Verb and file name of a command, as records have them."""

from __future__ import annotations

from natproxy.protocol import (
    VERBS,
    Command,
    Naming,
    encode_name,
    name_of,
    names_of,
    printable,
)
from natproxy.records.packed import MOST, format_packed

LONG_NAME = 256
"""Characters of a name from which on the ring of events counts it; shorter ones need 16 MiB."""

CACHED = 1024
"""Commands of which verb and name are cached."""


def verb_and_name(command: Command, every: bool = False) -> tuple[str, str]:
    """Return verb and file name of a command as records have them.

    :param every: whether the name has all files of a command that names several.
    """
    command = command.shown
    verb = command.verb.decode() if command.known else printable(command.verb, 80)
    name = _encoded(name_of(command))
    files = files_of(command)
    if files < 2:
        return verb, name
    others = [_encoded(other) for other in names_of(command)[1:MOST]] if every else None
    return verb, format_packed(name, files, others)


class CommandTexts:
    """Verbs and file names of commands as records have them; those of the last ones are cached.

    :param every: as for `verb_and_name`.
    :param longest: bytes of a command that is cached.
    """

    def __init__(self, every: bool, longest: int) -> None:
        self._every = every
        self._longest = longest
        self._texts: dict[bytes, tuple[str, str]] = {}

    def find(self, command: Command) -> tuple[str, str]:
        """Return verb and file name of a command."""
        found = self._texts.get(command.line)
        if found is None:
            found = verb_and_name(command, self._every)
            if len(command.line) <= self._longest:
                if len(self._texts) >= CACHED:
                    self._texts.clear()
                self._texts[command.line] = found
        return found


def files_of(command: Command) -> int:
    """Return how many files a command names."""
    verb = VERBS.get(command.verb)
    if verb is not None and verb.naming is Naming.SEVERAL:
        return len(command.name.split())
    return 1 if name_of(command) else 0


def _encoded(name: bytes) -> str:
    if name.isascii():
        text = name.decode("ascii")
        if text.isprintable() and "%" not in text and " " not in text:
            # Most names are the same when they are encoded.
            return text
    return encode_name(name).decode("ascii")
