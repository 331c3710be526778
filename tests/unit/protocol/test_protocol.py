"""The grammar: commands, headers, how replies are framed, and what may be shown of bytes."""

from __future__ import annotations

import sys
import unicodedata
from itertools import pairwise
from unittest import mock

from hypothesis import given, settings
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
    error_line,
    format_command,
    listable,
    parse_command,
    parse_header,
    printable,
)

checked = settings(deadline=None, derandomize=True, max_examples=200)

AWKWARD = st.sampled_from(b" \t\r\n\v\f\0\\%'END/\x1b\x7f\x85\xa0\xff")
awkward_bytes = st.lists(AWKWARD | st.integers(0, 255), max_size=40).map(bytes)
file_names = awkward_bytes.filter(lambda name: name and b"\0" not in name and b"/" not in name)
listing_lines = st.lists(
    st.sampled_from([b"", b"E", b"EN", b"END ", b" END", b"ENDING", b"END\r", b"END" * 2, b"a b"])
    | awkward_bytes.filter(lambda line: b"\n" not in line and line != b"END"),
    max_size=8,
)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Pieces, some of them empty, that the bytes may come in."""
    marks = draw(st.lists(st.integers(0, len(data)), max_size=12))
    ends = [0, *sorted(marks), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


@st.composite
def replies(draw: st.DrawFn) -> tuple[Framing, bytes, bytes]:
    """How an OK is framed, a header line, and the body that belongs to it."""
    framing = draw(st.sampled_from(Framing))
    if draw(st.integers(0, 4)) == 0:
        return framing, b"ERR " + draw(st.sampled_from([b"", b"file not found", b"OK 5"])), b""
    if framing is Framing.COUNTED:
        body = draw(awkward_bytes)
        return framing, b"OK %d%s" % (len(body), draw(st.sampled_from([b"", b" etag=x"]))), body
    if framing is Framing.LISTING:
        lines = draw(listing_lines)
        return framing, b"OK", b"".join(line + b"\n" for line in [*lines, b"END"])
    return framing, draw(st.sampled_from([b"OK", b"OK size=5", b"250 hello", b""])), b""


class CommandParsingTests(SynchronousTestCase):
    def parsed(self, line: bytes) -> tuple[bytes, bytes, bytes]:
        command = parse_command(line)
        assert command is not None
        return command.verb, command.name, command.line

    def test_one_carriage_return_before_the_line_feed_is_dropped(self) -> None:
        self.assertEqual(self.parsed(b"LIST\r"), (b"LIST", b"", b"LIST"))
        self.assertEqual(self.parsed(b"DOWNLOAD a\r"), (b"DOWNLOAD", b"a", b"DOWNLOAD a"))
        self.assertEqual(self.parsed(b"DOWNLOAD a\r\r"), (b"DOWNLOAD", b"a\r", b"DOWNLOAD a\r\r"))

    @checked
    @given(st.sampled_from([b"DOWNLOAD ", b"list", b" x\t", b""]), awkward_bytes, st.integers(0, 3))
    def test_next_peer_understands_the_line_as_we_do(
        self, verb: bytes, rest: bytes, returns: int
    ) -> None:
        command = parse_command(verb + rest.replace(b"\n", b"") + b"\r" * returns)
        if command is not None:
            self.assertEqual(parse_command(command.line), command)

    def test_blank_lines_are_no_command(self) -> None:
        for line in (b"", b"\r", b" ", b"\t \t", b"  \r"):
            self.assertIsNone(parse_command(line), line)

    def test_verb_is_case_insensitive_and_the_name_is_not(self) -> None:
        line = b"dOwNlOaD ReadMe"
        self.assertEqual(self.parsed(line), (b"DOWNLOAD", b"ReadMe", line))
        self.assertIs(parse_command(b"list").framing, Framing.LISTING)

    def test_name_is_the_rest_of_the_line_after_the_first_white_space(self) -> None:
        for line, name in (
            (b"DOWNLOAD a b  c", b"a b  c"),
            (b"DOWNLOAD \t  a", b"a"),
            (b"DOWNLOAD\ta", b"a"),
            (b"DOWNLOAD a ", b"a "),
            (b"  DOWNLOAD a", b"a"),
            (b"DOWNLOAD DOWNLOAD", b"DOWNLOAD"),
            (b"DOWNLOAD \xff\xc3\x28", b"\xff\xc3\x28"),
            (b"DOWNLOAD", b""),
            (b"DOWNLOAD   ", b""),
        ):
            self.assertEqual(self.parsed(line), (b"DOWNLOAD", name, line))

    def test_unknown_verb_is_a_command_whose_reply_is_one_line(self) -> None:
        command = parse_command(b"who a%20b")
        self.assertEqual((command.verb, command.name), (b"WHO", b"a%20b"))
        self.assertIs(command.framing, Framing.NOTHING)

    def test_framing_follows_the_verb(self) -> None:
        self.assertIs(parse_command(b"DOWNLOAD a").framing, Framing.COUNTED)
        self.assertIs(parse_command(b"LIST").framing, Framing.LISTING)


class CommandFormattingTests(SynchronousTestCase):
    def refusal(self, name: bytes) -> str:
        with self.assertRaises(WireError) as caught:
            format_command(b"DOWNLOAD", name)
        return str(caught.exception)

    def test_command_is_one_line(self) -> None:
        self.assertEqual(format_command(b"LIST"), b"LIST\n")
        self.assertEqual(format_command(b"DOWNLOAD", b"a b"), b"DOWNLOAD a b\n")

    def test_name_that_a_line_cannot_carry_is_refused_and_the_reason_said(self) -> None:
        self.assertIn("missing file name", self.refusal(b""))
        self.assertIn("carriage return", self.refusal(b"a\rb"))
        self.assertIn("carriage return", self.refusal(b"a\r"))
        self.assertIn("line feed", self.refusal(b"a\nLIST"))
        self.assertIn("NUL", self.refusal(b"a\0b"))
        for space in (b" ", b"\t", b"\v", b"\f"):
            self.assertIn("white space", self.refusal(space + b"a"))

    def test_verb_that_takes_no_name_is_given_none(self) -> None:
        self.assertRaises(WireError, format_command, b"LIST", b"a")

    def test_line_may_be_as_long_as_the_limit_and_no_longer(self) -> None:
        longest = b"x" * (MAX_LINE - len(b"DOWNLOAD "))
        self.assertEqual(len(format_command(b"DOWNLOAD", longest)), MAX_LINE + 1)
        self.assertIn("too long", self.refusal(longest + b"x"))

    @checked
    @given(awkward_bytes)
    def test_accepted_names_come_back_and_the_others_are_refused(self, name: bytes) -> None:
        carried = name and not set(name) & set(b"\r\n\0") and name[0] not in b" \t\v\f"
        if not carried:
            self.assertTrue(self.refusal(name).isprintable())
            return
        line = format_command(b"DOWNLOAD", name)
        self.assertEqual(line.find(b"\n"), len(line) - 1)
        command = parse_command(line[:-1])
        self.assertEqual((command.verb, command.name), (b"DOWNLOAD", name))

    def test_error_line_is_ascii(self) -> None:
        self.assertEqual(error_line("file not found"), b"ERR file not found\n")
        self.assertEqual(error_line("\u00e9\u20ac"), b"ERR \\xe9\\u20ac\n")


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

    def test_any_first_line_answers_a_verb_that_is_not_known(self) -> None:
        for line in (b"OK", b"OK type=file size=5", b"250 hello", b""):
            header = parse_header(line, Framing.NOTHING)
            self.assertEqual((header.error, header.size), (None, 0))
            self.assertIsNone(body_of(header))

    def test_nothing_follows_an_error_whatever_was_asked(self) -> None:
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

    def test_what_is_missing_is_said(self) -> None:
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

    def test_header_without_an_end_is_given_up_at_the_line_limit(self) -> None:
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


class PrintableTests(SynchronousTestCase):
    def test_no_more_is_escaped_than_is_shown(self) -> None:
        escaped: list[str] = []

        def escape(character: str) -> str:
            escaped.append(character)
            return "?"

        with mock.patch("natproxy.protocol.text._escape", escape):
            self.assertEqual(printable(b"\x01" * 16_000, 80), "?" * 77 + "...")
        self.assertEqual(len(escaped), 81)

    def test_utf_8_is_shown_and_the_rest_escaped(self) -> None:
        self.assertEqual(printable("a é € 😀".encode()), "a é € 😀")
        self.assertEqual(printable(b"a\xffb\xc3"), "a\\xffb\\xc3")
        self.assertEqual(printable(b"a\r\n\tb\0\x7f"), "a\\x0d\\x0a\\x09b\\x00\\x7f")
        self.assertEqual(printable("\u2028\u202e\u0085".encode()), "\\u2028\\u202e\\x85")
        self.assertEqual(printable(b"\xed\xa0\x80"), "\\xed\\xa0\\x80")

    def test_every_invisible_character_is_escaped(self) -> None:
        ignorable = {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x3164, 0xFE0F, 0xFFA0, 0xE0100}
        for code in range(sys.maxunicode + 1):
            character = chr(code)
            invisible = unicodedata.category(character) in ("Cf", "Cc", "Zl", "Zp")
            if not invisible and code not in ignorable:
                continue
            shown = printable(f"a{character}b".encode())
            self.assertTrue(shown.isascii(), hex(code))
            digits = {4: "\\x", 6: "\\u", 10: "\\U"}
            self.assertEqual(shown, f"a{digits[len(shown) - 2]}{code:0{len(shown) - 4}x}b")

    def test_what_people_write_is_shown(self) -> None:
        for text in ("naïve café", "日本語", "Привет", "שלום", "नमस्ते", "e\u0301", "😀", "a\u00a0b"):
            self.assertEqual(printable(text.encode()), text)

    def test_escapes_cannot_be_imitated(self) -> None:
        self.assertNotEqual(printable(rb"\x0a"), printable(b"\n"))
        self.assertEqual(printable(rb"\x0a"), r"\\x0a")

    @checked
    @given(awkward_bytes | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
    def test_neither_a_line_can_be_forged_nor_a_terminal_driven(self, text: bytes) -> None:
        shown = printable(text)
        self.assertLessEqual(len(shown.splitlines()), 1)
        categories = {unicodedata.category(character) for character in shown}
        self.assertFalse(categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}, shown)
        directions = {unicodedata.bidirectional(character) for character in shown}
        self.assertFalse(directions & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI"})
        shown.encode("utf-8")

    @checked
    @given(st.binary(max_size=200), st.integers(10, 100))
    def test_text_is_never_longer_than_the_limit(self, text: bytes, limit: int) -> None:
        shown = printable(text, limit)
        self.assertLessEqual(len(shown), limit)
        if printable(text, 10_000) != shown:
            self.assertTrue(shown.endswith("..."))
            self.assertTrue(printable(text, 10_000).startswith(shown[:-3]))

    def test_text_at_the_limit_is_not_cut(self) -> None:
        self.assertEqual(printable(b"x" * 20, 20), "x" * 20)
        self.assertEqual(printable(b"x" * 21, 20), "x" * 17 + "...")

    def test_cut_is_marked_when_every_character_has_four_bytes(self) -> None:
        self.assertEqual(printable("😀".encode() * 21, 20), "😀" * 17 + "...")
