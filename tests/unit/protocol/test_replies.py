"""The framing of replies, in pieces of any size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import (
    MAX_LINE,
    MAX_SIZE,
    CountedBody,
    Framing,
    ListingBody,
    ListingNames,
    ReplyParser,
    WireError,
    body_of,
    listable,
    parse_header,
)
from tests.support.wire import awkward_bytes, checked, cut, file_names, replies


class HeaderTests(SynchronousTestCase):
    def assert_malformed(self, line: bytes, framing: Framing) -> None:
        with self.assertRaises(WireError) as caught:
            parse_header(line, framing)
        self.assertTrue(str(caught.exception).isprintable())
        self.assertLess(len(str(caught.exception)), 200)

    def test_counted_header_promises_a_size(self) -> None:
        for line, size in (
            (b"OK 0", 0),
            (b"OK 5", 5),
            (b"OK 5 offset=1 size=6 etag=x", 5),
            (b"OK 5 ", 5),
            (b"OK %d" % MAX_SIZE, MAX_SIZE),
        ):
            header = parse_header(line, Framing.COUNTED)
            self.assertEqual((header.size, header.error), (size, None))
            self.assertIs(header.framing, Framing.COUNTED)

    def test_malformed_or_absurd_counted_header_is_not_understood(self) -> None:
        for line in (
            *(b"", b"OK", b"OK ", b"OK5", b"OK abc", b"OK -1", b"OK +1", b"OK 1_0", b"OK 1.5"),
            *(b"OK 0x10", b"OK 5x", b"OK  5", b"OK\t5", b"OK 5\t", b"OK 5\r", b" OK 5", b"ok 5"),
            *(b"OK \xd9\xa3", b"OK \xb2", b"5", b"HELLO", b"OKAY 5", b"ERRATA", b"err no"),
            *(b"OK %d" % (MAX_SIZE + 1), b"OK " + b"9" * 19, b"OK " + b"9" * 5000),
        ):
            self.assert_malformed(line, Framing.COUNTED)

    def test_listing_header_is_ok_and_nothing_else(self) -> None:
        header = parse_header(b"OK", Framing.LISTING)
        self.assertEqual((header.size, header.error), (0, None))
        self.assertIs(header.framing, Framing.LISTING)
        for line in (b"", b"OK ", b"OK\r", b"OK 5", b"ok", b"OKAY", b"END", b"ERRATA"):
            self.assert_malformed(line, Framing.LISTING)

    def test_any_first_line_is_a_reply_to_an_unknown_verb(self) -> None:
        for line in (b"OK", b"OK type=file size=5", b"250 hello", b""):
            header = parse_header(line, Framing.NOTHING)
            self.assertEqual((header.error, header.size), (None, 0))
            self.assertIsNone(body_of(header))

    def test_nothing_follows_an_error_to_any_command(self) -> None:
        for framing in Framing:
            for line, message in (
                (b"ERR file not found", b"file not found"),
                (b"ERR 412 changed etag=x", b"412 changed etag=x"),
                (b"ERR ", b""),
                (b"ERR", b""),
            ):
                header = parse_header(line, framing)
                self.assertEqual((header.error, header.size), (message, 0))
                self.assertIs(header.framing, Framing.NOTHING)
                self.assertIsNone(body_of(header))

    def test_header_over_the_line_limit_is_not_understood(self) -> None:
        longest = b"ERR ".ljust(MAX_LINE, b"x")
        for framing in Framing:
            self.assertEqual(parse_header(longest, framing).error, longest[4:])
            self.assert_malformed(longest + b"x", framing)

    def test_hostile_header_is_shown_harmlessly_and_briefly(self) -> None:
        self.assert_malformed(b"OK \x1b[2J\r\0" + b"\xff" * 10_000, Framing.COUNTED)

    def test_body_is_what_the_header_promises(self) -> None:
        counted = body_of(parse_header(b"OK 7", Framing.COUNTED))
        self.assertIsInstance(counted, CountedBody)
        self.assertEqual(counted.remaining, 7)
        self.assertIsNone(body_of(parse_header(b"OK 0", Framing.COUNTED)))
        self.assertIsInstance(body_of(parse_header(b"OK", Framing.LISTING)), ListingBody)


class BodyTests(SynchronousTestCase):
    def test_counted_body_takes_its_bytes_and_leaves_the_surplus(self) -> None:
        body = CountedBody(5)
        self.assertEqual(body.take(b"abc"), (b"abc", b""))
        self.assertEqual((body.complete, body.remaining, body.missing), (False, 2, "2 bytes"))
        self.assertEqual(body.take(b"defg"), (b"de", b"fg"))
        self.assertTrue(body.complete)
        self.assertEqual(body.take(b"h"), (b"", b"h"))
        self.assertTrue(body.complete)

    def test_body_of_no_bytes_is_complete(self) -> None:
        body = CountedBody(0)
        self.assertTrue(body.complete)
        self.assertEqual(body.take(b"x"), (b"", b"x"))

    def test_listing_ends_with_its_end_line(self) -> None:
        body = ListingBody()
        self.assertEqual(body.take(b"a\nEN"), (b"a\nEN", b""))
        self.assertEqual((body.complete, body.missing), (False, "the rest up to END"))
        self.assertEqual(body.take(b"D\nmore"), (b"D\n", b"more"))
        self.assertEqual((body.complete, body.missing), (True, ""))
        self.assertEqual(body.take(b"b\nEND\n"), (b"", b"b\nEND\n"))

    def test_listing_may_be_empty_with_or_without_the_old_servers_empty_line(self) -> None:
        for listing in (b"END\n", b"\nEND\n"):
            body = ListingBody()
            self.assertEqual(body.take(listing), (listing, b""))
            self.assertTrue(body.complete)

    def test_end_inside_a_name_does_not_end_the_listing(self) -> None:
        body = ListingBody()
        body.take(b"END \n END\nWEEKEND\nENDING\nEND\r\nend\nEND")
        self.assertFalse(body.complete)


class ReplyParserTests(SynchronousTestCase):
    @checked
    @given(replies(), awkward_bytes, st.data())
    def test_any_pieces_give_the_same_reply(
        self, reply: tuple[Framing, bytes, bytes], surplus: bytes, data: st.DataObject
    ) -> None:
        framing, line, body = reply
        whole = line + b"\n" + body
        parser = ReplyParser(framing)
        received = taken = b""
        for piece in data.draw(cut(whole + surplus)):
            taken += parser.feed(piece)
            received += piece
            self.assertEqual(parser.complete, len(received) >= len(whole))
            self.assertEqual(parser.header is None, b"\n" not in received)
            if not parser.complete:
                self.assertTrue(parser.missing)
        self.assertEqual(parser.header, parse_header(line, framing))
        self.assertEqual((taken, parser.surplus), (body, surplus))

    def test_missing_bytes_are_described(self) -> None:
        parser = ReplyParser(Framing.COUNTED)
        self.assertEqual(parser.missing, "the whole reply")
        parser.feed(b"OK 5\nab")
        self.assertEqual(parser.missing, "3 bytes")
        parser.feed(b"cde")
        self.assertTrue(parser.complete)
        parser = ReplyParser(Framing.LISTING)
        parser.feed(b"OK\n")
        self.assertEqual(parser.missing, "the rest up to END")

    def test_malformed_header_in_pieces_is_an_error(self) -> None:
        parser = ReplyParser(Framing.COUNTED)
        parser.feed(b"OK a")
        self.assertRaises(WireError, parser.feed, b"bc\n")
        self.assertIsNone(parser.header)

    def test_header_without_an_end_is_refused_at_the_line_limit(self) -> None:
        parser = ReplyParser(Framing.NOTHING)
        for _ in range(MAX_LINE // 1024):
            self.assertEqual(parser.feed(b"x" * 1024), b"")
        self.assertRaises(WireError, parser.feed, b"x")
        parser = ReplyParser(Framing.NOTHING)
        parser.feed(b"x" * MAX_LINE + b"\n")
        self.assertTrue(parser.complete)


class ListingNamesTests(SynchronousTestCase):
    def test_names_that_no_line_can_carry_are_not_listable(self) -> None:
        for name in (b"END", b"a\nb", b"\n", b"a\rb", b"a\r"):
            self.assertFalse(listable(name), name)
        for name in (b"end", b"ENDS", b" END", b"END ", b"a b", b"\xff", b"\x85", b"\x1b[2J"):
            self.assertTrue(listable(name), name)

    @checked
    @given(st.lists(file_names.filter(listable), max_size=8), st.data())
    def test_listable_names_come_back_from_a_listing(
        self, names: list[bytes], data: st.DataObject
    ) -> None:
        listing = b"".join(name + b"\n" for name in [*names, b"END"])
        body, reader, read = ListingBody(), ListingNames(), []
        for piece in data.draw(cut(listing)):
            taken, surplus = body.take(piece)
            self.assertEqual(surplus, b"")
            read += reader.feed(taken)
        self.assertTrue(body.complete)
        self.assertEqual(read, names)

    def test_empty_lines_and_the_end_are_no_names(self) -> None:
        self.assertEqual(list(ListingNames().feed(b"\nEND\n")), [])
        self.assertEqual(list(ListingNames().feed(b"\na\n\nb\nEND\n")), [b"a", b"b"])

    def test_unfinished_line_is_no_name_yet(self) -> None:
        reader = ListingNames()
        self.assertEqual(list(reader.feed(b"ab")), [])
        self.assertEqual(list(reader.feed(b"c\nd")), [b"abc"])

    def test_line_over_the_limit_is_an_error_at_once(self) -> None:
        self.assertEqual(list(ListingNames().feed(b"x" * MAX_LINE + b"\n")), [b"x" * MAX_LINE])
        self.assertRaises(WireError, ListingNames().feed, b"x" * (MAX_LINE + 1))
        self.assertRaises(WireError, ListingNames().feed, b"x" * (MAX_LINE + 1) + b"\n")


class OtherWayTests(SynchronousTestCase):
    """A counted body, of which a part never passes through the parser."""

    def test_nothing_remains_before_the_header(self) -> None:
        parser = ReplyParser(Framing.COUNTED)
        self.assertEqual(parser.remaining, 0)
        parser.feed(b"OK 5")
        self.assertEqual((parser.remaining, parser.complete), (0, False))
        parser.feed(b"\n")
        self.assertEqual((parser.remaining, parser.complete), (5, False))

    def test_nothing_ever_remains_of_what_is_not_counted(self) -> None:
        for framing, reply in (
            (Framing.LISTING, b"OK\na\n"),
            (Framing.NOTHING, b"OK size=5\n"),
            (Framing.COUNTED, b"ERR 404 file not found\n"),
            (Framing.COUNTED, b"OK 0 offset=5\n"),
        ):
            parser = ReplyParser(framing)
            parser.feed(reply)
            self.assertEqual(parser.remaining, 0)

    @checked
    @given(awkward_bytes, awkward_bytes, st.data())
    def test_body_comes_partly_by_one_way_and_partly_by_the_other(
        self, body: bytes, surplus: bytes, data: st.DataObject
    ) -> None:
        parser = ReplyParser(Framing.COUNTED)
        self.assertEqual(parser.feed(b"OK %d\n" % len(body)), b"")
        taken = b""
        for piece in data.draw(cut(body)):
            self.assertEqual(parser.remaining, len(body) - len(taken))
            if piece and data.draw(st.booleans()):
                parser.advance(len(piece))
                taken += piece
            else:
                taken += parser.feed(piece)
            self.assertEqual(parser.complete, taken == body)
        self.assertEqual(taken, body)
        self.assertEqual((parser.feed(surplus), parser.surplus), (b"", surplus))
        self.assertEqual((parser.remaining, parser.complete), (0, True))

    def test_what_is_missing_counts_both_ways(self) -> None:
        parser = ReplyParser(Framing.COUNTED)
        self.assertEqual(parser.feed(b"OK 10\nabc"), b"abc")
        parser.advance(5)
        self.assertEqual((parser.remaining, parser.missing), (2, "2 bytes"))
        self.assertEqual(parser.feed(b"ijk"), b"ij")
        self.assertEqual(parser.surplus, b"k")


class TrickleTests(SynchronousTestCase):
    def test_line_in_single_bytes_is_given_up_at_the_limit(self) -> None:
        for feed in (ReplyParser(Framing.COUNTED).feed, ListingNames().feed):
            for _ in range(MAX_LINE):
                feed(b"x")
            self.assertRaises(WireError, feed, b"x")
