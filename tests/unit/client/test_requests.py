"""Requests without I/O."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.requests import Pack
from natproxy.protocol import (
    LARGEST_PACK,
    Framing,
    Header,
    PackRecord,
    WireError,
    format_refused,
    format_request,
)


def header(size: int) -> Header:
    return Header(None, size, b"", Framing.COUNTED)


class PackTests(SynchronousTestCase):
    def test_names_are_paths_below_the_served_directory(self) -> None:
        request = Pack(["/a b/", b"\xff", ".", "\u00e9"])
        self.assertEqual(request.arguments.names, (b"a b", b"\xff", b"", b"\xc3\xa9"))
        self.assertEqual(
            format_request(request.word, request.arguments), b"PACK a%20b %FF . %C3%A9\n"
        )

    def test_records_are_those_of_the_first_names(self) -> None:
        request = Pack(["a", ".", "b"])
        body = format_refused(404, b"a") + format_refused(404, b"")
        request.begin(header(len(body)))
        for byte in body:
            request.feed(bytes([byte]))
        self.assertEqual(
            request.finish(), [PackRecord(b"a", None, b"", 404), PackRecord(b"", None, b"", 404)]
        )

    def test_reply_that_is_too_large_is_refused_before_its_body(self) -> None:
        request = Pack(["a"])
        request.begin(header(LARGEST_PACK))
        self.assertRaises(WireError, request.begin, header(LARGEST_PACK + 1))
