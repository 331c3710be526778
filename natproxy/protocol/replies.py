"""How a reply is framed: its header, what follows it, and an incremental parser.

It works on bytes that somebody else has received. The rule is in ``docs/protocol.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from natproxy.protocol.arguments import MAX_SIZE
from natproxy.protocol.lines import Lines
from natproxy.protocol.text import WireError, printable
from natproxy.protocol.verbs import END, MAX_LINE, Framing

_COUNTED_HEADER = re.compile(rb"OK ([0-9]{1,19})(?: (.*))?")
_PLAIN_HEADER = re.compile(rb"OK(?: (.*))?")
_ERROR_HEADER = re.compile(rb"ERR(?: (.*))?")


class Header(NamedTuple):
    """The first line of a reply, understood.

    :ivar error: the message after ``ERR``, or ``None`` when the reply is not an error.
    :ivar size: the promised number of bytes; 0 unless the reply is counted.
    :ivar words: what else follows ``OK``.
    :ivar framing: what follows this line.
    """

    error: bytes | None
    size: int
    words: bytes
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
        return Header(error[1] or b"", 0, b"", Framing.NOTHING)
    if framing is Framing.COUNTED:
        counted = _COUNTED_HEADER.fullmatch(line)
        if counted is None or int(counted[1]) > MAX_SIZE:
            raise WireError(f"malformed reply header '{printable(line, 80)}'")
        return Header(None, int(counted[1]), counted[2] or b"", framing)
    if framing is Framing.LISTING and line != b"OK":
        raise WireError(f"malformed reply header '{printable(line, 80)}'")
    plain = _PLAIN_HEADER.fullmatch(line)
    return Header(None, 0, b"" if plain is None else plain[1] or b"", framing)


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
    body's bytes as the return values of `feed`. Besides the surplus, it keeps no more
    than one line.

    :ivar header: `None` until the header line is complete.
    :ivar surplus: bytes that came after the end of the reply.
    """

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._line = bytearray()
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

    @property
    def remaining(self) -> int:
        """Bytes of a counted body that are still missing; 0 for any other."""
        return self._body.remaining if isinstance(self._body, CountedBody) else 0

    def advance(self, size: int) -> None:
        """Note that so many of a counted body's own bytes were taken without `feed`."""
        assert isinstance(self._body, CountedBody)
        self._body.advance(size)

    def feed(self, data: bytes) -> bytes:
        """Take received bytes and return those of the body.

        :raises WireError: as `parse_header` does, or for a header over `MAX_LINE`.
        """
        if self.header is None:
            line, found, data = data.partition(b"\n")
            self._line += line
            if not found and len(self._line) <= MAX_LINE:
                return b""
            self.header = parse_header(bytes(self._line), self._framing)
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
        self._lines = Lines()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give each name whose line is complete.

        The empty lines of old servers and the closing ``END`` are left out.

        :raises WireError: for a line over `MAX_LINE`.
        """
        return (line for line in self._lines.feed(data) if line and line != END)
