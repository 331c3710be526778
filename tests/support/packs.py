"""The body of a reply to PACK, for servers that keep their files in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from natproxy.protocol import (
    MAX_PACKED,
    NOT_FOUND,
    PACK_SIZE,
    TOO_LARGE,
    Entry,
    Metadata,
    format_packed,
    format_refused,
)


def pack_body(
    names: Sequence[bytes],
    find: Callable[[bytes], tuple[bytes, Metadata] | None],
    size: int = PACK_SIZE,
) -> bytes:
    """Return the records of the first names.

    :param find: returns content and metadata of a file, or ``None`` if there is no such file.
    :param size: in bytes, that ends the body.
    """
    body = b""
    for name in names:
        found = find(name)
        if found is None:
            body += format_refused(NOT_FOUND, name)
        elif len(found[0]) > MAX_PACKED:
            body += format_refused(TOO_LARGE, name)
        else:
            body += format_packed(Entry(name, found[1])) + found[0]
        if len(body) >= size:
            break
    return body
