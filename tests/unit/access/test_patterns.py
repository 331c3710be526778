"""Patterns of names in rules, compared with the client's patterns; and spellings of names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access.patterns import MAX_PATH, NamePattern, NamePatterns, plain_name
from natproxy.client.transfer.pattern import Pattern
from natproxy.pattern import MAX_PATTERN, PatternError

COMPONENTS = st.text("ab.*?", min_size=1, max_size=4).filter(lambda text: text not in (".", ".."))
TEXTS = st.builds(
    lambda start, components, end: start + "/".join(components) + end,
    st.sampled_from(("", "/", "**/")),
    st.lists(COMPONENTS, min_size=1, max_size=3),
    st.sampled_from(("", "/", "/**", "/***", "/****")),
)
NAMES = st.lists(
    st.text("ab.", min_size=1, max_size=4).filter(lambda text: text not in (".", "..")),
    min_size=1,
    max_size=4,
).map(lambda components: "/".join(components).encode())


def matches(text: str, name: bytes) -> bool:
    """Return whether a pattern matches a plain name."""
    return NamePatterns([NamePattern(text)]).first(name) is not None


def client_matches(text: str, name: bytes) -> bool:
    """Return whether the client's pattern matches a name, or a directory above it."""
    pattern = Pattern(text.encode())
    ends = [at for at in range(len(name)) if name[at : at + 1] == b"/"]
    return any(pattern.matches(name[:end], directory=True) for end in (*ends, len(name)))


class PatternsTests(SynchronousTestCase):
    @given(TEXTS, NAMES)
    def test_matches_as_the_clients_pattern_or_below(self, text: str, name: bytes) -> None:
        self.assertEqual(matches(text, name), client_matches(text, name))

    @given(st.lists(TEXTS, min_size=1, max_size=5), NAMES)
    def test_first_of_several(self, texts: list[str], name: bytes) -> None:
        expected = next((n for n, text in enumerate(texts) if client_matches(text, name)), None)
        self.assertEqual(NamePatterns(map(NamePattern, texts)).first(name), expected)

    def test_first_of_several_kinds(self) -> None:
        # The plain pattern is found first, and is after the deep one; that with a star is before.
        patterns = NamePatterns(map(NamePattern, ("*.key", "**", "a.key")))
        self.assertEqual(patterns.first(b"a.key"), 0)
        self.assertEqual(patterns.first(b"a.txt"), 1)
        patterns = NamePatterns(map(NamePattern, ("*.key", "/a.key", "a.key")))
        self.assertEqual(patterns.first(b"a.key"), 0)

    def test_directory_covers_what_is_below(self) -> None:
        for text in (
            "secret",
            "/secret",
            "secret/",
            "secret/***",
            "secret/****",
            "sec*",
            "[r-t]ecret",
        ):
            for name in (b"secret", b"secret/a", b"secret/a/b"):
                self.assertTrue(matches(text, name), (text, name))
            self.assertFalse(matches(text, b"public/a"), text)

    def test_slash_at_the_beginning_anchors(self) -> None:
        self.assertTrue(matches("key", b"a/key/b"))
        self.assertFalse(matches("/key", b"a/key/b"))
        self.assertFalse(matches("key", b"a/keys"))
        self.assertFalse(matches("key", b"a/monkey"))

    def test_star_stays_in_its_component(self) -> None:
        self.assertTrue(matches("/a/*/c", b"a/b/c"))
        self.assertFalse(matches("/a/*/c", b"a/b/b/c"))
        self.assertTrue(matches("/a/**/c", b"a/b/b/c"))

    def test_served_directory(self) -> None:
        for text in ("/", "*", "**", "/*", "/**"):
            self.assertTrue(matches(text, b""), text)
            self.assertTrue(matches(text, b"a/b"), text)
        for text in ("a", "?*", "*.txt", "/a/**"):
            self.assertFalse(matches(text, b""), text)

    def test_bytes_outside_of_ascii(self) -> None:
        self.assertTrue(matches("Übersicht*", "Übersicht 1".encode()))
        self.assertTrue(matches("a\udcff", b"a\xff"))
        self.assertTrue(matches("a?b", b"a\nb"))

    def test_malformed(self) -> None:
        for text in (
            "",
            "a//b",
            "//",
            "///",
            "//***",
            "//a",
            "./a",
            "a/../b",
            "a\0b",
            "[a",
            "*\\",
            "a" * (MAX_PATTERN + 1),
        ):
            with self.assertRaisesRegex(PatternError, "cannot be used: "):
                NamePattern(text)


class PlainNameTests(SynchronousTestCase):
    def test_spellings_of_one_name(self) -> None:
        for name in (b"a/b", b"/a/b", b"a//b", b"a/./b", b"./a/b/", b"//a///b//.", b"a/b/."):
            self.assertEqual(plain_name(name), b"a/b", name)
        for name in (b"", b".", b"/", b"./", b"//."):
            self.assertEqual(plain_name(name), b"", name)

    def test_names_that_look_alike_are_kept(self) -> None:
        for name in (b".a", b"a/.b", b"a/..b", b"...", b"a\nb", b"a ", b"\xff", b"a\\b", b"a%2Fb"):
            self.assertEqual(plain_name(name), name)

    def test_names_that_cannot_be_compared(self) -> None:
        for name in (b"..", b"a/../b", b"a/..", b"a\0b", b"a" * (MAX_PATH + 1)):
            self.assertIsNone(plain_name(name), name)
        self.assertIsNotNone(plain_name(b"a" * MAX_PATH))
