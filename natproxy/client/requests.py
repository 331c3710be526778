"""What the server's answers mean: the same for both APIs, blocking or not.

All of it works on what has been received. `WireError` is raised for an answer that fits
the grammar but not the question.
"""

from __future__ import annotations

from typing import NamedTuple

from natproxy.client.errors import (
    ClientError,
    ClosedWithoutReply,
    ConnectionBroken,
    ListingIncomplete,
    NotFound,
    NotUnderstood,
    NoUpstreamReply,
    ServerError,
    TooManyEntries,
    Unavailable,
    Unsupported,
    UsageError,
)
from natproxy.protocol import (
    END,
    FILE_NOT_FOUND,
    MAX_LINE,
    UNREAD,
    Arguments,
    Entry,
    EntryLines,
    Header,
    Range,
    WireError,
    parse_page,
    parse_range,
    printable,
)

LONGEST_FEAT = 1 << 20
"""Bytes that the reply to ``FEAT`` may have."""

LARGEST_PAGE = 16 << 20
"""Bytes of a page of ``LS`` that are held in memory."""

DOUBTS = 2
"""Commands of version 2 in a row that a peer closes the connection on, although it answers
``LIST``, until it is taken for one of version 1."""

SHORTEST_SILENCE = 1.0
"""Seconds after which a missing digest is taken for one that is being computed."""

LONGEST_DIGEST = 3600.0
"""Seconds for which a digest is requested again when all that comes back is silence."""

MOST_ENTRIES = 10_000_000
"""Entries of a listing, unless another limit is set."""

MOST_EMPTY_PAGES = 10_000
"""Pages of a listing in a row without an entry: all that a server left out, it has read."""


def name_bytes(name: str | bytes) -> bytes:
    """Return a remote name as the server has it: text is UTF-8, whatever the locale is.

    A byte that is not UTF-8 is a lone surrogate, U+DC80 to U+DCFF (``surrogateescape``).

    :raises NotFound: for any other surrogate: no name in bytes is that text.
    """
    if isinstance(name, bytes):
        return name
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise NotFound(f"{ascii(name)[1:-1]}: {FILE_NOT_FOUND}") from error


def name_text(name: bytes) -> str:
    """Return a remote name as text; `name_bytes` is the inverse."""
    return name.decode("utf-8", "surrogateescape")


def as_name(name: str | bytes) -> bytes:
    """Return a remote name as `name_bytes` does, without slashes round it."""
    return name_bytes(name).strip(b"/")


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
            via += [printable(word, 80) for word in words[1:2]]
        elif words and words != [END]:
            verbs[words[0]] = frozenset(words[1:])
    return Features(2, verbs, tuple(via))


def is_listing_of_version_1(listing: bytes) -> bool:
    """Tell from the beginning of a reply to ``FEAT`` that it is none of version 2."""
    first, complete, _ = listing.partition(b"\n")
    if complete:
        return parse_features(first).version == 1
    return len(first) > MAX_LINE


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


def may_be_computing(error: ClientError) -> bool:
    """Tell whether a digest that failed so may still be computed.

    That is what silence means, and a server that is busy. An error with the code 502 or 503
    says that the server, or the file server behind the proxy, has given up.
    """
    if isinstance(error, Unavailable):
        return error.code not in (502, 503)
    return isinstance(error, ConnectionBroken)


def cannot(server: object, what: str) -> Unsupported:
    """Make the error for what version 1 has no way to do.

    :param what: the server would have to do.
    """
    return Unsupported(f"{server} speaks version 1 of the protocol only: it cannot {what}")


def is_a_directory(name: bytes) -> UsageError:
    """Return the error for a directory where a file is needed.

    The server says 404 for it, as for what is not there.
    """
    return UsageError(f"{printable(name) or '.'}: is a directory")


class Pages:
    """The pages of one listing, checked as they are received.

    Names must increase from entry to entry, over all pages: a server that repeats itself
    or goes back is refused, and nobody who reads a listing needs to remember its names.

    :param after: the name after which the first page begins; empty for the beginning.
    :param limit: entries, at most; `None` for any number.
    :ivar after: the name after which the next page begins.
    :ivar more: whether there is a next page.
    """

    def __init__(self, after: bytes = b"", limit: int | None = MOST_ENTRIES) -> None:
        self.after = after
        self.more = True
        self._limit = limit
        self._entries = 0
        self._empty = 0
        self._unnamed = 0

    def take(self, words: bytes, body: bytes) -> list[Entry]:
        """Parse a page and return its entries.

        :param words: of the header, after the length.
        :raises WireError: if it is malformed, if a name does not follow the one before it,
            or if it does not say where the next page begins.
        :raises TooManyEntries: if the listing is longer than the limit, or goes on and on
            without entries.
        """
        header = parse_page(words)
        lines = EntryLines()
        page = lines.feed(body)
        lines.end()
        before = last = self.after
        marked = 0
        for name, metadata, unread in page:
            if name <= last:
                raise WireError(f"'{printable(name, 80)}' is listed out of order")
            last = name
            marked += unread or metadata.type == UNREAD
        self.more = lines.more
        if self.more:
            self.after = last if header.after is None else header.after
            if self.after < last or self.after <= before:
                raise WireError("a page that leads nowhere")
        self._unnamed += max(0, header.unread - marked)
        self._entries += len(page)
        self._empty = 0 if page else self._empty + 1
        if self._limit is not None and self._entries > self._limit:
            raise TooManyEntries(
                f"the server lists more than {self._limit} entries:"
                " a higher limit (--max-entries, limit=) is needed if that is true"
            )
        if self._empty > MOST_EMPTY_PAGES:
            raise TooManyEntries(f"the server sent {self._empty} pages without an entry")
        return page

    def end(self) -> None:
        """Note that all entries have been used.

        :raises ListingIncomplete: if directories became unreadable for the server after they
            had been listed: what is in them is missing.
        """
        if self._unnamed:
            raise ListingIncomplete(self._unnamed)


def check_page(header: Header) -> None:
    """See that a page of a listing may be held in memory.

    :raises WireError: if it is too large.
    """
    if header.size > LARGEST_PAGE:
        raise WireError(f"a page of {header.size} bytes")


def see_within(name: bytes, directory: bytes, itself: bool = True) -> None:
    """See that a listed name, which may become a path here, doesn't lead out of its directory.

    :param directory: that was listed; empty for the served one.
    :param itself: whether the directory's own name is good as well.
    :raises NotUnderstood: if it leads astray.
    """
    inside = not directory or name.startswith(directory + b"/") or (itself and name == directory)
    if not inside or b"\0" in name or not {b"", b".", b".."}.isdisjoint(name.split(b"/")):
        raise NotUnderstood(f"the server lists a name that leads astray: '{printable(name)}'")


def range_in(header: Header, asked: Arguments) -> Range:
    """Read what a ``GET`` is answered with.

    :raises WireError: if it is malformed, or not what was asked for.
    """
    part = parse_range(header.size, header.words)
    rest = part.metadata.size - asked.offset
    length = rest if asked.length is None else min(rest, asked.length)
    if (part.offset, part.length) != (asked.offset, length):
        raise WireError("another part of the file than was asked for")
    if asked.if_match is not None and part.metadata.etag != asked.if_match:
        raise WireError("another file than was asked for")
    return part
