"""Listings of directories: one ``LS`` for each page, without I/O."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from operator import lt
from typing import TypeVar

from natproxy.client.errors import ListingIncomplete, NotUnderstood, TooManyEntries
from natproxy.client.requests import Request, as_name
from natproxy.protocol import (
    MORE,
    UNREAD,
    Arguments,
    Entry,
    EntryLines,
    Header,
    WireError,
    decode_name,
    parse_page,
    printable,
)

LARGEST_PAGE = 16 << 20
"""Bytes of one page that are held in memory at most."""

MOST_ENTRIES = 10_000_000
"""Entries of a listing, unless another limit is set."""

LONGEST_LINES = 256
"""Bytes that a line of a listing may have on average, if there is a limit of entries.

A line may have 16 KiB: without this, the entries would be limited, and not the memory for them.
"""

MOST_EMPTY_PAGES = 10_000
"""Consecutive pages without an entry: a server may leave out all that it has read."""


_LAST_LINE = MORE + b"\n"

T = TypeVar("T")

LONGEST_PAGE = 10_000
"""Entries of a page that is not shown to people as it arrives: the most that a server sends."""

FIRST_PAGE = 2000
"""Entries of the first page, if what it lists is used while the next one is received."""


class Listing:
    """The listing of one directory, checked page by page.

    Names must increase from entry to entry, over all pages. So a server that repeats entries
    is detected, and no reader of a listing has to remember names.

    :param name: of the directory; empty for the served one.
    :param depth: levels of directories; ``math.inf`` for all of them.
    :param after: the name after which the listing begins; empty for the beginning.
    :param limit: entries at most, and so bytes, by `LONGEST_LINES`; ``None`` for any number.
    :param page: entries of a page at most; ``None`` for the server's own limit.
    :param first: entries of the first page at most; ``None`` for as many as of any.
    :ivar after: the name after which the next page begins.
    :ivar more: whether there is a next page.
    """

    def __init__(
        self,
        name: str | bytes = b"",
        depth: float = 1,
        after: bytes = b"",
        limit: int | None = MOST_ENTRIES,
        page: int | None = None,
        first: int | None = None,
    ) -> None:
        self.after = after
        self.more = True
        self._name = as_name(name)
        self._depth = depth
        self._limit = limit
        self._page = page
        self._first = first or page
        self._entries = 0
        self._size = 0
        self._empty = 0
        self._unnamed = 0

    def pages(self) -> Iterator[Page]:
        """Yield the request for each page.

        Each has to be carried out before the next one is taken; one that fails can be carried
        out again.

        :raises ListingIncomplete: after the last page, if directories that the server had
            listed became unreadable: their content is missing.
        """
        while self.more:
            yield Page(self, self._arguments(self.after, self._page))
        self.finish()

    def begin(self) -> RawPage:
        """Return the request for the first page, which is parsed by `take`."""
        return RawPage(self._arguments(self.after, self._first))

    def following(self, words: bytes, body: bytes) -> RawPage | None:
        """Return the request for the page after one, before that is parsed; ``None`` without one.

        :param words: of the header, after the length.
        :raises WireError: if the end of the page is malformed.
        """
        if not (body == _LAST_LINE or body.endswith(b"\n" + _LAST_LINE)):
            return None
        after = parse_page(words).after
        if after is None:
            end = len(body) - len(_LAST_LINE) - 1
            line = body[body.rfind(b"\n", 0, max(end, 0)) + 1 : max(end, 0)]
            after = decode_name(line.rpartition(b" ")[2])
        return RawPage(self._arguments(after, self._page))

    def finish(self) -> None:
        """Check that the listing is complete, after its last page.

        :raises ListingIncomplete: as `pages` does.
        """
        if self._unnamed:
            raise ListingIncomplete(self._unnamed)

    def _arguments(self, after: bytes, page: int | None) -> Arguments:
        return Arguments(self._name, depth=self._depth, after=after, limit=page)

    def take(self, words: bytes, body: bytes) -> list[Entry]:
        """Parse a page and return its entries.

        :param words: of the header, after the length.
        :raises WireError: if the page is malformed, if a name is not greater than the one
            before it, or if the next page would not begin after this one.
        :raises TooManyEntries: if the listing exceeds the limit, or `MOST_EMPTY_PAGES`.
        """
        header = parse_page(words)
        lines = EntryLines()
        page = lines.feed(body)
        lines.end()
        before = last = self.after
        names = [entry.name for entry in page]
        if names and not (last < names[0] and all(map(lt, names, islice(names, 1, None)))):
            last = next(name for last, name in pairwise((last, *names)) if name <= last)
            raise WireError(f"'{printable(last, 80)}' is listed out of order")
        if names:
            last = names[-1]
        self.more = lines.more
        if self.more:
            self.after = last if header.after is None else header.after
            if self.after < last or self.after <= before:
                raise WireError("the next page would not begin after this one")
        if header.unread:
            marked = sum(entry.unread or entry.metadata.type == UNREAD for entry in page)
            self._unnamed += max(0, header.unread - marked)
        self._entries += len(page)
        self._size += len(body)
        self._empty = 0 if page else self._empty + 1
        if self._limit is not None:
            self._check_limit(self._limit)
        if self._empty > MOST_EMPTY_PAGES:
            raise TooManyEntries(f"the server sent {self._empty} pages without an entry")
        return page

    def _check_limit(self, limit: int) -> None:
        largest = max(LARGEST_PAGE, limit * LONGEST_LINES)
        if self._entries > limit:
            excess = f"{limit} entries"
        elif self._size > largest:
            excess = f"{largest} bytes of entries"
        else:
            return
        raise TooManyEntries(
            f"the server lists more than {excess}:"
            " a higher limit (--max-entries, limit=) is needed if that is true"
        )


class _AnyPage(Request[T]):
    """``LS``: one page of a listing."""

    word = b"LS"
    purpose = "list more than the served directory's files"

    def accept(self, header: Header) -> None:
        """Check that the page may be held in memory.

        :raises WireError: if it exceeds `LARGEST_PAGE`.
        """
        if header.size > LARGEST_PAGE:
            raise WireError(f"a page of {header.size} bytes")


class RawPage(_AnyPage[tuple[bytes, bytes]]):
    """One page, which is parsed by `Listing.take`."""

    def parse(self, header: Header, body: bytes) -> tuple[bytes, bytes]:
        """Return the words of the header and the body."""
        return header.words, body


class Page(_AnyPage[list[Entry]]):
    """One page, which is parsed before the next one is requested."""

    def __init__(self, listing: Listing, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._listing = listing

    def parse(self, header: Header, body: bytes) -> list[Entry]:
        """Return the entries; the listing continues after them."""
        return self._listing.take(header.words, body)


def require_inside(name: bytes, directory: bytes, itself: bool = True) -> None:
    """Check that a listed name, which may become a local path, is inside its directory.

    :param directory: that was listed; empty for the served one.
    :param itself: whether the directory's own name is accepted as well.
    :raises NotUnderstood: if the name is unsafe.
    """
    inside = not directory or name.startswith(directory + b"/") or (itself and name == directory)
    if not inside or b"\0" in name or not {b"", b".", b".."}.isdisjoint(name.split(b"/")):
        raise NotUnderstood(f"the server listed an unsafe path: '{printable(name)}'")
