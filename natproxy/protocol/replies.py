"""The framing of replies: the header, the end of the body, and an incremental parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from natproxy.counts import byte_count
from natproxy.protocol.arguments import MAX_SIZE
from natproxy.protocol.text import WireError, printable
from natproxy.protocol.verbs import END, MAX_LINE, Framing

_COUNTED_HEADER = re.compile(rb"OK ([0-9]{1,19})(?: (.*))?")
_PLAIN_HEADER = re.compile(rb"OK(?: (.*))?")
_ERROR_HEADER = re.compile(rb"ERR(?: (.*))?")


class Header(NamedTuple):
    """The first line of a reply, parsed.

    :ivar error: the text after ``ERR``; ``None`` if the reply is not an error.
    :ivar size: the promised number of bytes; 0 unless the reply is counted.
    :ivar words: the rest of the line after ``OK`` and the size.
    :ivar framing: of the bytes that follow this line.
    """

    error: bytes | None
    size: int
    words: bytes
    framing: Framing


def parse_header(line: bytes, framing: Framing) -> Header:
    """Parse the first line of a reply.

    :param line: without its line feed.
    :param framing: of an ``OK`` reply to the command.
    :raises WireError: if the line breaks the framing rule, so that the end of the reply is
        unknown: ``OK abc`` to a ``DOWNLOAD``, a negative size or one over `MAX_SIZE`, or
        neither ``OK`` nor ``ERR``.
    """
    if len(line) > MAX_LINE:
        raise WireError("reply header too long")
    if framing is Framing.COUNTED:
        counted = _COUNTED_HEADER.fullmatch(line)
        if counted is not None and (size := int(counted[1])) <= MAX_SIZE:
            return Header(None, size, counted[2] or b"", framing)
    error = _ERROR_HEADER.fullmatch(line)
    if error is not None:
        return Header(error[1] or b"", 0, b"", Framing.NOTHING)
    if framing is Framing.COUNTED:
        raise WireError(f"malformed reply header '{printable(line, 80)}'")
    if framing is Framing.LISTING and line != b"OK":
        raise WireError(f"malformed reply header '{printable(line, 80)}'")
    plain = _PLAIN_HEADER.fullmatch(line)
    return Header(None, 0, b"" if plain is None else plain[1] or b"", framing)


class CountedBody:
    """Counts the bytes of a body of known size.

    :ivar remaining: bytes that have not been received yet.
    """

    __slots__ = ("remaining",)

    def __init__(self, size: int) -> None:
        self.remaining = size

    def advance(self, size: int) -> None:
        """Count bytes of the body that did not pass through `take`."""
        self.remaining -= size

    @property
    def complete(self) -> bool:
        """Whether the whole body has been received."""
        return self.remaining == 0

    @property
    def missing(self) -> str:
        """A description of the bytes that have not been received yet."""
        return byte_count(self.remaining)

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Split received bytes into those of the body and those after its end."""
        body = data[: self.remaining]
        self.remaining -= len(body)
        return body, data[len(body) :]


class ListingBody:
    """Finds the ``END`` line of a listing; keeps no more than its last few bytes."""

    __slots__ = ("_tail", "complete")

    _STOP = b"\n" + END + b"\n"

    def __init__(self) -> None:
        self.complete = False
        # The line feed of the header: END may be the first line.
        self._tail = b"\n"

    @property
    def missing(self) -> str:
        """A description of the bytes that have not been received yet."""
        return "" if self.complete else "the rest up to END"

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Split received bytes into those of the listing, ``END`` included, and those after it."""
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
    """Return the counter of the body that follows a header; ``None`` if there is no body."""
    if header.framing is Framing.COUNTED and header.size:
        return CountedBody(header.size)
    if header.framing is Framing.LISTING:
        return ListingBody()
    return None


class ReplyParser:
    """Parses one reply from pieces of any size.

    `feed` returns the bytes of the body. Besides the surplus, the parser keeps no more than
    one line.

    :ivar header: ``None`` until the header line is complete.
    :ivar surplus: bytes that were received after the end of the reply.
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
        """A description of the bytes that have not been received yet."""
        if self.header is None:
            return "the whole reply"
        return "" if self._body is None else self._body.missing

    @property
    def remaining(self) -> int:
        """Bytes of a counted body that have not been received yet; 0 for any other body."""
        return self._body.remaining if isinstance(self._body, CountedBody) else 0

    def advance(self, size: int) -> None:
        """Count bytes of a counted body that did not pass through `feed`."""
        assert isinstance(self._body, CountedBody)
        self._body.advance(size)

    def feed(self, data: bytes) -> bytes:
        """Process received bytes, and return those of the body.

        :raises WireError: as `parse_header` does, or for a header longer than `MAX_LINE`.
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


class Lines:
    """Splits received bytes into lines; keeps no more than one line."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def unfinished(self) -> bool:
        """Whether the last bytes received have no line feed yet."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Process received bytes, and return the complete lines, without their line feeds.

        :raises WireError: for a line longer than `MAX_LINE`.
        """
        first, *others = data.split(b"\n")
        self._rest += first
        lines = []
        if others:
            *lines, rest = bytes(self._rest), *others
            self._rest = bytearray(rest)
        if any(len(line) > MAX_LINE for line in (*lines, self._rest)):
            raise WireError(f"a line of the listing is longer than {MAX_LINE} bytes")
        return lines


class ListingNames:
    """Reads the names of a listing from pieces of any size."""

    def __init__(self) -> None:
        self._lines = Lines()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Process received bytes, and return each name whose line is complete.

        The empty lines of old servers and the final ``END`` are left out.

        :raises WireError: for a line longer than `MAX_LINE`.
        """
        return (line for line in self._lines.feed(data) if line and line != END)
