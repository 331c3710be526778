"""The body of a ``PACK``, for the names of the command."""

from __future__ import annotations

from fuzz.oracles import is_safe
from natproxy.metadata import FILE, Entry
from natproxy.protocol import (
    MAX_NAMES,
    MAX_PACKED,
    MAX_SIZE,
    PackRecord,
    Refusal,
    WireError,
    format_packed,
    format_refused,
    grouped_names,
    parse_command,
    parse_names,
    parse_pack,
)

WORDS = ("type=file", "size=", "mtime=0.000000000", "etag=x", "error=404", "error=413")


def check(data: bytes) -> None:
    """Check a body; its command is the line before it, ``PACK`` and names."""
    line, _, body = data.partition(b"\n")
    command = parse_command(b"PACK " + line)
    assert command is not None
    try:
        names = parse_names(command)
    except Refusal:
        return
    assert 0 < len(names) <= MAX_NAMES
    check_groups(names)
    try:
        records = parse_pack(body, names)
    except WireError as error:
        assert is_safe(str(error))
        return
    assert [record.name for record in records] == names[: len(records)]
    assert sum(len(record.data) for record in records) <= len(body)
    again = b"".join(map(formatted, records))
    assert parse_pack(again, names) == records


def formatted(record: PackRecord) -> bytes:
    """Return the bytes of a record."""
    if record.metadata is None:
        assert 100 <= record.code <= 599
        assert not record.data
        return format_refused(record.code, record.name)
    assert record.metadata.type == FILE
    assert len(record.data) == record.metadata.size <= MAX_PACKED
    return format_packed(Entry(record.name, record.metadata, False)) + record.data


def check_groups(names: list[bytes]) -> None:
    """Check that each name is in one group, in order, and that each group fits in a line."""
    sizes = [hash_of(name) for name in names]
    groups = list(grouped_names(zip(names, sizes, strict=True)))
    assert [name for group in groups for name in group] == names
    assert all(0 < len(group) <= MAX_NAMES for group in groups)


def hash_of(name: bytes) -> int:
    """Return a size for a name: the same one in each run."""
    return sum(name) * 4099 % (2 * MAX_PACKED) if len(name) < 9 else MAX_SIZE
