"""Listings of directories: one ``LS`` for each page, without I/O."""

from __future__ import annotations

from collections.abc import Iterator

from natproxy.client.errors import ListingIncomplete, NotUnderstood, TooManyEntries
from natproxy.client.requests import Request, as_name
from natproxy.protocol import (
    UNREAD,
    Arguments,
    Entry,
    EntryLines,
    Header,
    WireError,
    parse_page,
    printable,
)

LARGEST_PAGE = 16 << 20
"""Bytes of one page that are held in memory at most."""

MOST_ENTRIES = 10_000_000
"""Entries of a listing, unless another limit is set."""

MOST_EMPTY_PAGES = 10_000
"""Consecutive pages without an entry: a server may leave out all that it has read."""


class Listing:
    """The listing of one directory, checked page by page.

    Names must increase from entry to entry, over all pages. So a server that repeats entries
    is detected, and no reader of a listing has to remember names.

    :param name: of the directory; empty for the served one.
    :param depth: levels of directories; ``math.inf`` for all of them.
    :param after: the name after which the listing begins; empty for the beginning.
    :param limit: entries at most; ``None`` for any number.
    :ivar after: the name after which the next page begins.
    :ivar more: whether there is a next page.
    """

    def __init__(
        self,
        name: str | bytes = b"",
        depth: float = 1,
        after: bytes = b"",
        limit: int | None = MOST_ENTRIES,
    ) -> None:
        self.after = after
        self.more = True
        self._name = as_name(name)
        self._depth = depth
        self._limit = limit
        self._entries = 0
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
            yield Page(self, Arguments(self._name, depth=self._depth, after=self.after))
        if self._unnamed:
            raise ListingIncomplete(self._unnamed)

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
                raise WireError("the next page would not begin after this one")
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


class Page(Request[list[Entry]]):
    """``LS``: one page of a listing."""

    word = b"LS"
    purpose = "list more than the served directory's files"

    def __init__(self, listing: Listing, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._listing = listing

    def accept(self, header: Header) -> None:
        """Check that the page may be held in memory.

        :raises WireError: if it exceeds `LARGEST_PAGE`.
        """
        if header.size > LARGEST_PAGE:
            raise WireError(f"a page of {header.size} bytes")

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
