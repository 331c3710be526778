"""Replies of version 2: how each is framed, errors with a code, bytes that go another way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import (
    MAX_LINE,
    VERBS,
    Framing,
    ListingNames,
    ReplyParser,
    WireError,
    abilities,
    body_of,
    error_line,
    parse_command,
    parse_error,
    parse_header,
)
from tests.unit.protocol.test_protocol import awkward_bytes, checked, cut

FRAMINGS = {
    b"DOWNLOAD": Framing.COUNTED,
    b"GET": Framing.COUNTED,
    b"LS": Framing.COUNTED,
    b"LIST": Framing.LISTING,
    b"FEAT": Framing.LISTING,
    b"STAT": Framing.NOTHING,
    b"HASH": Framing.NOTHING,
}


class FramingTests(SynchronousTestCase):
    def test_each_verb_is_framed_as_the_protocol_says(self) -> None:
        self.assertEqual(set(VERBS), set(FRAMINGS))
        for word, framing in FRAMINGS.items():
            for line in (word, word.lower(), word + b" a offset=1", word + b"\r"):
                command = parse_command(line)
                self.assertTrue(command.known)
                self.assertIs(command.framing, framing, line)

    def test_key_of_the_table_is_the_verb_of_its_row(self) -> None:
        for word, verb in VERBS.items():
            self.assertEqual((verb.word, verb.word.upper()), (word, word))

    def test_verb_that_only_begins_like_one_is_unknown(self) -> None:
        for line in (
            b"GETS a",
            b"LSR",
            b"HASH256 a",
            b"FEATURES",
            b"GE",
            b"STAT\0 a",
            b"G\xc3\x89T",
        ):
            command = parse_command(line)
            self.assertFalse(command.known)
            self.assertIs(command.framing, Framing.NOTHING)

    def test_one_line_answers_a_verb_without_a_body(self) -> None:
        header = parse_header(b"OK type=file size=5", Framing.NOTHING)
        self.assertEqual((header.words, header.size), (b"type=file size=5", 0))
        self.assertIsNone(body_of(header))

    def test_counted_header_gives_the_words_after_its_size(self) -> None:
        header = parse_header(b"OK 5 offset=1 size=9", Framing.COUNTED)
        self.assertEqual((header.size, header.words), (5, b"offset=1 size=9"))

    def test_abilities_are_a_listing(self) -> None:
        parser, names = ReplyParser(Framing.LISTING), ListingNames()
        read = list(names.feed(parser.feed(b"OK\n" + abilities() + b"END\nsurplus")))
        self.assertTrue(parser.complete)
        self.assertEqual(parser.surplus, b"surplus")
        self.assertEqual(read, abilities().splitlines())


class ErrorTests(SynchronousTestCase):
    def test_code_comes_before_the_message(self) -> None:
        self.assertEqual(error_line("file not found", 404), b"ERR 404 file not found\n")
        self.assertEqual(error_line("changed etag=x", 412), b"ERR 412 changed etag=x\n")
        self.assertEqual(error_line("\u00e9\r\nOK 5\n", 500), b"ERR 500 \\xe9 OK 5\n")

    def test_code_and_message_are_taken_apart(self) -> None:
        for error, code, message in (
            (b"404 file not found", 404, b"file not found"),
            (b"412 changed etag=x", 412, b"changed etag=x"),
            (b"416", 416, b""),
            (b"416 ", 416, b""),
            (b"500 \xff\r", 500, b"\xff\r"),
        ):
            self.assertEqual(parse_error(error), (code, message))

    def test_message_of_version_1_has_no_code(self) -> None:
        for error in (
            *(b"", b"file not found", b"unknown command", b"proxy error: 404 or so"),
            *(b"40", b"4040", b"4040 x", b"099 x", b"600 x", b"-404 x", b"404x", b" 404 x"),
            *(b"404\tx", b"404: x", "\u0664\u0660\u0664 x".encode()),
        ):
            self.assertEqual(parse_error(error), (None, error))

    @checked
    @given(st.text(max_size=40), st.none() | st.integers(100, 599))
    def test_any_error_is_one_line_that_comes_back(self, message: str, code: int | None) -> None:
        line = error_line(message, code)
        self.assertTrue(line.isascii())
        self.assertEqual(line.find(b"\n"), len(line) - 1)
        header = parse_header(line[:-1], Framing.COUNTED)
        if code is not None:
            words = error_line(message)[len(b"ERR ") : -1]
            self.assertEqual(parse_error(header.error), (code, words))

    @checked
    @given(awkward_bytes)
    def test_any_error_of_a_peer_is_understood(self, error: bytes) -> None:
        code, message = parse_error(error)
        self.assertTrue(error.endswith(message))
        self.assertEqual(code is None, message == error)


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
