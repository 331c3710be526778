"""The words of a line at the prompt: any name can be written as one, and read back."""

from __future__ import annotations

import os
import shlex

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.shell.quoting import quoted, read, split

NAMES = st.one_of(
    st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & set(name)),
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1).map(
        str.encode
    ),
)
STYLES = st.sampled_from(["", "'", '"', "$'"])


class QuotingTests(SynchronousTestCase):
    @given(NAMES, STYLES)
    def test_any_name_is_read_back_from_how_it_is_quoted(self, name: bytes, style: str) -> None:
        word = quoted(name, style)
        self.assertEqual(split(f"get {word}  after"), ["get", os.fsdecode(name), "after"])
        self.assertTrue(word.isprintable())

    @given(NAMES)
    def test_what_is_typed_of_a_quoted_name_is_its_beginning(self, name: bytes) -> None:
        word = quoted(name)
        for end in range(1, len(word)):
            (begun,), problem = read(word[:end])
            # A character that is cut in the middle is no character.
            self.assertTrue(name.startswith(os.fsencode(begun.text)[:-4]), (word[:end], problem))

    def test_no_more_quotes_than_a_name_needs(self) -> None:
        for name, word in (
            (b"plain-1.0_x,y@z:%41=+/~", "plain-1.0_x,y@z:%41=+/~"),
            ("café".encode(), "café"),
            (b"caf\xe9", "$'caf\\xe9'"),
            (b"a b", "'a b'"),
            (b"it's", '"it\'s"'),
            (b'it\'s "it" \\', '"it\'s \\"it\\" \\\\"'),
            (b"a\nb\tc\rd\x1b'\\", "$'a\\nb\\tc\\rd\\x1b\\'\\\\'"),
            ("no\u00a0break\u200b".encode(), "$'no\\xc2\\xa0break\\xe2\\x80\\x8b'"),
        ):
            self.assertEqual(quoted(name), word)


class ReadingTests(SynchronousTestCase):
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$")))
    def test_without_dollars_a_line_is_read_as_shlex_reads_it(self, line: str) -> None:
        try:
            expected = shlex.split(line)
        except ValueError:
            self.assertRaises(ValueError, split, line)
        else:
            self.assertEqual(split(line), expected)

    @given(st.text())
    def test_any_line_is_read_or_refused(self, line: str) -> None:
        try:
            words = split(line)
        except ValueError as error:
            self.assertRegex(str(error), r"\A[^\n]+\Z")
        else:
            self.assertNotIn("\0", "".join(words))

    def test_quotes_of_all_kinds_meet_in_one_word(self) -> None:
        self.assertEqual(split(r"""a'b c'"d\"e\f"$'\x67'\ h$ $"""), [r'ab cd"e\fg h$', "$"])

    def test_reason_of_an_invalid_line(self) -> None:
        for line, reason in (
            ("get 'a", "no closing quotation"),
            ('get "a', "no closing quotation"),
            ("get $'a", "no closing quotation"),
            ("get a\\", "nothing follows the last backslash"),
            ("get $'\\x00'", "a name has no NUL in it"),
            ("get \0", "a name has no NUL in it"),
            ("get $'\\ud800'", "there is no character \\ud800"),
            ("get $'\\Uffffffff'", "there is no character \\Uffffffff"),
        ):
            error = self.assertRaises(ValueError, split, line)
            self.assertEqual(str(error), reason)

    def test_words_have_their_offsets(self) -> None:
        words, problem = read("get  'a b'c \"d")
        self.assertEqual(
            [(word.text, word.start, word.end, word.style) for word in words],
            [("get", 0, 3, ""), ("a bc", 5, 11, "'"), ("d", 12, 14, '"')],
        )
        self.assertEqual(problem, "no closing quotation")
