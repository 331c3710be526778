"""The reply to a ``PACK``: several small files, each as a record.

A record is a line, as in a page of ``LS``, and the bytes of the file; or a line with an error
code, and nothing. The records are those of the first names of the command, in order. A reply may
end before the last name: the client sends the rest again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from natproxy.metadata import FILE, Entry, Metadata
from natproxy.protocol.arguments import MAX_NAMES, ROOT, decode_name, encode_name
from natproxy.protocol.metadata import format_entry, parse_metadata
from natproxy.protocol.text import WireError, printable
from natproxy.protocol.verbs import MAX_LINE

PACK_SIZE = 1 << 20
"""Bytes of a body: it ends with the record that reaches this size, or before."""

MAX_PACKED = 65_536
"""Bytes of the largest file that is packed."""

LONGEST_RECORD_LINE = 2 * MAX_LINE
"""Bytes of the line of a record: metadata and a name that fits on a command's line."""

LARGEST_PACK = PACK_SIZE + LONGEST_RECORD_LINE + MAX_PACKED
"""Bytes of a body that a client accepts."""

_NAMES_SPACE = MAX_LINE - len(b"PACK")
# Bytes for the words of a record besides its name, with an etag of 24 characters.
_RECORD_WORDS = 100


class PackRecord(NamedTuple):
    """What a ``PACK`` replies for one name.

    :ivar name: of the file.
    :ivar metadata: of the one state of the file that was read; ``None`` if it was not packed.
    :ivar data: the bytes of the file.
    :ivar code: of the error: one of `natproxy.protocol.errors`; 0 if the file is there.
    """

    name: bytes
    metadata: Metadata | None
    data: bytes | memoryview
    code: int = 0


def format_packed(entry: Entry) -> bytes:
    """Return the line of a file whose bytes follow, line feed included."""
    return format_entry(entry)


def format_refused(code: int, name: bytes) -> bytes:
    """Return the line of a file that is not packed, line feed included."""
    return b"error=%d %b\n" % (code, encode_name(name) or ROOT)


def parse_pack(body: bytes, names: Sequence[bytes]) -> list[PackRecord]:
    """Parse the body of the reply to a ``PACK``.

    :param names: of the command, in order.
    :return: the records of the first names, one at least. Their data are views of the body.
    :raises WireError: if a record is malformed, incomplete, not the one of the next name, or of
        a file larger than `MAX_PACKED`; if there are more records than names, or none.
    """
    records = []
    view = memoryview(body)
    end = len(body)
    position = 0
    match = _usual_record().match
    for name in names:
        if position == end:
            break
        found = match(body, position)
        if found is None:
            record, position = _other_record(body, view, position)
        else:
            size, mtime, etag, word = found.groups()
            begin = found.end()
            position = begin + int(size)
            metadata = Metadata(
                FILE, int(size), int(mtime.replace(b".", b"")), etag.decode("ascii")
            )
            record = PackRecord(word, metadata, view[begin:position])
        if record.name != name:
            raise WireError(f"a pack that replies for '{printable(record.name, 80)}' out of order")
        if position > end or len(record.data) > MAX_PACKED:
            raise WireError(f"a pack with too many or too few bytes of '{printable(name, 80)}'")
        records.append(record)
    if position != end or not records:
        raise WireError("a pack of another number of files")
    return records


@cache
def _usual_record() -> re.Pattern[bytes]:
    """Return the expression of nearly every record; others are parsed as a page's lines are.

    It is compiled when it is needed: most commands have no use for it.
    """
    return re.compile(
        rb"type=file size=([0-9]{1,5}) mtime=([0-9]{1,18}\.[0-9]{9}) etag=([!-~]{1,128})"
        rb" ([!-$&-~]+)\n"
    )


def _other_record(body: bytes, view: memoryview, position: int) -> tuple[PackRecord, int]:
    """Return a record whose line is not of the usual form, and the position of its end."""
    feed = body.find(b"\n", position, position + LONGEST_RECORD_LINE)
    if feed < 0:
        raise WireError("a pack that ends inside a line, or has a line that is too long")
    begin = feed + 1
    words, _, word = body[position:feed].rpartition(b" ")
    name = b"" if word == ROOT else decode_name(word)
    for each in words.split():
        error = re.fullmatch(rb"error=([1-5][0-9]{2})", each)
        if error is not None:
            return PackRecord(name, None, b"", int(error[1])), begin
    metadata = parse_metadata(words)
    if metadata.type != FILE:
        raise WireError(f"a pack with a {metadata.type}: '{printable(name, 80)}'")
    end = begin + metadata.size
    return PackRecord(name, metadata, view[begin:end]), end


def grouped_names(files: Iterable[tuple[bytes, int]]) -> Iterator[list[bytes]]:
    """Yield the names of files in groups, each for one ``PACK`` that needs not be repeated.

    The line of a group's command is not longer than `MAX_LINE`, and the body of the reply is
    about `PACK_SIZE`, if the sizes are right.

    :param files: names and sizes in bytes.
    """
    group: list[bytes] = []
    line = body = 0
    for name, size in files:
        word = len(b" " + (encode_name(name) or ROOT))
        record = _RECORD_WORDS + word + size
        if group and (
            len(group) == MAX_NAMES or line + word > _NAMES_SPACE or body + record > PACK_SIZE
        ):
            yield group
            group, line, body = [], 0, 0
        group.append(name)
        line += word
        body += record
    if group:
        yield group
