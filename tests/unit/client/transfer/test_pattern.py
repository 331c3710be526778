"""Patterns: what they match, what is malformed, and how long a comparison may take."""

from __future__ import annotations

import math
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import UsageError
from natproxy.client.transfer.pattern import Glob, Pattern
from natproxy.pattern import MAX_PATTERN, has_wildcard


class Token(NamedTuple):
    """Part of a pattern, and the bytes that it stands for.

    :ivar text: in the pattern.
    :ivar one: the bytes of which it matches one; ``None`` for a star.
    """

    text: bytes
    one: bytes | None


STAR = Token(b"*", None)
STARS = Token(b"**", None)
ANY = bytes(each for each in range(256) if each != ord("/"))
TOKENS = st.sampled_from(
    [
        STAR,
        STARS,
        *(Token(bytes([each]), bytes([each])) for each in b"abA-]!.\xff\n"),
        Token(b"/", b"/"),
        Token(b"?", ANY),
        Token(b"[ab]", b"ab"),
        Token(b"[!a]", ANY.replace(b"a", b"")),
        Token(b"[^b-]", ANY.replace(b"b", b"").replace(b"-", b"")),
        Token(b"[]a]", b"]a"),
        Token(b"[a-c]", b"abc"),
        Token(b"[a\\-c]", b"a-c"),
        Token(b"[c-a]", b""),
        Token(b"[+-0]", b"+,-.0"),
        Token(b"[[:upper:]b]", b"ABCDEFGHIJKLMNOPQRSTUVWXYZb"),
    ]
)
PATTERNS = st.lists(TOKENS, min_size=1, max_size=8)
NAMES = st.text("abA-]!.\xff\n", min_size=1, max_size=4).map(lambda text: text.encode("latin-1"))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)


def merged(tokens: list[Token]) -> list[Token]:
    """Join stars that follow each other, as a pattern's text does."""
    joined: list[Token] = []
    for token in tokens:
        if joined and joined[-1].one is None and token.one is None:
            joined[-1] = STARS
        else:
            joined.append(token)
    return joined


def matches_whole(tokens: list[Token], text: bytes) -> bool:
    """Return whether tokens match a text, tried for each end of each token."""
    ends = {0}
    for token in tokens:
        following = set()
        for end in ends:
            if token.one is not None:
                if text[end : end + 1] and text[end] in token.one:
                    following.add(end + 1)
                continue
            for further in range(end, len(text) + 1):
                if token == STAR and b"/" in text[end:further]:
                    break
                following.add(further)
        ends = following
    return len(text) in ends


def starts_of(path: bytes) -> list[int]:
    return [0, *(at + 1 for at, byte in enumerate(path) if byte == ord("/"))]


class PatternTests(SynchronousTestCase):
    def assert_matches(self, pattern: bytes, *paths: bytes) -> None:
        for path in paths:
            found = Pattern(pattern).matches(path.rstrip(b"/"), path.endswith(b"/"))
            self.assertTrue(found, (pattern, path))

    def assert_no_match(self, pattern: bytes, *paths: bytes) -> None:
        for path in paths:
            found = Pattern(pattern).matches(path.rstrip(b"/"), path.endswith(b"/"))
            self.assertFalse(found, (pattern, path))

    def test_without_a_slash_the_last_name_is_compared(self) -> None:
        self.assert_matches(b"*.csv", b"a.csv", b"x/y/a.csv", b".csv", b"a.csv/")
        self.assert_no_match(b"*.csv", b"a.csv/b", b"a.CSV", b"a.csv2")
        self.assert_matches(b"a", b"a", b"x/a")
        self.assert_no_match(b"a", b"ba", b"a/b")

    def test_slash_at_the_beginning_is_the_root(self) -> None:
        self.assert_matches(b"/a", b"a")
        self.assert_no_match(b"/a", b"x/a")
        self.assert_matches(b"/a/*", b"a/b")
        self.assert_no_match(b"/a/*", b"x/a/b", b"a/b/c")

    def test_inner_slash_compares_the_last_names(self) -> None:
        self.assert_matches(b"a/b", b"a/b", b"x/a/b")
        self.assert_no_match(b"a/b", b"xa/b", b"a/b/c")

    def test_slash_at_the_end_is_a_directory(self) -> None:
        self.assert_matches(b"a/", b"a/", b"x/a/")
        self.assert_no_match(b"a/", b"a", b"x/a")

    def test_two_stars_cross_slashes(self) -> None:
        self.assert_matches(b"a/**/z", b"a/b/z", b"a/b/c/z")
        self.assert_no_match(b"a/**/z", b"a/z")
        self.assert_matches(b"**/z", b"z", b"a/z", b"a/b/z")
        self.assert_matches(b"a**z", b"az", b"x/a/z", b"a/b/z")

    def test_three_stars_also_match_the_directory(self) -> None:
        self.assert_matches(b"a/***", b"a/", b"a/b", b"x/a/b/c")
        self.assert_matches(b"a/****", b"a/", b"a/b", b"x/a/b/c")
        self.assert_no_match(b"a/***", b"a", b"ba/c")
        self.assert_no_match(b"a/**", b"a/")

    def test_backslash_is_literal_in_a_pattern_without_wildcards(self) -> None:
        self.assert_matches(rb"a\b", rb"a\b")
        self.assert_matches(rb"a\b*", b"abc")
        self.assert_matches(rb"a\*b", b"a*b")
        self.assert_no_match(rb"a\*b", b"axb")

    def test_malformed_patterns_are_refused(self) -> None:
        for text, reason in (
            (b"", "it has no name in it"),
            (b"//", "it has no name in it"),
            (b"a" * (MAX_PATTERN + 1), "longer than 4096 bytes"),
            (b"a[b", "a [ without its ] in the same name"),
            (b"a[b/c]", "a [ without its ] in the same name"),
            (b"[]", "a [ without its ] in the same name"),
            (b"[a\\", "a [ without its ] in the same name"),
            (b"[a-", "a [ without its ] in the same name"),
            (b"*\\", "nothing follows the last backslash"),
            (b"[[:word:]]", "there is no class [:word:]"),
        ):
            error = self.assertRaises(UsageError, Pattern, text)
            self.assertTrue(str(error).startswith("the pattern '"), error)
            self.assertTrue(str(error).endswith(f"' cannot be used: {reason}"), error)

    @given(PATTERNS, PATHS, st.booleans())
    def test_anchored_patterns_match_as_the_reference(
        self, tokens: list[Token], path: bytes, directory: bool
    ) -> None:
        text = b"/" + b"".join(token.text for token in tokens)
        if not text.strip(b"/") or text.endswith(b"/"):
            return
        compared = path + b"/" if directory and text.endswith(b"***") else path
        expected = matches_whole(merged(tokens), compared)
        self.assertEqual(Pattern(text).matches(path, directory), expected, text)

    @given(PATTERNS, PATHS)
    def test_other_patterns_match_from_the_beginning_of_a_name(
        self, tokens: list[Token], path: bytes
    ) -> None:
        text = b"".join(token.text for token in tokens)
        if text.startswith(b"/") or text.endswith(b"/"):
            return
        rest = merged(tokens)
        if text.startswith(b"**"):
            expected = matches_whole(rest, b"/" + path)
        else:
            expected = any(matches_whole(rest, path[start:]) for start in starts_of(path))
        self.assertEqual(Pattern(text).matches(path, directory=False), expected, text)

    def test_stars_are_not_tried_again(self) -> None:
        # Backtracking over eight stars would not end within a human life.
        for text in (b"*a" * 7 + b"*b", b"**a" * 7 + b"**b", b"a**" + b"a*a**" * 7 + b"b"):
            for path in (b"a" * 255, b"a/" * 127 + b"a"):
                self.assertFalse(Pattern(text).matches(path, directory=False))


class GlobTests(SynchronousTestCase):
    def found(self, text: bytes, *paths: bytes) -> list[bytes]:
        glob = Glob(text)
        return [path for path in paths if glob.matches(path)]

    def test_names_before_the_first_wildcard_are_the_directory(self) -> None:
        for text, directory, depth in (
            (b"*.csv", b"", 1),
            (b"/a/b/*.csv", b"a/b", 1),
            (b"a//x?/b/", b"a", 2),
            (b"a/**/b", b"a", math.inf),
            (b"a\\*/b", b"", 2),
        ):
            glob = Glob(text)
            self.assertEqual((glob.directory, glob.depth), (directory, depth), text)

    def test_star_does_not_cross_a_slash(self) -> None:
        self.assertEqual(self.found(b"t/*.csv", b"a.csv", b"b/a.csv", b".csv"), [b"a.csv"])
        self.assertEqual(self.found(b"*/b", b"a/b", b"a", b"b", b"x/a/b"), [b"a/b"])

    def test_two_stars_are_any_number_of_directories(self) -> None:
        paths = (b"z", b"a/z", b"a/b/z", b"a/z/b")
        self.assertEqual(self.found(b"**/z", *paths), [b"z", b"a/z", b"a/b/z"])
        self.assertEqual(self.found(b"*/**/z", *paths), [b"a/z", b"a/b/z"])
        self.assertEqual(self.found(b"**/**", *paths), list(paths))

    def test_dot_at_the_beginning_of_a_name_is_typed(self) -> None:
        paths = (b".a", b"b", b".c/d", b"e/.f")
        self.assertEqual(self.found(b"*", *paths), [b"b"])
        self.assertEqual(self.found(b".*", *paths), [b".a"])
        self.assertEqual(self.found(b"**", *paths), [b"b"])
        self.assertEqual(self.found(b"**/.*", *paths), [b".a", b"e/.f"])

    def test_escaped_wildcard_is_literal(self) -> None:
        self.assertEqual(self.found(b"\\*?", b"*a", b"ba"), [b"*a"])
        self.assertEqual(self.found(b"\\.*", b".a", b"a"), [b".a"])

    def test_wildcards_are_recognized(self) -> None:
        self.assertEqual(
            [has_wildcard(each) for each in (b"a", b"a\\b", b"a*", b"a?", b"[a")],
            [False, False, True, True, True],
        )
