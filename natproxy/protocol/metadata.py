"""The replies of version 2: metadata, a range of a file, a digest, a page of a listing."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from natproxy.metadata import DIRECTORY, FILE, UNREAD_METADATA, Entry, Metadata
from natproxy.protocol.arguments import MAX_SIZE, Arguments, decode_name, encode_name
from natproxy.protocol.errors import CHANGED, RANGE_NOT_SATISFIABLE, Refusal
from natproxy.protocol.replies import Lines
from natproxy.protocol.text import WireError, printable

MORE = b"more"

_MTIME = re.compile(r"(-?)([0-9]{1,19})(?:\.([0-9]{1,9}))?")
_SIZE = re.compile(r"[0-9]{1,19}")
_TOKEN = re.compile(r"[!-~]{1,128}")
_HEX = re.compile(r"[0-9a-f]{64}")
_MORE_LINE = MORE + b"\n"
_UNREAD_WORDS = b"type=unread size=0 mtime=0.0 etag=-"


class Page(NamedTuple):
    """The header of an ``LS`` reply, except the length of the body.

    :ivar unread: number of entries on this page that could not be read: those of type
        `UNREAD`, and directories that are marked ``unread=1``.
    :ivar after: the name after which the next page begins; ``None`` if it is the last name on
        this page, or if there is no next page.
    """

    unread: int = 0
    after: bytes | None = None


class Range(NamedTuple):
    """The header of a ``GET`` reply.

    :ivar length: of the body, in bytes.
    :ivar offset: position in the file of the body's first byte.
    :ivar metadata: of the whole file.
    """

    length: int
    offset: int
    metadata: Metadata


class Digest(NamedTuple):
    """The reply to a ``HASH``.

    :ivar sha256: of the requested bytes, in hexadecimal.
    :ivar size: of the whole file, in bytes.
    :ivar etag: of the file, before and after it was read.
    """

    sha256: str
    size: int
    etag: str


def _mtime(nanoseconds: int) -> str:
    if nanoseconds < 0:
        return "-" + _mtime(-nanoseconds)
    digits = f"{nanoseconds:010}"
    return f"{digits[:-9]}.{digits[-9:]}"


def format_metadata(metadata: Metadata) -> bytes:
    """Return the words that follow ``OK`` in the reply to a ``STAT``."""
    kind, size, mtime_ns, etag = metadata
    return f"type={kind} size={size} mtime={_mtime(mtime_ns)} etag={etag}".encode("ascii")


def range_of(metadata: Metadata, arguments: Arguments) -> Range:
    """Return the range of a file that a command names, cut at the file's end.

    :raises Refusal: with code 412 if the file has another etag, with 416 if the range
        begins after the end.
    """
    if arguments.if_match not in (None, metadata.etag):
        raise Refusal(CHANGED, f"changed etag={metadata.etag}")
    if arguments.offset > metadata.size:
        raise Refusal(RANGE_NOT_SATISFIABLE, f"range size={metadata.size}")
    rest = metadata.size - arguments.offset
    length = rest if arguments.length is None else min(arguments.length, rest)
    return Range(length, arguments.offset, metadata)


def format_range(part: Range) -> bytes:
    """Return the header line of the reply to a ``GET``, line feed included."""
    metadata = part.metadata
    return (
        f"OK {part.length} offset={part.offset} size={metadata.size}"
        f" mtime={_mtime(metadata.mtime_ns)} etag={metadata.etag}\n"
    ).encode("ascii")


def format_digest(digest: Digest) -> bytes:
    """Return the words that follow ``OK`` in the reply to a ``HASH``."""
    return f"sha256={digest.sha256} size={digest.size} etag={digest.etag}".encode("ascii")


def format_entry(entry: Entry) -> bytes:
    """Return a line of ``LS``, line feed included."""
    name, metadata, unread = entry
    kind, size, mtime_ns, etag = metadata
    word = encode_name(name)
    if not unread and mtime_ns > 0:
        # Nearly every line of a page, in one expression: in half the time.
        seconds, rest = divmod(mtime_ns, 10**9)
        return b"type=%b size=%d mtime=%d.%09d etag=%b %b\n" % (
            kind.encode("ascii"),
            size,
            seconds,
            rest,
            etag.encode("ascii"),
            word,
        )
    if metadata == UNREAD_METADATA:
        return b"%b %b\n" % (_UNREAD_WORDS, word)
    return b"%b%b %b\n" % (format_metadata(metadata), b" unread=1" if unread else b"", word)


def format_page(length: int, page: Page = Page()) -> bytes:  # noqa: B008  # immutable
    """Return the header line of the reply to an ``LS``, line feed included.

    :param length: of the body, in bytes.
    """
    words = [b"OK %d" % length]
    if page.unread:
        words.append(b"unread=%d" % page.unread)
    if page.after is not None:
        words.append(b"after=" + encode_name(page.after))
    return b" ".join(words) + b"\n"


def parse_metadata(words: bytes) -> Metadata:
    """Parse the words that follow ``OK`` in the reply to a ``STAT``.

    :raises WireError: if a field is missing or malformed; unknown keys are ignored.
    """
    fields = _Fields(words)
    return Metadata(fields.token("type"), fields.size("size"), fields.mtime(), fields.token("etag"))


def parse_range(length: int, words: bytes) -> Range:
    """Parse the words that follow ``OK <length>`` in the reply to a ``GET``.

    :raises WireError: as `parse_metadata` does, or if the range is not in the file.
    """
    fields = _Fields(words)
    metadata = Metadata(FILE, fields.size("size"), fields.mtime(), fields.token("etag"))
    offset = fields.size("offset")
    if offset + length > metadata.size:
        raise WireError(f"a range outside of its file: '{printable(words, 80)}'")
    return Range(length, offset, metadata)


def parse_digest(words: bytes) -> Digest:
    """Parse the words that follow ``OK`` in the reply to a ``HASH``.

    :raises WireError: as `parse_metadata` does.
    """
    fields = _Fields(words)
    sha256 = fields.token("sha256").lower()
    if not _HEX.fullmatch(sha256):
        raise fields.malformed("sha256")
    return Digest(sha256, fields.size("size"), fields.token("etag"))


def parse_entry(line: bytes) -> Entry:
    """Parse a line of ``LS``, without its line feed.

    :raises WireError: as `parse_metadata` does, or if the name is malformed.
    """
    words, _, name = line.rpartition(b" ")
    return Entry(decode_name(name), parse_metadata(words), b"unread=1" in words.split())


def parse_page(words: bytes) -> Page:
    """Parse the words that follow ``OK <length>`` in the reply to an ``LS``.

    :raises WireError: if a field is malformed; unknown keys are ignored.
    """
    fields = _Fields(words)
    unread = fields.size("unread") if fields.has("unread") else 0
    return Page(unread, fields.name("after") if fields.has("after") else None)


class EntryLines:
    """Reads a page of ``LS`` from pieces of any size.

    :ivar more: whether there are entries after the last one of the page.
    """

    def __init__(self) -> None:
        self._lines = Lines()
        self.more = False

    def feed(self, data: bytes) -> list[Entry]:
        """Process received bytes, and return each entry whose line is complete.

        :raises WireError: for a line that is malformed, follows `MORE`, or is longer than
            `MAX_LINE`.
        """
        if not (self.more or self._lines.unfinished):
            entries = _usual_entries(data.removesuffix(_MORE_LINE))
            if entries is not None:
                self.more = data.endswith(_MORE_LINE)
                return entries
        entries = []
        for line in self._lines.feed(data):
            if self.more:
                raise WireError(f"a line after the last one of its page: '{printable(line, 80)}'")
            if line == MORE:
                self.more = True
            else:
                entries.append(parse_entry(line))
        return entries

    def end(self) -> None:
        """Check that the page is complete.

        :raises WireError: if it ends inside a line.
        """
        if self._lines.unfinished:
            raise WireError("a page that ends inside a line")


def _usual_entries(lines: bytes) -> list[Entry] | None:
    """Return the entries of whole lines; ``None`` if there is another line than usual ones.

    :raises WireError: if a name is malformed.
    """
    found = _usual_entry().findall(lines)
    # Each match is one whole line.
    if len(found) != lines.count(b"\n") or lines[-1:] != b"\n":
        return None
    return [
        Entry(
            decode_name(name) if b"%" in name else name,
            Metadata(
                FILE if kind == b"file" else DIRECTORY,
                int(size),
                int(mtime.replace(b".", b"")),
                str(etag, "ascii"),
            ),
            unread != b"",
        )
        for kind, size, mtime, etag, unread, name in found
    ]


@cache
def _usual_entry() -> re.Pattern[bytes]:
    """Return the expression of nearly every line of a page; others are parsed word by word.

    What it matches is not longer than `MAX_LINE`. It is compiled when it is needed: most
    commands list nothing.
    """
    return re.compile(
        rb"(?m)^type=(file|dir) size=([0-9]{1,18}) mtime=([0-9]{1,18}\.[0-9]{9})"
        rb" etag=([!-~]{1,128})( unread=1)? ([!-~]{1,16000})\n"
    )


class _Fields:
    """The ``key=value`` words of a reply."""

    def __init__(self, words: bytes) -> None:
        self._words = words
        pairs = (word.decode("ascii", "replace").partition("=") for word in words.split())
        self._values = {key: value for key, equals, value in pairs if equals}

    def has(self, key: str) -> bool:
        return key in self._values

    def malformed(self, key: str) -> WireError:
        return WireError(f"a reply without a proper {key}: '{printable(self._words, 80)}'")

    def token(self, key: str) -> str:
        value = self._values.get(key, "")
        if not _TOKEN.fullmatch(value):
            raise self.malformed(key)
        return value

    def size(self, key: str) -> int:
        value = self._values.get(key, "")
        if not _SIZE.fullmatch(value) or int(value) > MAX_SIZE:
            raise self.malformed(key)
        return int(value)

    def name(self, key: str) -> bytes:
        try:
            return decode_name(self._values.get(key, "").encode("ascii", "replace"))
        except WireError as error:
            raise self.malformed(key) from error

    def mtime(self) -> int:
        found = _MTIME.fullmatch(self._values.get("mtime", ""))
        if found is None:
            raise self.malformed("mtime")
        nanoseconds = int(found[2]) * 10**9 + int((found[3] or "").ljust(9, "0"))
        return -nanoseconds if found[1] else nanoseconds
