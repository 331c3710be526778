"""What rules decide about a command, by the file names that it contains."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from natproxy.protocol import MAX_NAMES, VERBS, Command, Naming, WireError, decode_name

_PLAIN_WORDS = re.compile(rb"[\s!-$&-~]*")

DEFAULT = "default"
UNKNOWN_VERB = "unknown-verb"
MALFORMED_NAME = "malformed-name"


class Decision(NamedTuple):
    """What the rules decide about a command.

    :ivar decided_by: the number of the rule as text, counted from 1; or `DEFAULT`,
        `UNKNOWN_VERB` or `MALFORMED_NAME`.
    :ivar reason: the same for people, with the note of the rule.
    :ivar name: the name that is denied, if it is one of several.
    """

    allowed: bool
    decided_by: str
    reason: str
    name: bytes | None = None


ALWAYS = Decision(True, "always", "always allowed")

UNKNOWN = Decision(False, UNKNOWN_VERB, "unknown verb, and a rule has names")
MALFORMED = Decision(False, MALFORMED_NAME, "the name cannot be compared with those of the rules")


Decide = Callable[[Command], Decision]
DecideName = Callable[[bytes], Decision]


def _by_no_name(decide_name: DecideName) -> Decide:
    """Decide about ``LIST``, which reads the served directory."""
    decision = decide_name(b"")
    return lambda command: decision


def _by_rest(decide_name: DecideName) -> Decide:
    def decide(command: Command) -> Decision:
        name = command.name
        decision = decide_name(name)
        if decision.allowed and name[-1:].isspace():
            # Another server may drop white space at the end of a line.
            return decide_name(name.rstrip())
        return decision

    return decide


def _by_word(decide_name: DecideName) -> Decide:
    def decide(command: Command) -> Decision:
        words = command.name.split(None, 1)
        if not words:
            return decide_name(b"")
        try:
            return decide_name(decode_name(words[0]))
        except WireError:
            return MALFORMED

    return decide


def _by_optional_word(decide_name: DecideName) -> Decide:
    by_word = _by_word(decide_name)

    def decide(command: Command) -> Decision:
        words = command.name.split(None, 1)
        return decide_name(b"") if words and b"=" in words[0] else by_word(command)

    return decide


def _by_all_words(decide_name: DecideName) -> Decide:
    def decide(command: Command) -> Decision:
        words = command.name.split()
        if not 0 < len(words) <= MAX_NAMES:
            return MALFORMED
        # Most names are not encoded: that is found out for all of them at once.
        plain = _PLAIN_WORDS.fullmatch(command.name)
        for word in words:
            try:
                name = word if plain else decode_name(word)
            except WireError:
                return MALFORMED
            decision = decide_name(name)
            if not decision.allowed:
                return decision._replace(name=name)
        return decision

    return decide


READERS: dict[Naming, Callable[[DecideName], Decide]] = {
    Naming.NONE: _by_no_name,
    Naming.REST: _by_rest,
    Naming.ENCODED: _by_word,
    Naming.OPTIONAL: _by_optional_word,
    Naming.SEVERAL: _by_all_words,
}


def names_in(command: Command) -> list[bytes | None]:
    """Return the names in a command; ``None`` for one that is malformed."""
    naming = VERBS[command.verb].naming
    words: list[bytes] = command.name.split()
    if naming is Naming.REST:
        return [command.name]
    if naming is Naming.NONE or (naming is Naming.OPTIONAL and words and b"=" in words[0]):
        return [b""]
    names: list[bytes | None] = []
    for word in words if naming is Naming.SEVERAL else words[:1]:
        try:
            names.append(decode_name(word))
        except WireError:
            names.append(None)
    return names
