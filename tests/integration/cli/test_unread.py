"""Entries that the server cannot read, in the listings of the command line and of fsspec."""

from __future__ import annotations

import json
from unittest import mock

from natproxy.client.listing import Listing
from natproxy.fs import NatproxyFileSystem
from natproxy.protocol import (
    DIRECTORY,
    UNREAD,
    UNREAD_METADATA,
    Entry,
    Metadata,
    Page,
    format_entry,
    format_page,
)
from tests.support.commands import CommandCase
from tests.support.served_files import MTIME, ServedFilesCase

OPEN_DIRECTORY = Metadata(DIRECTORY, 0, MTIME, "d")
ENTRIES = (
    Entry(b"closed", OPEN_DIRECTORY, unread=True),
    Entry(b"hidden", UNREAD_METADATA),
    Entry(b"open", OPEN_DIRECTORY),
)


def page_of(*entries: Entry) -> bytes:
    body = b"".join(map(format_entry, entries))
    unread = sum(entry.unread or entry.metadata.type == UNREAD for entry in entries)
    return format_page(len(body), Page(unread)) + body


class ListingTests(CommandCase):
    def setUp(self) -> None:
        super().setUp()
        self.address = self.instead(LS=page_of(*ENTRIES))

    def test_names_are_listed(self) -> None:
        status, out, err = self.main("ls", "--server", self.address)
        self.assertEqual((status, out, err), (0, b"closed/\nhidden\nopen/\n", ""))

    def test_long_listing_shows_no_size_and_no_time(self) -> None:
        line = self.written("ls", "-l", "--server", self.address).splitlines()[1]
        self.assertEqual(line.split(), [b"-", b"unread", b"hidden"])
        # In the columns of the others.
        self.assertEqual(line.index(b"hidden"), 35)

    def test_recursive_listing_that_is_incomplete_is_an_error(self) -> None:
        for options in ([], ["-l"]):
            status, out, err = self.main("ls", "-R", *options, "--server", self.address)
            self.assertEqual((status, len(out.splitlines())), (1, 3))
            self.assertEqual(
                err,
                "natproxy: closed: the server cannot read it\n"
                "natproxy: hidden: the server cannot read it\n",
            )

    def test_listing_that_lacks_unnamed_entries_is_an_error(self) -> None:
        address = self.instead(LS=page_of(*ENTRIES).replace(b"unread=2", b"unread=3", 1))
        status, out, err = self.main("ls", "-R", "--json", "--server", address)
        self.assertEqual((status, len(json.loads(out)), len(err.splitlines())), (1, 3, 3))
        self.assertIn("the server could not read 1 directory", err)

    def test_many_of_them_are_counted(self) -> None:
        many = [Entry(b"%02d" % number, UNREAD_METADATA) for number in range(50)]
        status, _, err = self.main("ls", "-R", "--server", self.instead(LS=page_of(*many)))
        self.assertEqual((status, len(err.splitlines())), (1, 21))
        self.assertTrue(err.endswith("natproxy: and 30 more like this\n"), err)

    def test_json_has_null_for_unknown_members(self) -> None:
        closed, hidden, readable = json.loads(
            self.written("ls", "--json", "--server", self.address)
        )
        unknown = dict.fromkeys(("size", "mtime", "mtime_ns", "etag"))
        self.assertEqual(hidden, {"name": "hidden", "type": "unread"} | unknown)
        self.assertEqual((closed["type"], closed["unread"]), ("dir", True))
        self.assertNotIn("unread", readable)


class FsspecTests(ServedFilesCase):
    def test_unread_entries_are_marked(self) -> None:
        self.server.listing = ENTRIES
        host, port = self.server.address
        fs = NatproxyFileSystem(host=host, port=port, skip_instance_cache=True)
        self.addCleanup(fs.session.close)
        closed, hidden, readable = fs.ls("/", detail=True)
        self.assertEqual((closed["type"], closed["unread"]), ("directory", True))
        self.assertEqual((hidden["type"], hidden["unread"]), ("other", True))
        self.assertNotIn("unread", readable)

    def test_endless_listing_is_an_error(self) -> None:
        self.server.page = 2
        for number in range(9):
            self.server.put(b"%d" % number, b"")
        host, port = self.server.address
        fs = NatproxyFileSystem(host=host, port=port, skip_instance_cache=True)
        self.addCleanup(fs.session.close)
        with mock.patch("natproxy.fs.commands.Listing", return_value=Listing(limit=3)):
            error = self.assertRaises(OSError, fs.find, "/")
        self.assertIn("lists more than 3 entries", str(error))
        self.assertEqual(len(self.server.arguments_of(b"LS")), 2)
