"""The table of verbs, with the arguments and the framing of each, and the lines of commands."""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from natproxy.protocol.errors import error_line
from natproxy.protocol.text import WireError, printable

MAX_LINE = 16_384
"""The maximal length of a command or a header in bytes, without the line feed."""

END = b"END"

REDACTED = b"[redacted]"
"""Replaces a secret wherever a command is shown."""

AUTH = b"AUTH"
"""The verb whose argument is a token. Each daemon replies to it itself: see ``Command.secret``."""


MAX_TOKEN = 256
"""Characters of a token at most."""

_TOKEN = re.compile(f"[!-~]{{1,{MAX_TOKEN}}}")


class Framing(enum.Enum):
    """The framing of the bytes that follow the header line of an ``OK`` reply."""

    NOTHING = "nothing"
    COUNTED = "counted"
    """``OK <n> ...``, then exactly ``n`` bytes."""
    LISTING = "listing"
    """``OK``, then lines up to and including ``END``."""


class Naming(enum.Enum):
    """The part of a command's line that is a file name."""

    NONE = "none"
    REST = "rest"
    """The rest of the line after the verb, spaces included."""
    ENCODED = "encoded"
    """The next word, percent-encoded."""
    OPTIONAL = "optional"
    """The next word, percent-encoded, unless it contains a ``=``; or none."""
    SEVERAL = "several"
    """All words, one or more, each percent-encoded."""
    SECRET = "secret"  # noqa: S105  # no password
    """There is no name: the rest of the line is a token, which is never shown nor sent on."""


class Verb(NamedTuple):
    """One row of the protocol's table of verbs.

    :ivar naming: the position of the file name.
    :ivar version: the first version of the protocol that has the verb.
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
        return self.naming in (Naming.REST, Naming.ENCODED, Naming.SEVERAL)


VERBS = {
    verb.word: verb
    for verb in (
        Verb(b"LIST", Framing.LISTING, Naming.NONE),
        Verb(b"DOWNLOAD", Framing.COUNTED, Naming.REST),
        Verb(b"FEAT", Framing.LISTING, Naming.NONE, 2),
        Verb(b"STAT", Framing.NOTHING, Naming.ENCODED, 2),
        Verb(b"GET", Framing.COUNTED, Naming.ENCODED, 2, (b"offset", b"length", b"if-match")),
        Verb(b"LS", Framing.COUNTED, Naming.OPTIONAL, 2, (b"depth", b"after", b"limit")),
        Verb(b"PACK", Framing.COUNTED, Naming.SEVERAL, 2),
        Verb(b"HASH", Framing.NOTHING, Naming.ENCODED, 2, (b"offset", b"length", b"alg")),
        Verb(AUTH, Framing.NOTHING, Naming.SECRET, 2),
    )
}
"""Every verb that natproxy implements. A new feature is a new row, not a new argument."""


class Command(NamedTuple):
    """A command: one line.

    :ivar verb: the first word, in upper case; not necessarily one of `VERBS`.
    :ivar name: the text after the first white space, or empty. With a verb of version 2, it
        includes the arguments: see `natproxy.protocol.parse_arguments`.
    :ivar line: the line to send on, without its line feed.
    """

    verb: bytes
    name: bytes
    line: bytes

    def __repr__(self) -> str:
        """Return a representation without secrets."""
        return f"<Command {printable(self.shown.line)!r}>"

    @property
    def shown(self) -> Command:
        """The command without secrets, for logs, tables and messages."""
        if AUTH not in self.verb or self.line.strip().upper() == AUTH:
            return self
        return Command(AUTH, REDACTED, AUTH + b" " + REDACTED)

    def error_line(self, message: str, code: int | None = None) -> bytes:
        """Return the reply if the command fails: see `natproxy.protocol.error_line`.

        :param code: ignored if the command is not `coded`.
        """
        return error_line(message, code if self.coded else None)

    @property
    def secret(self) -> bool:
        """Whether the line may contain a token, so that no proxy may send it on.

        The verb is ``AUTH``, or contains it: the token may not be separated by white space, or
        something may precede the verb.
        """
        return AUTH in self.verb

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
        """The framing of an ``OK`` reply to this command."""
        verb = VERBS.get(self.verb)
        return Framing.NOTHING if verb is None else verb.framing


def parse_command(line: bytes) -> Command | None:
    """Parse a received line.

    :param line: without its line feed; a carriage return before it is dropped.
    :return: ``None`` for a blank line, which must be ignored. An unknown verb is not an error
        here: the proxy sends it on, the file server refuses it.
    """
    stripped = line.removesuffix(b"\r")
    words = stripped.split(None, 1)
    if not words:
        return None
    # The next peer drops one carriage return as well: it must not be part of the name.
    onward = line if stripped.endswith(b"\r") else stripped
    return Command(words[0].upper(), words[1] if len(words) > 1 else b"", onward)


def format_command(word: bytes, name: bytes = b"") -> bytes:
    """Return the line of a command of version 1, line feed included.

    :param word: one of `VERBS`.
    :raises WireError: for a name that version 1 cannot express: one that is missing, contains
        CR, LF or NUL, begins with white space, or makes the line too long; and for a name
        with a verb that takes none.
    """
    if VERBS[word].naming is Naming.NONE:
        if name:
            raise WireError(f"{word.decode()} takes no file name")
        return word + b"\n"
    if not name:
        raise WireError("missing file name")
    for byte, called in ((b"\r", "carriage return"), (b"\n", "line feed"), (b"\0", "NUL")):
        if byte in name:
            raise WireError(f"file name {printable(name)} holds a {called}: it cannot be sent")
    if name[:1].isspace():
        raise WireError(f"file name '{printable(name)}' begins with white space: it cannot be sent")
    return checked_line(word + b" " + name, name)


def format_auth(token: str) -> bytes:
    """Return the line of ``AUTH``, line feed included.

    :raises WireError: if the token is not one word of printable ASCII; the text is without it.
    """
    if not _TOKEN.fullmatch(token):
        raise WireError(
            f"the token is not valid: it is one word of at most {MAX_TOKEN} printable ASCII"
            " characters"
        )
    return b"%b %b\n" % (AUTH, token.encode("ascii"))


def parse_token(command: Command) -> bytes | None:
    """Return the token of a command ``AUTH``; ``None`` if it is malformed."""
    word = command.name.rstrip()
    valid = len(word) <= MAX_TOKEN and _TOKEN.fullmatch(word.decode("latin-1"))
    return word if valid else None


def checked_line(line: bytes, name: bytes) -> bytes:
    """Return a command's line with its line feed.

    :param name: the longest name in the line, for the message.
    :raises WireError: if the line is too long.
    """
    if len(line) > MAX_LINE:
        raise WireError(f"file name of {len(name)} bytes is too long: a line holds {MAX_LINE}")
    return line + b"\n"


def listable(name: bytes) -> bool:
    """Return whether ``LIST`` can list this file name."""
    return name != END and b"\n" not in name and b"\r" not in name
