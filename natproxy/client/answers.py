"""What the server's answers mean: the same for both APIs, blocking or not.

All of it works on what has been received. `WireError` is raised for an answer that fits
the grammar but not the question.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from natproxy import wire
from natproxy.client.errors import (
    ClientError,
    ClosedWithoutReply,
    NotUnderstood,
    NoUpstreamReply,
    ServerError,
    Unavailable,
    Unsupported,
)

LONGEST_FEAT = 1 << 20
"""Bytes that the reply to ``FEAT`` may have."""

DOUBTS = 2
"""Commands of version 2 in a row that a peer closes the connection on, although it answers
``LIST``, until it is taken for one of version 1."""

SHORTEST_SILENCE = 1.0
"""Seconds after which a missing digest is taken for one that is being computed."""

LONGEST_DIGEST = 3600.0
"""Seconds for which a digest is requested again when all that comes back is silence."""


def as_name(name: str | bytes) -> bytes:
    """Give a file name as the server knows it: bytes, without slashes round it."""
    return os.fsencode(name).strip(b"/")


class Features(NamedTuple):
    """What a server speaks, as its reply to ``FEAT`` says.

    :ivar version: of the protocol: 1 or 2.
    :ivar verbs: of version 2 and newer, each with the keys of its arguments.
    :ivar via: names of the proxies on the way that cut the list down to what they can frame;
        a proxy that relays ``FEAT`` unread is not in it.
    """

    version: int
    verbs: dict[bytes, frozenset[bytes]]
    via: tuple[str, ...] = ()


VERSION_1 = Features(1, {})


def parse_features(listing: bytes) -> Features:
    """Parse the body of a reply to ``FEAT``; lines that are not known are ignored."""
    first, *lines = listing.split(b"\n")
    if first.split()[:2] != [b"NATPROXY", b"2"]:
        return VERSION_1
    verbs = {}
    via = []
    for line in lines:
        words = line.split()
        if words[:1] == [b"VIA"]:
            via += [wire.printable(word, 80) for word in words[1:2]]
        elif words and words != [wire.END]:
            verbs[words[0]] = frozenset(words[1:])
    return Features(2, verbs, tuple(via))


def is_listing_of_version_1(listing: bytes) -> bool:
    """Tell from the beginning of a reply to ``FEAT`` that it is none of version 2."""
    first, complete, _ = listing.partition(b"\n")
    if complete:
        return parse_features(first).version == 1
    return len(first) > wire.MAX_LINE


def is_refusal_of_version_1(error: ClientError) -> bool:
    """Tell whether an error reply to ``FEAT`` is that of a server of version 1.

    An error with a code, and any error that the proxy reports, says nothing about the server.
    """
    return (
        isinstance(error, ServerError) and error.code is None and not isinstance(error, Unavailable)
    )


def is_doubtful(error: ClientError, via: tuple[str, ...] = ()) -> bool:
    """Tell whether a command of version 2 failed as it does with a peer that cannot parse it.

    Such a peer closes the connection. So does one that is restarted: only a ``LIST`` that is
    answered afterwards, and a second failure, tell the two apart. See `DOUBTS`.

    :param via: proxies of version 2 on the way, which parse replies of version 2: a failure
        that they report is the server's.
    """
    return isinstance(error, ClosedWithoutReply) or (isinstance(error, NoUpstreamReply) and not via)


def cannot(server: object, what: str) -> Unsupported:
    """Make the error for what version 1 has no way to do.

    :param what: the server would have to do.
    """
    return Unsupported(f"{server} speaks version 1 of the protocol only: it cannot {what}")


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
