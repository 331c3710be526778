"""The protocol's grammar, once, for the server, the proxy and the client.

Here stand the verbs, how commands and reply headers are read and written, how
a reply is framed, and an incremental reply parser. All of it works on bytes
that somebody else has received: no socket, no reactor and no file may be
opened here. The contract itself is ``docs/protocol.md``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_LINE = 16_384
"""The longest line, command or header, in bytes, without its line feed."""

MAX_SIZE = 2**63 - 1
"""The largest size that a header may promise, in bytes: that of ``off_t``."""

END = b"END"

UNKNOWN_COMMAND = "unknown command"
FILE_NOT_FOUND = "file not found"
LINE_TOO_LONG = "line too long"
EMPTY_RESPONSE = "empty response from server"

_COUNTED_HEADER = re.compile(rb"OK ([0-9]{1,19})(?: .*)?")
_ERROR_HEADER = re.compile(rb"ERR(?: (.*))?")
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\\]"
)


class WireError(ValueError):
    """Bytes that break the grammar. Its text names what and why, on one line."""


class Framing(enum.Enum):
    """What follows the header line of a reply that begins with ``OK``."""

    NOTHING = "nothing"
    COUNTED = "counted"
    """``OK <n> ...``, then exactly ``n`` bytes."""
    LISTING = "listing"
    """``OK``, then lines up to and including ``END``."""


@dataclass(frozen=True)
class Verb:
    """One row of the protocol's table of verbs."""

    word: bytes
    framing: Framing
    takes_name: bool


VERBS = {
    verb.word: verb
    for verb in (
        Verb(b"LIST", Framing.LISTING, takes_name=False),
        Verb(b"DOWNLOAD", Framing.COUNTED, takes_name=True),
    )
}
"""Every verb that natproxy knows. A new ability is a new row, never a new argument."""


@dataclass(frozen=True)
class Command:
    """A command as it travels: one line.

    :ivar verb: the first word, in upper case; not necessarily one of `VERBS`.
    :ivar name: what follows the first run of white space; empty without one.
    :ivar line: the line to send on, without its line feed.
    """

    verb: bytes
    name: bytes
    line: bytes

    @property
    def known(self) -> bool:
        """Whether the verb is one of `VERBS`."""
        return self.verb in VERBS

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
    """Write a command as the line to send, line feed included.

    :param word: one of `VERBS`.
    :raises WireError: for a name that version 1 cannot carry: one that is missing,
        holds CR, LF or NUL, begins with white space, or makes the line too long; and
        for any name with a verb that takes none.
    """
    if not VERBS[word].takes_name:
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
    line = word + b" " + name
    if len(line) > MAX_LINE:
        raise WireError(f"file name of {len(name)} bytes is too long: a line holds {MAX_LINE}")
    return line + b"\n"


def listable(name: bytes) -> bool:
    """Tell whether ``LIST`` can carry this file name on a line of its own."""
    return name != END and b"\n" not in name and b"\r" not in name


def error_line(message: str) -> bytes:
    """Write the reply for a failure, line feed included.

    :param message: its line ends become spaces; what does not fit into ASCII is escaped.
    """
    return b"ERR " + " ".join(message.split()).encode("ascii", "backslashreplace") + b"\n"


@dataclass(frozen=True)
class Header:
    """The first line of a reply, understood.

    :ivar line: as received, without its line feed.
    :ivar error: the message after ``ERR``, or ``None`` when the reply is not an error.
    :ivar size: the promised number of bytes; 0 unless the reply is counted.
    :ivar framing: what follows this line.
    """

    line: bytes
    error: bytes | None
    size: int
    framing: Framing


def parse_header(line: bytes, framing: Framing) -> Header:
    """Read the first line of a reply to a command whose ``OK`` is framed so.

    :param line: without its line feed.
    :raises WireError: for a line that breaks the framing rule, so that nobody can
        say where the reply ends: ``OK abc`` to a ``DOWNLOAD``, a negative or absurd
        size, neither ``OK`` nor ``ERR``.
    """
    if len(line) > MAX_LINE:
        raise WireError("reply header too long")
    error = _ERROR_HEADER.fullmatch(line)
    if error is not None:
        return Header(line, error[1] or b"", 0, Framing.NOTHING)
    if framing is Framing.COUNTED:
        counted = _COUNTED_HEADER.fullmatch(line)
        if counted is None or int(counted[1]) > MAX_SIZE:
            raise WireError(f"malformed reply header '{printable(line, 80)}'")
        return Header(line, None, int(counted[1]), framing)
    if framing is Framing.LISTING and line != b"OK":
        raise WireError(f"malformed reply header '{printable(line, 80)}'")
    return Header(line, None, 0, framing)


class CountedBody:
    """What is still to come of a body of known size.

    :ivar remaining: bytes still missing.
    """

    __slots__ = ("remaining",)

    def __init__(self, size: int) -> None:
        self.remaining = size

    def advance(self, size: int) -> None:
        """Note that so many of the body's own bytes have gone another way."""
        self.remaining -= size

    @property
    def complete(self) -> bool:
        """Whether the whole body has been taken."""
        return self.remaining == 0

    @property
    def missing(self) -> str:
        """What has not come yet, in words."""
        return f"{self.remaining} bytes"

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Split received bytes into the body's own and the surplus after its end."""
        body = data[: self.remaining]
        self.remaining -= len(body)
        return body, data[len(body) :]


class ListingBody:
    """A listing up to its ``END`` line, of which only the last few bytes are remembered."""

    __slots__ = ("_tail", "complete")

    _STOP = b"\n" + END + b"\n"

    def __init__(self) -> None:
        self.complete = False
        # The header's own line feed: END may be the very first line.
        self._tail = b"\n"

    @property
    def missing(self) -> str:
        """What has not come yet, in words."""
        return "" if self.complete else "the rest up to END"

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Split received bytes into the listing's own, ``END`` included, and the surplus."""
        if self.complete:
            return b"", data
        window = self._tail + data
        found = window.find(self._STOP)
        if found < 0:
            self._tail = window[1 - len(self._STOP) :]
            return data, b""
        self.complete = True
        end = found + len(self._STOP) - len(self._tail)
        return data[:end], data[end:]


Body = CountedBody | ListingBody


def body_of(header: Header) -> Body | None:
    """Make the counter for what follows a header; ``None`` when nothing does."""
    if header.framing is Framing.COUNTED and header.size:
        return CountedBody(header.size)
    if header.framing is Framing.LISTING:
        return ListingBody()
    return None


class ReplyParser:
    """Reads one reply from pieces of any size.

    Feed it what was received; it gives the header once, through `header`, and the
    body's bytes as the return values of `feed`. It keeps no more than one line.

    :ivar header: `None` until the header line is complete.
    :ivar surplus: bytes that came after the end of the reply.
    """

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._line = b""
        self._body: Body | None = None
        self.header: Header | None = None
        self.surplus = b""

    @property
    def complete(self) -> bool:
        """Whether the reply has been received to its end."""
        return self.header is not None and (self._body is None or self._body.complete)

    @property
    def missing(self) -> str:
        """What has not come yet, in words."""
        if self.header is None:
            return "the whole reply"
        return "" if self._body is None else self._body.missing

    def feed(self, data: bytes) -> bytes:
        """Take received bytes and return those of the body.

        :raises WireError: as `parse_header` does, or for a header over `MAX_LINE`.
        """
        if self.header is None:
            line, found, data = (self._line + data).partition(b"\n")
            if not found and len(line) <= MAX_LINE:
                self._line = line
                return b""
            self.header = parse_header(line, self._framing)
            self._body = body_of(self.header)
        if self._body is None:
            self.surplus += data
            return b""
        body, surplus = self._body.take(data)
        self.surplus += surplus
        return body


class ListingNames:
    """Reads the names out of a listing's bytes, which come in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give each name whose line is complete.

        The empty lines of old servers and the closing ``END`` are left out.

        :raises WireError: for a line over `MAX_LINE`.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in (*lines, self._rest):
            if len(line) > MAX_LINE:
                raise WireError(f"a line of the listing is longer than {MAX_LINE} bytes")
        return (line for line in lines if line and line != END)


def printable(text: bytes, limit: int = 1024) -> str:
    """Bytes from the network or the file system, made fit for a log or a terminal.

    UTF-8 is shown as it is; control characters, backslashes and bytes that are not
    UTF-8 are escaped, so that no line can be forged and no terminal driven.

    :param limit: of the text, in characters; what is cut is marked with ``...``.
    """
    if len(text) <= limit and text.isascii():
        plain = text.decode("ascii")
        if plain.isprintable() and "\\" not in plain:
            return plain
    shown = text[: 4 * limit + 4].decode("utf-8", "surrogateescape")
    shown = _UNPRINTABLE.sub(lambda match: _escape(match[0]), shown)
    shown = re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", shown)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
