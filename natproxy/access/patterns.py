"""Patterns of file names in rules, and the one spelling of a name that is compared with them.

A pattern is as the client's ``--include`` reads it (`natproxy.pattern`), with one difference: what
matches a directory matches everything below it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence

from natproxy.pattern import MAX_PATTERN, STAR, STARS, PatternError, expression_of, tokens_of

MAX_PATH = 4095
"""Bytes of the longest path that the file server resolves."""

_PLAIN = re.compile(rb"[^/.\0][^/\0]*(?:/[^/.\0][^/\0]*)*")

_BELOW = re.compile(rb"(?<=/)\*{3,}\Z")

# What follows a match of a directory. The empty group identifies the alternative that has matched.
_END = rb"(?:/.*)?\Z()"


def plain_name(name: bytes) -> bytes | None:
    """Return the path that a decoded name stands for, in its one spelling.

    Slashes that separate nothing are dropped, and components ``.``; the served directory is empty.
    The file server refuses the other spellings. Another server behind a proxy may accept them.

    :return: ``None`` for a name that cannot be compared: with a ``..`` in it, which may lead
        through a link, with a NUL, or longer than a path.
    """
    if len(name) > MAX_PATH:
        return None
    if _PLAIN.fullmatch(name):
        return name
    components = [each for each in name.split(b"/") if each not in (b"", b".")]
    if b".." in components or b"\0" in name:
        return None
    return b"/".join(components)


class NamePattern:
    """A pattern of file names.

    :param text: a leading slash anchors it at the served directory; otherwise it may begin at any
        component. A slash at its end has no effect.
    :raises PatternError: if it is malformed; the message begins with it.
    :ivar anchored: whether it begins at the served directory.
    :ivar deep: whether it is not anchored, and has a ``**``.
    :ivar tokens: see `natproxy.pattern.tokens_of`.
    """

    def __init__(self, text: str) -> None:
        try:
            body, self.anchored = _body_of(text.encode("utf-8", "surrogateescape"))
            self.tokens = [*tokens_of(body)]
        except PatternError as error:
            raise PatternError(f"{text[:80]!a} cannot be used: {error}") from None
        self.deep = not self.anchored and STARS in self.tokens


class NamePatterns:
    """Patterns of file names, of which the first one is found that matches.

    Most names match none of them. That is found out by a few expressions, however many patterns
    there are: of many alternatives, ``re`` tries those only that begin with the next byte.

    :param patterns: in order.
    """

    def __init__(self, patterns: Iterable[NamePattern]) -> None:
        numbered = [*enumerate(patterns)]
        self._anchored = _Finder("match", [(b"/", [n for n in numbered if n[1].anchored])])
        # From each component on. Text after a ** is not searched for in this way: each
        # component would repeat that.
        shallow = [each for each in numbered if not (each[1].anchored or each[1].deep)]
        with_star = [each for each in shallow if each[1].tokens[0] == STAR and _is_single(each[1])]
        other = [each for each in shallow if each not in with_star]
        self._anywhere = _Finder("search", [(b"/", other), (b"/[^/]*", with_star)])
        # Which of several is the first one is found out one by one.
        self._shallow = shallow
        self._compiled: dict[int, re.Pattern[bytes]] = {}
        deep = [each for each in numbered if each[1].deep]
        self._deep = _Finder("match", [(b"", deep)])
        # What precedes the first ** of each; a name without any of these matches none.
        heads = [_head(pattern, number) for number, pattern in deep]
        self._heads = (
            re.compile(b"/(?:%b)" % b"|".join(heads), re.DOTALL).search if all(heads) else None
        )

    def first(self, plain: bytes) -> int | None:
        """Return the number of the first pattern that matches, from 0; ``None`` if none does.

        :param plain: see `plain_name`.
        """
        path = b"/" + plain
        found = self._anchored.find(path)
        if self._deep and (self._heads is None or self._heads(path)):
            found = min(found, self._deep.find(path))
        if self._anywhere and (hit := self._anywhere.find(path)) != NONE:
            # The hit need not be the first one of its kind, even if it is after what was found.
            found = self._first_shallow(path, min(hit, found))
        return None if found == NONE else found

    def _first_shallow(self, path: bytes, hit: int) -> int:
        """Return the number of the first pattern before a hit that matches anywhere, or the hit."""
        for number, pattern in self._shallow:
            if number >= hit:
                break
            compiled = self._compiled.get(number)
            if compiled is None:
                expression = b"/" + expression_of(pattern.tokens, b"") + _END
                compiled = self._compiled[number] = re.compile(expression, re.DOTALL)
            if compiled.search(path):
                return number
        return hit


NONE = sys.maxsize
"""In place of the number of a pattern, if none matches."""


class _Finder:
    """Finds which of several patterns matches.

    :param method: of the expression, by which it is found.
    :param runs: what patterns begin with, and the numbered patterns. Of patterns that begin with
        a star, its expression is what they begin with.
    """

    def __init__(
        self, method: str, runs: Sequence[tuple[bytes, list[tuple[int, NamePattern]]]]
    ) -> None:
        self._find = None
        pieces = []
        order = []
        for begin, members in runs:
            if members:
                star = begin.endswith(b"*")
                expressions = [_ended(pattern, number, star) for number, pattern in members]
                pieces.append(b"%b(?:%b)" % (begin, b"|".join(expressions)))
                order += [number for number, _ in members]
        # By the group that has matched last: the empty one at the end of an alternative.
        self._numbers: dict[int | None, int] = {}
        if pieces:
            compiled = re.compile(b"|".join(pieces), re.DOTALL)
            named = set(compiled.groupindex.values())
            ends = [each for each in range(1, compiled.groups + 1) if each not in named]
            self._numbers = dict(zip(ends, order, strict=True))
            self._find = getattr(compiled, method)

    def __bool__(self) -> bool:
        """Return whether there are patterns."""
        return self._find is not None

    def find(self, path: bytes) -> int:
        """Return the number of a pattern that matches; ``NONE`` if there is none.

        Of those that match at the same place, it is the first one.
        """
        if self._find is None:
            return NONE
        found = self._find(path)
        return NONE if found is None else self._numbers[found.lastindex]


def _ended(pattern: NamePattern, number: int, without_star: bool) -> bytes:
    """Return the expression of a pattern, with the group that identifies it at the end."""
    if without_star:
        return b"".join(pattern.tokens[1:]) + _END
    # Bytes of any number at the beginning include the slash before the first component.
    prefix = b".*?/" if pattern.deep and pattern.tokens[0] != STARS else b""
    return expression_of(pattern.tokens, prefix, b"p%d_" % number) + _END


def _is_single(pattern: NamePattern) -> bool:
    """Return whether a pattern has one star."""
    return pattern.tokens.count(STAR) == 1


def _head(pattern: NamePattern, number: int) -> bytes:
    """Return the expression of what precedes the first ``**`` of a pattern."""
    head = pattern.tokens[: pattern.tokens.index(STARS)]
    return expression_of(head, b"", b"p%d_" % number)


def _body_of(text: bytes) -> tuple[bytes, bool]:
    """Return a pattern without slashes at its ends, and whether it is anchored.

    :raises PatternError: if no plain name has its components.
    """
    if len(text) > MAX_PATTERN:
        raise PatternError(f"longer than {MAX_PATTERN} bytes")
    if not text:
        raise PatternError("it is empty")
    # With three stars or more, the client matches a directory and everything below it, as each
    # pattern does here.
    body = _BELOW.sub(b"", text).removesuffix(b"/")
    anchored = body.startswith(b"/") or not body
    body = body.removeprefix(b"/")
    if (
        b"\0" in body
        or b"//" in text
        or (body and not {b"", b".", b".."}.isdisjoint(body.split(b"/")))
    ):
        raise PatternError("no name has an empty component, '.', '..' or a NUL")
    # The served directory, and everything below it.
    return body or STARS, anchored
