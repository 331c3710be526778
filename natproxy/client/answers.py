"""What the server's answers mean: the same for both APIs, blocking or not.

All of it works on what has been received. `WireError` is raised for an answer that fits
the grammar but not the question.
"""

from __future__ import annotations

import os

from natproxy import wire
from natproxy.client.errors import (
    ClientError,
    NotUnderstood,
    Unavailable,
    Unsupported,
    UsageError,
)

FEAT_TIMEOUT = 2.0
"""Seconds within which a server of version 2 has answered ``FEAT``."""

SHORTEST_SILENCE = 1.0
"""Seconds after which a missing digest is taken for one that is being computed."""

DIGEST_TRIES = 60
"""Times that a digest is asked for when all that comes back is silence."""


def as_name(name: str | bytes) -> bytes:
    """Give a file name as the server knows it: bytes, without slashes round it."""
    return os.fsencode(name).strip(b"/")


def version_in(abilities: bytes) -> int:
    """Tell which version of the protocol the answer to a ``FEAT`` stands for: 1 or 2."""
    return 2 if abilities.partition(b"\n")[0].split()[:2] == [b"NATPROXY", b"2"] else 1


def is_the_proxys_own(error: ClientError) -> bool:
    """Tell whether it was the proxy that failed, before the server could answer ``FEAT``.

    Any other failure says that the server speaks version 1.
    """
    reason = str(error)
    return (
        isinstance(error, Unavailable)
        and reason.startswith(wire.PROXY_ERROR)
        # What it could not understand, or has waited for in vain, is a server of version 1.
        and not any(words in reason for words in ("reply header", "server was silent"))
    )


def cannot(server: object, what: str) -> Unsupported:
    """Make the error for what version 1 has no way to do.

    :param what: the server would have to do.
    """
    return Unsupported(f"{server} speaks version 1 of the protocol only: it cannot {what}")


def is_a_directory(name: bytes) -> UsageError:
    """Return the error for a directory where a file is needed.

    The server says 404 for it, as for what is not there.
    """
    return UsageError(f"{wire.printable(name) or '.'}: is a directory")


def page_in(body: bytes, after: bytes) -> tuple[list[wire.Entry], bool]:
    """Read a page of ``LS``; give its entries, and whether there are further ones.

    :param after: the name after which it was to begin.
    :raises WireError: if it is malformed, or the next page would be the same again.
    """
    lines = wire.EntryLines()
    page = lines.feed(body)
    lines.end()
    if lines.more and (not page or page[-1].name <= after):
        raise wire.WireError("a page that leads nowhere")
    return page, lines.more


def see_within(name: bytes, folder: bytes, itself: bool = True) -> None:
    """See that a listed name, which may become a path here, doesn't lead out of its folder.

    :param folder: that was listed; empty for the served one.
    :param itself: whether the folder's own name is good as well.
    :raises NotUnderstood: if it leads astray.
    """
    inside = not folder or name.startswith(folder + b"/") or (itself and name == folder)
    if not inside or b"\0" in name or not {b"", b".", b".."}.isdisjoint(name.split(b"/")):
        raise NotUnderstood(f"the server lists a name that leads astray: '{wire.printable(name)}'")


def range_in(header: wire.Header, asked: wire.Arguments) -> wire.Range:
    """Read what a ``GET`` is answered with.

    :raises WireError: if it is malformed, or not what was asked for.
    """
    part = wire.parse_range(header.size, header.words)
    rest = part.status.size - asked.offset
    length = rest if asked.length is None else min(rest, asked.length)
    if (part.offset, part.length) != (asked.offset, length):
        raise wire.WireError("another part of the file than was asked for")
    if asked.if_match is not None and part.status.etag != asked.if_match:
        raise wire.WireError("another file than was asked for")
    return part
