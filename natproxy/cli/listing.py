"""Listings of a server, entry by entry, and the lines that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from natproxy.cli.records import time_text
from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, ListingIncomplete, ServerError
from natproxy.client.listing import Listing
from natproxy.client.retry import Retrier
from natproxy.protocol import DIRECTORY, UNREAD, Entry, printable

MOST_UNREAD = 20
"""Lines about entries that the server cannot read."""


class CountedEntries:
    """Iterates over entries, and counts those that the server cannot read."""

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries
        self._unread: list[bytes] = []
        self._count = 0
        self._incomplete: ListingIncomplete | None = None

    def __iter__(self) -> Iterator[Entry]:
        try:
            for entry in self._entries:
                if entry.unread or entry.metadata.type == UNREAD:
                    self._count += 1
                    if self._count <= MOST_UNREAD:
                        self._unread.append(entry.name)
                yield entry
        except ListingIncomplete as error:
            # It is raised after the last entry; `complain` reports it with the others.
            self._incomplete = error

    def complain(self, complain: Callable[[str], object]) -> int:
        """Report what the listing lacks, and return the exit status.

        :param complain: called with each line.
        """
        for name in self._unread:
            complain(f"{printable(name)}: the server cannot read it")
        if self._count > MOST_UNREAD:
            complain(f"and {self._count - MOST_UNREAD} more like this")
        if self._incomplete is not None:
            complain(str(self._incomplete))
        return ServerError.exit_status if self._count or self._incomplete else 0


def names_of(session: Session, retry: Retrier) -> Iterator[bytes]:
    """Yield the names of a version 1 listing.

    Temporary failures are retried only until the first name has arrived: a repeated listing
    starts again from the first name.
    """
    listing = session.list()

    def first() -> bytes | None:
        nonlocal listing
        try:
            return next(listing, None)
        except ClientError:
            listing = session.list()
            raise

    name = retry(first)
    if name is not None:
        yield name
        yield from listing


def entries_of(session: Session, retry: Retrier, name: bytes, depth: float) -> Iterator[Entry]:
    """Yield the entries of a listing; a page that fails temporarily is requested again."""
    for page in Listing(name, depth, limit=None).pages():
        yield from retry(partial(session.run, page))


def short_line(entry: Entry) -> bytes:
    """Return the path of an entry; that of a directory ends with a slash."""
    return entry.name + b"/" if entry.metadata.type == DIRECTORY else entry.name


def long_line(entry: Entry) -> bytes:
    """Return the size, time and path of an entry, in columns."""
    if entry.metadata.type == UNREAD:
        return f"{'-':>12}  {UNREAD:<19}  ".encode() + short_line(entry)
    size = "-" if entry.metadata.type == DIRECTORY else str(entry.metadata.size)
    return f"{size:>12}  {time_text(entry.metadata.mtime_ns)}  ".encode() + short_line(entry)
