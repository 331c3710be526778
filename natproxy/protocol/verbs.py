"""The verbs, once: what each takes, and how its reply is framed.

Here too: how a command is read from its line, and how one of version 1 is written.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from natproxy.protocol.text import WireError, printable

MAX_LINE = 16_384
"""The longest line, command or header, in bytes, without its line feed."""

END = b"END"

REDACTED = b"[redacted]"
"""Stands for a secret wherever a command is shown."""


class Framing(enum.Enum):
    """What follows the header line of a reply that begins with ``OK``."""

    NOTHING = "nothing"
    COUNTED = "counted"
    """``OK <n> ...``, then exactly ``n`` bytes."""
    LISTING = "listing"
    """``OK``, then lines up to and including ``END``."""


class Naming(enum.Enum):
    """Which part of a command's line is a file name."""

    NONE = "none"
    REST = "rest"
    """All that follows the verb, spaces included."""
    ENCODED = "encoded"
    """The next word, percent-encoded."""
    OPTIONAL = "optional"
    """The next word, percent-encoded, unless there is none or it holds a ``=``."""


class Verb(NamedTuple):
    """One row of the protocol's table of verbs.

    :ivar naming: where its file name stands.
    :ivar version: of the protocol that brought it.
    :ivar keys: of the ``key=value`` words that may follow the name.
    """

    word: bytes
    framing: Framing
    naming: Naming
    version: int = 1
    keys: tuple[bytes, ...] = ()

    @property
    def needs_name(self) -> bool:
        """Whether a command without a file name is malformed."""
        return self.naming in (Naming.REST, Naming.ENCODED)


VERBS = {
    verb.word: verb
    for verb in (
        Verb(b"LIST", Framing.LISTING, Naming.NONE),
        Verb(b"DOWNLOAD", Framing.COUNTED, Naming.REST),
        Verb(b"FEAT", Framing.LISTING, Naming.NONE, 2),
        Verb(b"STAT", Framing.NOTHING, Naming.ENCODED, 2),
        Verb(b"GET", Framing.COUNTED, Naming.ENCODED, 2, (b"offset", b"length", b"if-match")),
        Verb(b"LS", Framing.COUNTED, Naming.OPTIONAL, 2, (b"depth", b"after", b"limit")),
        Verb(b"HASH", Framing.NOTHING, Naming.ENCODED, 2, (b"offset", b"length", b"alg")),
    )
}
"""Every verb that natproxy knows. A new ability is a new row, never a new argument."""


_AUTH = b"AUTH"


class Command(NamedTuple):
    """A command as it travels: one line.

    :ivar verb: the first word, in upper case; not necessarily one of `VERBS`.
    :ivar name: what follows the first run of white space; empty without one. With a verb
        of version 2, the arguments are still in it: see `natproxy.protocol.parse_arguments`.
    :ivar line: the line to send on, without its line feed.
    """

    verb: bytes
    name: bytes
    line: bytes

    def __repr__(self) -> str:
        """Return the command as it may be shown."""
        return f"<Command {printable(self.shown.line)!r}>"

    @property
    def shown(self) -> Command:
        """The command as logs, tables and messages may show it: without a secret.

        The argument of ``AUTH`` is secret, even if a character other than white space
        separates them, or nothing.
        """
        if not self.verb.startswith(_AUTH) or self.line.strip().upper() == _AUTH:
            return self
        return Command(_AUTH, REDACTED, _AUTH + b" " + REDACTED)

    @property
    def known(self) -> bool:
        """Whether the verb is one of `VERBS`."""
        return self.verb in VERBS

    @property
    def coded(self) -> bool:
        """Whether an error reply to this command begins with a code: version 2 has codes."""
        verb = VERBS.get(self.verb)
        return verb is not None and verb.version > 1

    @property
    def framing(self) -> Framing:
        """How an ``OK`` reply to this command is framed."""
        verb = VERBS.get(self.verb)
        return Framing.NOTHING if verb is None else verb.framing


def parse_command(line: bytes) -> Command | None:
    """Read a command from a received line.

    :param line: without its line feed; a carriage return before it is dropped.
    :return: ``None`` for a blank line, which is to be ignored. An unknown verb is
        not an error here: the proxy relays it, the server refuses it.
    """
    stripped = line.removesuffix(b"\r")
    words = stripped.split(None, 1)
    if not words:
        return None
    # The next peer strips one carriage return as well: it must not be one of the name's.
    onward = line if stripped.endswith(b"\r") else stripped
    return Command(words[0].upper(), words[1] if len(words) > 1 else b"", onward)


def format_command(word: bytes, name: bytes = b"") -> bytes:
    """Write a command of version 1 as the line to send, line feed included.

    :param word: one of `VERBS`.
    :raises WireError: for a name that version 1 cannot carry: one that is missing,
        holds CR, LF or NUL, begins with white space, or makes the line too long; and
        for any name with a verb that takes none.
    """
    if VERBS[word].naming is Naming.NONE:
        if name:
            raise WireError(f"{word.decode()} takes no file name")
        return word + b"\n"
    if not name:
        raise WireError("no file name given")
    for byte, called in ((b"\r", "carriage return"), (b"\n", "line feed"), (b"\0", "NUL")):
        if byte in name:
            raise WireError(f"file name {printable(name)} holds a {called}: it cannot be sent")
    if name[:1].isspace():
        raise WireError(f"file name '{printable(name)}' begins with white space: it cannot be sent")
    return checked_line(word + b" " + name, name)


def checked_line(line: bytes, name: bytes) -> bytes:
    """Add the line feed to a command's line.

    :raises WireError: if the line is too long, blaming the name.
    """
    if len(line) > MAX_LINE:
        raise WireError(f"file name of {len(name)} bytes is too long: a line holds {MAX_LINE}")
    return line + b"\n"


def listable(name: bytes) -> bool:
    """Tell whether ``LIST`` can carry this file name on a line of its own."""
    return name != END and b"\n" not in name and b"\r" not in name
