"""Texts with wildcards."""

from __future__ import annotations

import sqlite3
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import encode_name, printable
from natproxy.records.filter.pattern import (
    displayed_name,
    glob_of,
    literal_of,
    matcher,
    symbols_of,
)


def matches(pattern: str, text: str) -> bool:
    """Return whether a displayed text matches a pattern as written."""
    return matcher(symbols_of(pattern))(text)


def simple(pattern: str, text: str) -> bool:
    """Return the same by an obvious algorithm, for patterns without escapes."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return simple(pattern[1:], text) or bool(text and simple(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and simple(pattern[1:], text[1:])


class MatcherTests(SynchronousTestCase):
    def test_patterns(self) -> None:
        for pattern, text, expected in (
            ("images/*.iso", "images/a.iso", True),
            ("images/*.iso", "images/a/b.iso", True),
            ("images/*.iso", "images/.iso", True),
            ("images/*.iso", "images/a.isos", False),
            ("a*a", "a", False),
            ("a*a", "aa", True),
            ("*", "", True),
            ("?", "", False),
            ("?", "ä", True),
            ("", "", True),
            ("[ab]", "[ab]", True),
            ("[ab]", "a", False),
            (r"a\*", "a*", True),
            (r"a\*", "ab", False),
            (r"it\'s", "it's", True),
            ("A", "a", False),
        ):
            self.assertEqual(matches(pattern, text), expected, (pattern, text))

    @given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
    def test_as_the_obvious_algorithm(self, pattern: str, text: str) -> None:
        self.assertEqual(matches(pattern, text), simple(pattern, text))

    @given(st.text("ab*", max_size=8), st.binary(max_size=4), st.binary(max_size=4))
    def test_escape_is_one_character(self, pattern: str, left: bytes, right: bytes) -> None:
        self.assertTrue(matches("?", printable(b"\xff")))
        self.assertFalse(matches("*xff", printable(b"\xff")))
        shown = printable(left + right)
        # Two halves of a character that are displayed apart are one together.
        if printable(left) + printable(right) == shown:
            self.assertTrue(matches("*", shown))

    @given(st.binary(max_size=20))
    def test_displayed_name_can_be_pasted(self, name: bytes) -> None:
        shown = printable(name)
        pasted = "".join(f"\\{one}" if one in "*?'\"" else one for one in shown)
        self.assertTrue(matches(pasted, shown))
        self.assertEqual(literal_of(symbols_of(pasted)), shown)

    @given(st.text(st.characters(exclude_characters="*?\\"), max_size=10))
    def test_text_that_is_typed_matches_its_name(self, text: str) -> None:
        name = encode_name(text.encode("utf-8", "surrogatepass")).decode()
        self.assertTrue(matches(text, displayed_name(name)))

    def test_time_is_linear(self) -> None:
        name = "a" * 16_000
        for pattern in (
            "*a" * 1000 + "*b",
            "?a" * 1000 + "*b?",
            "*" + "a" * 2000 + "b*",
            "*?" * 1000,
        ):
            match = matcher(symbols_of(pattern))
            started = time.process_time()
            match(name)
            self.assertLess(time.process_time() - started, 0.5, pattern[:4])


class GlobTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.database = sqlite3.connect(":memory:")
        self.addCleanup(self.database.close)

    def selects(self, pattern: str, text: str, encoded: bool) -> bool:
        glob, literal = glob_of(symbols_of(pattern), encoded)
        operator = "=" if literal else "glob"
        (found,) = self.database.execute(f"select ? {operator} ?", (text, glob)).fetchone()
        return bool(found)

    @given(st.text("ab*?[]%^-5 ", max_size=6), st.text("ab*?[]%^-5 ", max_size=6))
    def test_glob_selects_what_matches(self, pattern: str, text: str) -> None:
        if matches(pattern, text):
            self.assertTrue(self.selects(pattern, text, False))
            self.assertTrue(self.selects(pattern, encode_name(text.encode()).decode(), True))

    def test_literal_is_exact(self) -> None:
        self.assertEqual(glob_of(symbols_of("a b%"), True), ("a%20b%25", True))
        self.assertEqual(glob_of(symbols_of(r"a\\\x07"), True), ("a\\%07", True))
        self.assertEqual(glob_of(symbols_of(r"\u200b"), True), ("%E2%80%8B", True))

    def test_escape_that_stands_for_several_is_wild(self) -> None:
        self.assertEqual(glob_of(symbols_of(r"a\x85"), True), ("a*", False))
        self.assertEqual(glob_of(symbols_of(r"a\ud800"), True), ("a*", False))

    def test_long_part_is_cut(self) -> None:
        glob, _ = glob_of(symbols_of("a" * 1000 + "*b"))
        self.assertEqual(glob, "a" * 63 + "**b")
        self.assertTrue(self.selects("a" * 1000 + "*b", "a" * 1000 + "b", False))
