"""What follows ``OK``: metadata, ranges, digests, and the pages and lines of ``LS``."""

from __future__ import annotations

from fuzz.oracles import is_safe
from fuzz.pieces import pieces_of
from natproxy.metadata import UNREAD_METADATA, Entry
from natproxy.protocol import (
    MORE,
    EntryLines,
    Framing,
    WireError,
    format_digest,
    format_entry,
    format_metadata,
    format_page,
    format_range,
    parse_digest,
    parse_entry,
    parse_header,
    parse_metadata,
    parse_page,
    parse_range,
)

WORDS = (
    "type=file",
    "type=dir",
    "size=",
    "mtime=",
    "etag=",
    "unread=1",
    "sha256=",
    "offset=",
    "after=",
)


def check(data: bytes) -> None:
    """Check the first line as the words of each reply, and all as a page."""
    whole, pieces = pieces_of(data)
    line = whole.partition(b"\n")[0]
    for each in (check_metadata, check_digest, check_range, check_page, check_entry):
        try:
            each(line)
        except WireError as error:
            assert is_safe(str(error))
    check_lines(whole, pieces)


def check_metadata(line: bytes) -> None:
    """Check that metadata are those of their own words."""
    found = parse_metadata(line)
    assert parse_metadata(format_metadata(found)) == found


def check_digest(line: bytes) -> None:
    """Check a digest in the same manner."""
    found = parse_digest(line)
    assert parse_digest(format_digest(found)) == found


def check_range(line: bytes) -> None:
    """Check the range of a header in the same manner."""
    header = parse_header(line, Framing.COUNTED)
    if header.error is None:
        found = parse_range(header.size, header.words)
        assert 0 <= found.offset <= found.offset + found.length <= found.metadata.size
        again = parse_header(format_range(found)[:-1], Framing.COUNTED)
        assert parse_range(again.size, again.words) == found


def check_page(line: bytes) -> None:
    """Check the header of a page in the same manner."""
    found = parse_page(line)
    header = parse_header(format_page(5, found)[:-1], Framing.COUNTED)
    assert parse_page(header.words) == found


def check_entry(line: bytes) -> None:
    """Check an entry in the same manner."""
    found = parse_entry(line)
    if found.metadata == UNREAD_METADATA:
        # The mark is for directories: what has no metadata needs none.
        found = found._replace(unread=False)
    assert parse_entry(format_entry(found)[:-1]) == found


def check_lines(whole: bytes, pieces: list[bytes]) -> None:
    """Check that the entries of a page are those of its lines, in whatever pieces they come."""
    expected = slowly(whole)
    assert entries_of([whole]) == expected
    assert entries_of(pieces) == expected


def entries_of(pieces: list[bytes]) -> tuple[list[Entry], bool] | None:
    """Return the entries of a page, and whether there are more; ``None`` if it is malformed."""
    reader = EntryLines()
    entries: list[Entry] = []
    try:
        for piece in pieces:
            entries += reader.feed(piece)
        reader.end()
    except WireError as error:
        assert is_safe(str(error))
        return None
    return entries, reader.more


def slowly(whole: bytes) -> tuple[list[Entry], bool] | None:
    """Return the same, parsed line by line."""
    *lines, rest = whole.split(b"\n")
    more = bool(lines) and lines[-1] == MORE
    try:
        entries = [parse_entry(line) for line in lines[: len(lines) - more]]
    except WireError:
        return None
    return None if rest else (entries, more)
