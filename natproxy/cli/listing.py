"""Listings of a server, entry by entry, and the lines that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

from natproxy.cli.records import time_text
from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, ListingIncomplete, ServerError, TooManyEntries
from natproxy.client.listing import Listing
from natproxy.client.retry import Retrier
from natproxy.protocol import DIRECTORY, FILE, UNREAD, Entry, printable

MOST_SORTED = 1_000_000
"""Entries that are held to be sorted."""

LONG_SIZE = 12
"""Columns of a size in bytes."""

SHORT_SIZE = 8
"""Columns of a size with a unit."""

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


def long_line(entry: Entry, human: bool = False) -> bytes:
    """Return the size, time and path of an entry, in columns.

    :param human: whether the size has a unit, such as ``1.5 MB``.
    """
    width = SHORT_SIZE if human else LONG_SIZE
    if entry.metadata.type == UNREAD:
        return f"{'-':>{width}}  {UNREAD:<19}  ".encode() + short_line(entry)
    size = "-" if entry.metadata.type == DIRECTORY else size_text(entry.metadata.size, human)
    return f"{size:>{width}}  {time_text(entry.metadata.mtime_ns)}  ".encode() + short_line(entry)


def size_text(size: int, human: bool) -> str:
    """Return a number of bytes, with a unit for people."""
    if not human:
        return str(size)
    from natproxy.cli.display.text import amount

    return amount(size)


class ListingTotal:
    """What a listing consists of.

    :ivar files: number of files.
    :ivar directories: number of directories.
    :ivar others: number of other entries, and of those that the server cannot read.
    :ivar size: bytes of the files.
    """

    def __init__(self) -> None:
        self.files = 0
        self.directories = 0
        self.others = 0
        self.size = 0

    def counting(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield entries and count them."""
        for entry in entries:
            kind = entry.metadata.type
            if kind == FILE:
                self.files += 1
                self.size += entry.metadata.size
            elif kind == DIRECTORY:
                self.directories += 1
            else:
                self.others += 1
            yield entry

    def line(self, human: bool) -> str:
        """Return the total for people.

        :param human: whether the size has a unit.
        """
        from natproxy.cli.display.text import amount
        from natproxy.counts import counted

        facts = [
            counted(self.files, "file"),
            counted(self.directories, "directory", "directories"),
        ]
        if self.others:
            facts.append(counted(self.others, "other entry", "other entries"))
        facts.append(amount(self.size) if human else counted(self.size, "byte"))
        return f"total: {', '.join(facts)}"


def sorted_entries(entries: Iterable[Entry], order: str, reverse: bool) -> list[Entry]:
    """Return entries in another order than the server's.

    :param order: ``name``; ``size``, the largest first; ``time``, the newest first. Equal entries
        are in the order of their names.
    :param reverse: whether the order is reversed.
    :raises TooManyEntries: if there are more than `MOST_SORTED`.
    """
    held = list(islice(entries, MOST_SORTED + 1))
    if len(held) > MOST_SORTED:
        raise TooManyEntries(
            f"more than {MOST_SORTED} entries are not sorted here:"
            " without --sort and -r, they are listed as they arrive"
        )
    if order == "size":
        held.sort(key=lambda entry: -entry.metadata.size)
    elif order == "time":
        held.sort(key=lambda entry: -entry.metadata.mtime_ns)
    if reverse:
        held.reverse()
    return held
