"""Patterns of names, of rules and of the client: the compiled ones against a naive matcher."""

from __future__ import annotations

import re

from fuzz.oracles import is_safe
from natproxy.access.patterns import MAX_PATH, NamePattern, NamePatterns, plain_name
from natproxy.client.errors import UsageError
from natproxy.client.transfer.pattern import Glob, Pattern
from natproxy.pattern import STAR, STARS, PatternError, has_wildcard

MOST_STATES = 20_000
"""Steps of the naive matcher; a pattern that needs more is matched only by the compiled one."""

WORDS = ("**", "/**", "/***", "[[:digit:]]", "[!a-z]", "\\*")


class TooManySteps(Exception):
    """The naive matcher takes too long."""


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
            (number for number, each in enumerate(patterns) if naive(each, name)),
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


def naive(pattern: NamePattern, name: bytes) -> bool:
    """Return whether a pattern matches a name or a directory above it, by trying everything."""
    path = b"/" + name
    if pattern.anchored:
        starts = [1]
    elif pattern.tokens[0] == STARS:
        # Any bytes at the beginning include the slash before the first name.
        starts = [0]
    else:
        starts = [at + 1 for at, byte in enumerate(path) if byte == ord("/")]
    steps = 0

    def ends(tokens: tuple[bytes, ...], at: int) -> bool:
        nonlocal steps
        steps += 1
        if steps > MOST_STATES:
            raise TooManySteps
        if not tokens:
            return at == len(path) or path[at] == ord("/")
        first, rest = tokens[0], tokens[1:]
        if first in (STAR, STARS):
            while True:
                if ends(rest, at):
                    return True
                if at == len(path) or (first == STAR and path[at] == ord("/")):
                    return False
                at += 1
        if at < len(path) and re.compile(first, re.DOTALL).fullmatch(path, at, at + 1):
            return ends(rest, at + 1)
        return False

    return any(ends(tuple(pattern.tokens), start) for start in starts)
