"""Listings: pages, their order, and limits."""

from __future__ import annotations

import math
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import ListingIncomplete, NotUnderstood, TooManyEntries
from natproxy.client import listing as listings
from natproxy.client.listing import LARGEST_PAGE, Listing, Page, require_inside
from natproxy.protocol import Entry, Framing, Header, WireError
from tests.support.deferred_sessions import page_of


def receive(page: Page, reply: bytes) -> list[Entry]:
    """Return the entries of a page whose reply has been received."""
    first, _, body = reply.partition(b"\n")
    _, size, *words = first.split(b" ", 2)
    page.begin(Header(None, int(size), words[0] if words else b"", Framing.COUNTED))
    page.feed(body)
    return page.finish()


class ListingTests(SynchronousTestCase):
    def test_each_page_begins_after_the_one_before(self) -> None:
        listing = Listing("/sub/", math.inf, after=b"a")
        found = []
        commands = []
        replies = iter((page_of(b"b", b"c", more=True), page_of(b"d")))
        for page in listing.pages():
            commands.append(page.arguments)
            found += [entry.name for entry in receive(page, next(replies))]
        self.assertEqual(found, [b"b", b"c", b"d"])
        self.assertEqual(
            [(each.name, each.after) for each in commands], [(b"sub", b"a"), (b"sub", b"c")]
        )
        self.assertEqual(commands[0].depth, math.inf)
        self.assertFalse(listing.more)

    def test_page_can_be_received_again(self) -> None:
        page = next(Listing().pages())
        page.begin(Header(None, 100, b"", Framing.COUNTED))
        page.feed(b"half of a li")
        self.assertEqual(len(receive(page, page_of(b"a", b"b"))), 2)

    def test_names_must_increase_over_all_pages(self) -> None:
        pages = Listing().pages()
        receive(next(pages), page_of(b"b", more=True))
        self.assertRaises(WireError, receive, next(pages), page_of(b"b"))
        self.assertRaises(WireError, receive, next(Listing(after=b"x").pages()), page_of(b"a"))

    def test_limit_of_entries(self) -> None:
        self.assertRaises(
            TooManyEntries, receive, next(Listing(limit=1).pages()), page_of(b"a", b"b")
        )
        receive(next(Listing(limit=2).pages()), page_of(b"a", b"b"))

    def test_limit_of_entries_limits_their_bytes(self) -> None:
        pages = [page_of(b"%d" % number + b"x" * 4000, more=True) for number in range(9)]
        with mock.patch.object(listings, "LARGEST_PAGE", 5000):
            listing = Listing(limit=100)
            for reply in pages[:6]:
                receive(next(listing.pages()), reply)
            error = self.assertRaises(TooManyEntries, receive, next(listing.pages()), pages[6])
            self.assertIn("25600 bytes of entries", str(error))
            for limit in (1000, None):
                listing = Listing(limit=limit)
                for reply in pages:
                    receive(next(listing.pages()), reply)

    def test_large_page_is_an_error_before_its_body(self) -> None:
        page = next(Listing().pages())
        large = Header(None, LARGEST_PAGE + 1, b"", Framing.COUNTED)
        self.assertRaises(WireError, page.begin, large)

    def test_unread_directories_are_reported_after_the_last_entry(self) -> None:
        pages = Listing().pages()
        self.assertEqual(receive(next(pages), b"OK 0 unread=2\n"), [])
        error = self.assertRaises(ListingIncomplete, next, pages)
        self.assertEqual(error.count, 2)


class RequireInsideTests(SynchronousTestCase):
    def test_names_inside_the_directory(self) -> None:
        for name, directory in ((b"a", b""), (b"a/b", b""), (b"a/b", b"a"), (b"a", b"a")):
            require_inside(name, directory)

    def test_unsafe_names(self) -> None:
        for name, directory in (
            (b"/a", b""),
            (b"../a", b""),
            (b"a//b", b""),
            (b"a/.", b""),
            (b"a\0", b""),
            (b"", b""),
            (b"ab", b"a"),
            (b"b", b"a"),
        ):
            self.assertRaises(NotUnderstood, require_inside, name, directory)
        self.assertRaises(NotUnderstood, require_inside, b"a", b"a", itself=False)
