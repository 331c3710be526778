"""The arguments of version 2: an encoded name, key=value words, and their refusal."""

from __future__ import annotations

import math
import sys

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import (
    MAX_LINE,
    MAX_NAMES,
    MAX_SIZE,
    VERBS,
    Arguments,
    Naming,
    Refusal,
    WireError,
    abilities,
    decode_name,
    encode_name,
    format_request,
    name_of,
    names_of,
    parse_arguments,
    parse_command,
)
from tests.support.wire import (
    awkward_bytes,
    checked,
    tokens,
)

# The argument of AUTH is a token, not a name.
VERSION_2 = tuple(word for word, verb in VERBS.items() if verb.version == 2 and word != b"AUTH")
TOO_LARGE = MAX_SIZE + 1

numbers = st.integers(0, MAX_SIZE) | st.sampled_from([0, 1, MAX_SIZE])
positive = numbers.filter(bool)
# One dot stands for the served directory, whose name is empty.
names = awkward_bytes.filter(lambda name: name != b".")
VALUES: dict[bytes, st.SearchStrategy[object]] = {
    b"offset": numbers,
    b"length": st.none() | numbers,
    b"if-match": st.none() | tokens,
    b"depth": positive | st.just(math.inf),
    b"after": awkward_bytes,
    b"limit": st.none() | positive,
    b"alg": tokens,
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, Arguments]:
    """A verb of version 2 and arguments for it."""
    verb = VERBS[draw(st.sampled_from(VERSION_2))]
    values = {key.decode().replace("-", "_"): draw(VALUES[key]) for key in verb.keys}
    if verb.naming is Naming.SEVERAL:
        several = st.lists(names, min_size=1, max_size=20) | st.lists(
            st.sampled_from([b"a", b"", b"b=c"]), min_size=MAX_NAMES, max_size=MAX_NAMES
        )
        values["names"] = tuple(draw(several))
    elif verb.naming is not Naming.NONE:
        values["name"] = draw(names)
    return verb.word, Arguments(**values)


@st.composite
def spellings(draw: st.DrawFn, name: bytes) -> bytes:
    """One of the words that mean the name: what need not be escaped may be."""

    def spelling(byte: int) -> bytes:
        escaped = [b"%%%02X" % byte, b"%%%02x" % byte]
        plain = [bytes([byte])] if 0x21 <= byte <= 0x7E and byte not in b"%=" else []
        return draw(st.sampled_from(plain + escaped))

    return b"".join(map(spelling, name))


@st.composite
def hostile_lines(draw: st.DrawFn) -> bytes:
    """A verb of version 2 with malformed arguments."""
    piece = (
        st.sampled_from(
            [b"=", b"%", b"%2", b"%zz", b"%41", b".", b"-1", b"inf", b"\t", b"\v", b"1"]
        )
        | st.sampled_from([*VALUES, b"if_match", b"name", b"offset=9999999999999999999"])
        | awkward_bytes
        | st.binary(max_size=300)
    )
    word = st.lists(piece, max_size=4).map(b"".join)
    words = [draw(st.sampled_from(VERSION_2)), *draw(st.lists(word, max_size=5))]
    return b" ".join(words).replace(b"\n", b"")


def parsed(line: bytes) -> Arguments:
    command = parse_command(line)
    assert command is not None
    return parse_arguments(command)


class NameTests(SynchronousTestCase):
    @checked
    @given(st.binary(min_size=1, max_size=200) | awkward_bytes.filter(bool))
    def test_any_bytes_come_back_from_one_printable_word(self, name: bytes) -> None:
        word = encode_name(name)
        self.assertTrue(all(0x21 <= byte <= 0x7E for byte in word), word)
        self.assertEqual(word.count(b"%"), sum(not 0x21 <= b <= 0x7E or b == 0x25 for b in name))
        self.assertEqual(decode_name(word), name)

    def test_what_need_not_be_escaped_is_not(self) -> None:
        plain = bytes(byte for byte in range(0x21, 0x7F) if byte != ord("%"))
        self.assertEqual(encode_name(plain), plain)
        self.assertEqual(encode_name(b"a b\n%\xff"), b"a%20b%0A%25%FF")

    @checked
    @given(st.data(), awkward_bytes.filter(bool))
    def test_any_spelling_of_a_name_means_that_name(self, data: st.DataObject, name: bytes) -> None:
        self.assertEqual(decode_name(data.draw(spellings(name))), name)

    def test_line_full_of_escapes_is_coded_without_a_callback_for_each(self) -> None:
        # A client could make a command take 100 times as long as another one.
        calls = 0

        def count(frame: object, event: str, _: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        for word, name in ((b"%61" * 5000, b"a" * 5000), (b"%FF\\x41" * 2000, b"\xff\\x41" * 2000)):
            sys.setprofile(count)
            try:
                decoded = decode_name(word)
                encode_name(b"\xff " * 8000)
            finally:
                sys.setprofile(None)
            self.assertEqual(decoded, name)
        self.assertLess(calls, 100)

    def test_malformed_names_are_refused_and_shown_harmlessly(self) -> None:
        for word in (
            *(b"", b"%", b"a%", b"%4", b"%%", b"%%41", b"%G0", b"%0g", b"%0x41", b"%u0041"),
            *(b"%+1", b"%-1", b"%_1", b"% 1", b"%1 ", b"%\n1", b"%4\n", b"%\xb2\xb3"),
            *(b"a b", b" a", b"a ", b"a\n", b"a\r", b"\t", b"\0", b"\x7f", b"\x1b[2J", b"\xc3\xa9"),
            *(b"\xff" * 10_000, b"%" * MAX_LINE),
        ):
            with self.assertRaises(WireError) as caught:
                decode_name(word)
            self.assertTrue(str(caught.exception).isprintable())
            self.assertLess(len(str(caught.exception)), 200)


class RequestTests(SynchronousTestCase):
    @checked
    @given(requests())
    @example((b"LS", Arguments(name=b"=")))
    @example((b"LS", Arguments(name=b"depth=2", after=b"a=b")))
    @example((b"GET", Arguments(name=b"offset=2", if_match="a=b")))
    @example((b"PACK", Arguments(names=(b"a b", b"offset=2", b"%", b"\n", b"", b"END"))))
    def test_any_request_is_one_line_and_comes_back(self, request: tuple[bytes, Arguments]) -> None:
        word, arguments = request
        line = format_request(word, arguments)
        self.assertEqual(line.find(b"\n"), len(line) - 1)
        self.assertTrue(line[:-1].decode("ascii").isprintable())
        command = parse_command(line[:-1])
        self.assertEqual((command.verb, command.line), (word, line[:-1]))
        self.assertEqual(parse_arguments(command), arguments)

    def test_default_is_left_out(self) -> None:
        for line, arguments in (
            (b"FEAT", Arguments()),
            (b"LS", Arguments()),
            (b"LS docs", Arguments(b"docs")),
            (b"LS depth=inf", Arguments(depth=math.inf)),
            (b"LS depth=2 after=a%20b limit=10", Arguments(depth=2, after=b"a b", limit=10)),
            (b"STAT a%20b", Arguments(b"a b")),
            (b"GET a", Arguments(b"a")),
            (b"GET a offset=1 length=0 if-match=x", Arguments(b"a", 1, 0, "x")),
            (b"HASH a", Arguments(b"a", alg="sha256")),
            (b"PACK a b%20c .", Arguments(names=(b"a", b"b c", b""))),
            (b"HASH a length=5 alg=md5", Arguments(b"a", length=5, alg="md5")),
        ):
            self.assertEqual(format_request(line.split()[0], arguments), line + b"\n")
            self.assertEqual(parsed(line), arguments)

    def test_what_the_verb_has_no_key_for_is_left_out(self) -> None:
        everything = Arguments(b"a", 1, 2, "x", 3, b"b", 4, "md5", (b"c",))
        self.assertEqual(format_request(b"FEAT", everything), b"FEAT\n")
        self.assertEqual(format_request(b"STAT", everything), b"STAT a\n")
        self.assertEqual(format_request(b"PACK", everything), b"PACK c\n")

    def test_dot_stands_for_the_served_directory(self) -> None:
        self.assertEqual(format_request(b"STAT"), b"STAT .\n")
        for word in (b".", b"%2E", b"%2e"):
            self.assertEqual(parsed(b"STAT " + word).name, b"")
            self.assertEqual(parsed(b"LS " + word).name, b"")
        self.assertEqual(parsed(b"STAT ..").name, b"..")
        self.assertEqual(parsed(b"LS . after=.").after, b".")

    @checked
    @given(st.data(), names.filter(bool), st.sampled_from([b"STAT ", b"GET ", b"LS ", b"HASH "]))
    def test_name_may_be_spelt_in_any_way(
        self, data: st.DataObject, name: bytes, verb: bytes
    ) -> None:
        self.assertEqual(parsed(verb + data.draw(spellings(name))), Arguments(name))

    def test_order_of_arguments_and_the_white_space_between_are_free(self) -> None:
        expected = Arguments(b"a", 1, 2, "x")
        for line in (
            b"GET a if-match=x length=2 offset=1",
            b"get \t a   offset=1\tlength=2  if-match=x ",
            b"GET a offset=01 length=0002 if-match=x\r",
        ):
            self.assertEqual(parsed(line), expected)

    def test_name_with_an_equals_sign_is_an_argument_to_ls_alone(self) -> None:
        self.assertEqual(parsed(b"GET offset=1").name, b"offset=1")
        self.assertEqual(parsed(b"LS depth=2"), Arguments(depth=2))
        self.assertEqual(parsed(b"LS depth%3D2"), Arguments(b"depth=2"))
        self.assertEqual(format_request(b"LS", Arguments(b"a=b")), b"LS a%3Db\n")
        self.assertEqual(format_request(b"GET", Arguments(b"a=b")), b"GET a=b\n")

    def test_line_may_be_as_long_as_the_limit_and_no_longer(self) -> None:
        longest = b"x" * (MAX_LINE - len(b"GET  offset=1"))
        self.assertEqual(len(format_request(b"GET", Arguments(longest, 1))), MAX_LINE + 1)
        self.assertRaises(WireError, format_request, b"GET", Arguments(longest + b"x", 1))
        self.assertRaises(WireError, format_request, b"GET", Arguments(b" " * (MAX_LINE // 3)))

    def test_names_that_no_line_holds(self) -> None:
        for several, reason in (
            ((), "PACK takes 1 to 512 file names, not 0"),
            ((b"a",) * 513, "PACK takes 1 to 512 file names, not 513"),
            ((b"x" * 4000,) * 5, "5 file names are too long for one line of 16384 bytes"),
            ((b"x" * 20_000,), "file name of 20000 bytes is too long: a line holds 16384"),
        ):
            with self.assertRaises(WireError) as caught:
                format_request(b"PACK", Arguments(names=several))
            self.assertEqual(str(caught.exception), reason)

    def test_too_long_a_line_is_blamed_on_the_longer_of_its_names(self) -> None:
        for arguments in (
            Arguments(after=b"x" * MAX_LINE),
            Arguments(b"a", after=b"x" * MAX_LINE),
            Arguments(b"x" * MAX_LINE, after=b"a"),
        ):
            with self.assertRaises(WireError) as caught:
                format_request(b"LS", arguments)
            self.assertIn(f"{MAX_LINE} bytes is too long", str(caught.exception))

    def test_what_would_break_the_line_or_make_no_sense_is_not_sent(self) -> None:
        for arguments in (
            Arguments(b"a", if_match="x\nDOWNLOAD b"),
            Arguments(b"a", if_match="\udc80\xe9"),
            Arguments(b"a", if_match=""),
            Arguments(b"a", offset=-1),
            Arguments(b"a", length=MAX_SIZE + 1),
        ):
            self.assertRaises(WireError, format_request, b"GET", arguments)


class NameOfTests(SynchronousTestCase):
    def test_every_command_tells_its_file_name(self) -> None:
        for line, name in (
            (b"DOWNLOAD a %41 b=c", b"a %41 b=c"),
            (b"GET a%20b offset=7", b"a b"),
            (b"STAT \t a", b"a"),
            (b"LS", b""),
            (b"LS depth=2", b""),
            (b"LS a%3Db after=c", b"a=b"),
            (b"FEAT", b""),
            (b"LIST", b""),
            (b"HASH %zz", b"%zz"),
            (b"PACK a%20b c", b"a b"),
            (b"PACK %zz c", b"%zz"),
            (b"PACK", b""),
            (b"WHO is there", b"is there"),
        ):
            command = parse_command(line)
            assert command is not None
            self.assertEqual(name_of(command), name)
            self.assertEqual(names_of(command)[:1], [name] if name else [])

    def test_every_name_of_several(self) -> None:
        for line, names in (
            (b"PACK a b  c", [b"a", b"b", b"c"]),
            (b"PACK a%20b %zz a", [b"a b", b"%zz", b"a"]),
            (b"GET a%20b offset=7", [b"a b"]),
        ):
            command = parse_command(line)
            assert command is not None
            self.assertEqual(names_of(command), names)

    @given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda line: b"PACK " + line))
    def test_no_line_is_too_odd_for_it(self, line: bytes) -> None:
        command = parse_command(line)
        if command is not None:
            self.assertIsInstance(name_of(command), bytes)
            self.assertTrue(all(names_of(command)))

    def test_name_is_decoded_once_for_the_reply_the_table_and_the_log(self) -> None:
        command = parse_command(b"STAT " + b"%61" * 5000)
        assert command is not None
        decode_name.cache_clear()
        names = {parse_arguments(command).name, name_of(command), name_of(command)}
        self.assertEqual(names, {b"a" * 5000})
        self.assertEqual(decode_name.cache_info().misses, 1)


class RefusalTests(SynchronousTestCase):
    def refusal(self, line: bytes) -> str:
        with self.assertRaises(Refusal) as caught:
            parsed(line)
        self.assertEqual(caught.exception.code, 400, line)
        return caught.exception.message

    def assert_refused(self, reason: str, *lines: bytes) -> None:
        for line in lines:
            self.assertEqual(self.refusal(line), f"{reason} '{line.split()[-1].decode()}'")

    def test_missing_name(self) -> None:
        for verb in (b"STAT", b"GET", b"HASH", b"PACK"):
            self.assertEqual(self.refusal(verb), "missing file name")
            self.assertEqual(self.refusal(verb + b"  \t"), "missing file name")

    def test_malformed_name(self) -> None:
        self.assert_refused("malformed name", b"STAT a%2", b"GET %zz", b"LS %", b"HASH a%%")
        for line in (b"PACK a b%2", b"PACK %2 a", b"PACK a " + b"b\x01"):
            self.assertIn("malformed name", self.refusal(line))

    def test_too_many_names(self) -> None:
        several = [b"a"] * MAX_NAMES
        self.assertEqual(parsed(b" ".join([b"PACK", *several])).names, tuple(several))
        self.assertEqual(
            self.refusal(b" ".join([b"PACK", *several, b"a"])),
            "513 file names: at most 512 are allowed",
        )

    def test_unknown_argument(self) -> None:
        self.assert_refused(
            "unknown argument",
            *(b"FEAT all", b"FEAT x=1", b"STAT a b", b"STAT a offset=1", b"GET a depth=1"),
            *(b"GET a if_match=x", b"GET a Offset=1", b"GET a =1", b"GET a =", b"GET a offset"),
            *(b"LS offset=1", b"LS a b", b"LS depth=1 a", b"LS name=a", b"LS a=b", b"HASH a x=y"),
        )

    def test_argument_that_is_given_twice(self) -> None:
        self.assert_refused(
            "unknown argument",
            *(b"GET a offset=1 offset=1", b"GET a if-match=x if-match=y"),
            *(b"LS depth=1 limit=2 depth=inf", b"LS after=a after=b"),
        )

    def test_number_that_is_none_or_negative_or_too_large(self) -> None:
        for value in (
            *(b"", b"-1", b"+1", b"1.5", b"1_0", b"0x10", b"1e3", b"inf", b"a", b"=1", b"1=1"),
            *(b"%d" % TOO_LARGE, b"9" * 19, b"0" * 20),
        ):
            for key in (b"offset=", b"length="):
                self.assert_refused("malformed argument", b"GET a " + key + value)
                self.assert_refused("malformed argument", b"HASH a " + key + value)
            self.assert_refused("malformed argument", b"LS limit=" + value)
            if value != b"inf":
                self.assert_refused("malformed argument", b"LS depth=" + value)

    def test_zero_where_there_has_to_be_one(self) -> None:
        self.assert_refused("malformed argument", b"LS depth=0", b"LS limit=0", b"LS depth=00")
        self.assertEqual(parsed(b"GET a offset=0 length=0"), Arguments(b"a", 0, 0))

    def test_infinity_has_one_spelling(self) -> None:
        self.assert_refused("malformed argument", b"LS depth=INF", b"LS depth=infinity")

    def test_largest_number_is_taken(self) -> None:
        self.assertEqual(parsed(b"GET a offset=%d" % MAX_SIZE).offset, MAX_SIZE)
        self.assertEqual(parsed(b"LS depth=%d" % MAX_SIZE).depth, MAX_SIZE)

    def test_digits_that_are_not_ascii(self) -> None:
        for value in ("\u0663", "\u00b2", "\uff11"):
            self.assertIn("malformed argument", self.refusal(b"GET a offset=" + value.encode()))

    def test_token_that_is_empty_or_too_long_or_not_printable(self) -> None:
        self.assertEqual(parsed(b"GET a if-match=" + b"x" * 128).if_match, "x" * 128)
        for value in (b"", b"x" * 129, b"\xc3\xa9", b"a\x1fb", b"\x7f"):
            self.assertIn("malformed argument", self.refusal(b"GET a if-match=" + value))
            self.assertIn("malformed argument", self.refusal(b"HASH a alg=" + value))

    def test_page_that_begins_after_a_malformed_name(self) -> None:
        self.assert_refused("malformed argument", b"LS after=", b"LS after=%", b"LS after=a%2")

    @checked
    @given(hostile_lines())
    @example(b"GET a " + "\U0001f600".encode() * 4000)
    @example(b"GET " + b"\xff" * 16_000)
    @example(b"LS " + b"\\=" * 8000)
    @example(b"GET a offset=" + b"9" * 16_000)
    def test_any_line_is_understood_or_refused_in_a_line_of_ascii(self, line: bytes) -> None:
        try:
            self.assertIsInstance(parsed(line), Arguments)
        except Refusal as refusal:
            self.assertEqual(refusal.code, 400)
            self.assertTrue(refusal.message.isascii() and refusal.message.isprintable())
            self.assertLess(len(refusal.message), 1000)
            self.assertEqual(str(refusal), f"400 {refusal.message}")


class AbilitiesTests(SynchronousTestCase):
    def test_abilities_are_those_of_the_protocol(self) -> None:
        self.assertEqual(
            abilities(),
            b"NATPROXY 2\n"
            b"STAT\n"
            b"GET offset length if-match\n"
            b"LS depth after limit\n"
            b"PACK\n"
            b"HASH offset length alg\n",
        )

    def test_abilities_are_the_table(self) -> None:
        first, *rows = abilities().splitlines()
        self.assertEqual(first, b"NATPROXY 2")
        announced = {word: tuple(keys) for word, *keys in (row.split() for row in rows)}
        self.assertEqual(
            announced, {word: VERBS[word].keys for word in VERSION_2 if word != b"FEAT"}
        )

    def test_auth_is_announced_only_where_it_may_be_used(self) -> None:
        self.assertEqual(abilities(True), abilities() + b"AUTH\n")

    def test_every_key_of_the_table_can_be_formatted(self) -> None:
        for word in VERSION_2:
            for key in VERBS[word].keys:
                line = b" ".join([word, b"a", key + b"=7"])
                self.assertNotEqual(parsed(line), Arguments(b"a"))
