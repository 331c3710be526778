"""Patterns of names, of rules and of the client: the compiled ones against a naive matcher."""

from __future__ import annotations

from fuzz.naive import TooManySteps, matches
from fuzz.oracles import is_safe
from natproxy.access.patterns import MAX_PATH, NamePattern, NamePatterns, plain_name
from natproxy.client.errors import UsageError
from natproxy.client.transfer.pattern import Glob, Pattern
from natproxy.pattern import STARS, PatternError, has_wildcard

WORDS = ("**", "/**", "/***", "/****", "[[:digit:]]", "[!a-z]", "\\*")


def check(data: bytes) -> None:
    """Check the lines before the last one as patterns, and the last one as a name."""
    *texts, name = data.split(b"\n")
    check_spelling(name)
    if plain_name(name) != name:
        return
    patterns = []
    for text in texts[:8]:
        check_glob(text, name)
        try:
            patterns.append(NamePattern(text.decode("utf-8", "surrogateescape")))
        except PatternError as error:
            assert str(error).isascii()
            assert is_safe(str(error))
            continue
        check_client(text, name)
    found = NamePatterns(patterns).first(name)
    try:
        expected = next(
            (number for number, each in enumerate(patterns) if matches(each, name)),
            None,
        )
    except TooManySteps:
        return
    assert found == expected, (found, expected)


def check_spelling(name: bytes) -> None:
    """Check the one spelling of a name."""
    plain = plain_name(name)
    if plain is None:
        assert len(name) > MAX_PATH or b"\0" in name or b".." in name.split(b"/")
        return
    assert plain_name(plain) == plain
    assert plain_name(b"/" + plain + b"/.") == plain or len(plain) > MAX_PATH - 3


def check_client(text: bytes, name: bytes) -> None:
    """Check that the client's pattern matches the same, or a directory above it."""
    try:
        pattern = Pattern(text)
    except UsageError:
        return
    ends = [at for at in range(len(name)) if name[at : at + 1] == b"/"]
    above = any(pattern.matches(name[:end], directory=True) for end in (*ends, len(name)))
    one = NamePatterns([NamePattern(text.decode("utf-8", "surrogateescape"))])
    assert (one.first(name) is not None) == above


def check_glob(text: bytes, name: bytes) -> None:
    """Check that a glob without ``**`` and dots is a pattern that is anchored."""
    if not has_wildcard(text) or not text.strip(b"/"):
        return
    try:
        glob = Glob(text)
    except UsageError as error:
        assert is_safe(str(error))
        return
    if glob.directory or STARS in text or b"//" in text or b"." in name or b"\\" in text:
        return
    try:
        pattern = Pattern(b"/" + text.strip(b"/"))
    except UsageError:
        return
    assert glob.matches(name) == pattern.matches(name, directory=False)
