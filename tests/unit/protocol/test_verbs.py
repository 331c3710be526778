"""The table of verbs, and the lines of commands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import (
    MAX_LINE,
    MAX_TOKEN,
    VERBS,
    Framing,
    ListingNames,
    ReplyParser,
    WireError,
    abilities,
    body_of,
    error_line,
    format_auth,
    format_command,
    parse_command,
    parse_header,
    parse_token,
)
from tests.support.wire import awkward_bytes, checked

FRAMINGS = {
    b"DOWNLOAD": Framing.COUNTED,
    b"GET": Framing.COUNTED,
    b"LS": Framing.COUNTED,
    b"PACK": Framing.COUNTED,
    b"LIST": Framing.LISTING,
    b"FEAT": Framing.LISTING,
    b"STAT": Framing.NOTHING,
    b"HASH": Framing.NOTHING,
    b"AUTH": Framing.NOTHING,
}


class FramingTests(SynchronousTestCase):
    def test_each_verb_is_framed_as_specified(self) -> None:
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

    def test_reply_to_a_verb_without_a_body_is_one_line(self) -> None:
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

    def test_name_that_a_line_cannot_contain_is_refused_with_the_reason(self) -> None:
        self.assertIn("missing file name", self.refusal(b""))
        self.assertIn("carriage return", self.refusal(b"a\rb"))
        self.assertIn("carriage return", self.refusal(b"a\r"))
        self.assertIn("line feed", self.refusal(b"a\nLIST"))
        self.assertIn("NUL", self.refusal(b"a\0b"))
        for space in (b" ", b"\t", b"\v", b"\f"):
            self.assertIn("white space", self.refusal(space + b"a"))

    def test_verb_without_a_name_accepts_none(self) -> None:
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


class SecretTests(SynchronousTestCase):
    """The argument of ``AUTH``, in all the ways in which it can be written."""

    def test_any_line_with_auth_as_a_part_of_its_verb_is_secret(self) -> None:
        for line in (
            *(b"AUTH s3cret", b"auth s3cret", b"  Auth\ts3cret ", b"AUTH s3cret more\r"),
            *(b"AUTH=s3cret", b"auth:s3cret x", b"AUTHs3cret", b'"AUTH s3cret"'),
            *(b"\xef\xbb\xbfAUTH s3cret", b"\0auth s3cret", b"Authorization: s3cret"),
        ):
            command = parse_command(line)
            self.assertTrue(command.secret, line)
            for text in (repr(command), str(command), f"{command}", repr([command.shown])):
                self.assertNotIn("s3cret", text.lower())
            self.assertEqual(command.shown.line, b"AUTH [redacted]")

    def test_other_commands_are_not(self) -> None:
        for line in (b"GET AUTH", b"STAT auth", b"LIST", b"WHO", b"AUT x"):
            command = parse_command(line)
            self.assertFalse(command.secret)
            self.assertIs(command.shown, command)

    def test_auth_alone_shows_nothing_secret(self) -> None:
        self.assertEqual(parse_command(b" auth \r").shown.line.strip(), b"auth")

    @checked
    @given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=256))
    def test_token_comes_back(self, token: str) -> None:
        line = format_auth(token)
        self.assertEqual(parse_token(parse_command(line[:-1])), token.encode())
        self.assertEqual(parse_token(parse_command(line[:-1] + b" \r")), token.encode())

    def test_malformed_token_is_not_sent_and_not_shown(self) -> None:
        for token in ("", "a s3cret", "s3cret\n", "s3cret\u00fc", "s3cret" * 100):
            with self.assertRaises(WireError) as caught:
                format_auth(token)
            self.assertNotIn("s3cret", str(caught.exception))

    def test_malformed_token_is_none(self) -> None:
        for word in (b"", b"a b", b"a\0", b"\xff", b"a" * (MAX_TOKEN + 1)):
            self.assertIsNone(parse_token(parse_command(b"AUTH " + word)))
