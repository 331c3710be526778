"""Patterns of paths, as ``rsync`` reads them, compiled to regular expressions.

``*`` stands for any bytes but a slash, ``**`` for any bytes, ``?`` for one byte that is not a
slash, and ``[a-z]``, ``[!a-z]`` or ``[[:digit:]]`` for one of several. A backslash makes the next
character literal, if the pattern has one of ``*?[``; otherwise it is literal itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from natproxy.client.errors import UsageError
from natproxy.client.url import has_wildcard
from natproxy.protocol import printable

MAX_PATTERN = 4096
"""Bytes of a pattern: no path is longer."""

_ONE = b"[^/]"
_STAR = b"*"
_STARS = b"**"

_CLASS = rb"\[:([^:/\]]*):\]"


class Pattern:
    """A pattern that selects paths.

    A leading slash anchors it at the root; otherwise it may begin at any name of the path. It has
    to match up to the end of the path. With a trailing slash, it matches directories only, and
    with ``/***`` at the end, a directory and everything in it.

    :param text: 1 to `MAX_PATTERN` bytes.
    :raises UsageError: if it is malformed.
    """

    def __init__(self, text: bytes) -> None:
        if not text.strip(b"/"):
            raise _malformed(text, "it has no name in it")
        if len(text) > MAX_PATTERN:
            raise _malformed(text, f"longer than {MAX_PATTERN} bytes")
        body = text[:-1] if text.endswith(b"/") else text
        self._directories_only = body != text
        self._with_slash = text.endswith(b"***")
        anchored = body.startswith(b"/")
        # Text that begins with any bytes may begin with the slash before the first name.
        self._from_slash = body.startswith(_STARS)
        self._of_name = b"/" not in body and _STARS not in body
        prefix = b"" if anchored or self._from_slash or self._of_name else b"(?:.*?/)??"
        tokens = _tokens(body[anchored:], text)
        self._match = re.compile(_expression(tokens, prefix), re.DOTALL).fullmatch

    def matches(self, path: bytes, directory: bool) -> bool:
        """Return whether a path matches.

        :param path: below the root, without a slash at either end.
        :param directory: whether it is the path of a directory.
        """
        if self._of_name:
            path = path[path.rfind(b"/") + 1 :]
        elif self._from_slash:
            path = b"/" + path
        if directory:
            if self._with_slash:
                path += b"/"
        elif self._directories_only:
            return False
        return self._match(path) is not None


class Glob:
    """A pattern of names on a server, as shells expand it.

    Unlike a `Pattern`, it has to match the whole path; ``**`` between slashes stands for any number
    of directories, also for none; and a name that begins with a dot is matched only by a
    pattern that begins with one.

    :param text: a path with wildcards; slashes at its ends are ignored.
    :raises UsageError: if it is malformed.
    :ivar directory: to list: the names before the first one with a wildcard; may be empty.
    :ivar depth: levels of directories to list; ``math.inf`` for all of them.
    """

    def __init__(self, text: bytes) -> None:
        names = [each for each in text.split(b"/") if each]
        literal = next(index for index, each in enumerate(names) if has_wildcard(each))
        self.directory = b"/".join(names[:literal])
        wild = names[literal:]
        self.depth = math.inf if _STARS in wild else len(wild)
        # `None` stands for any number of directories.
        self._steps = [None if each == _STARS else _Name(each) for each in wild]

    def matches(self, path: bytes) -> bool:
        """Return whether a path matches.

        :param path: below `directory`.
        """
        # Numbers of the steps that may match the next name.
        states = self._after({0})
        for name in path.split(b"/"):
            following = set()
            for state in states:
                if state == len(self._steps):
                    continue
                step = self._steps[state]
                if step is None:
                    if not name.startswith(b"."):
                        following.add(state)
                elif step.matches(name):
                    following.add(state + 1)
            states = self._after(following)
        return len(self._steps) in states

    def _after(self, states: set[int]) -> set[int]:
        """Return the states, and those behind each step that matches no name as well."""
        reached = set(states)
        for state in states:
            while state < len(self._steps) and self._steps[state] is None:
                state += 1
                reached.add(state)
        return reached


class _Name:
    """A pattern of one name."""

    def __init__(self, text: bytes) -> None:
        self._hidden = text.startswith((b".", b"\\."))
        self._pattern = Pattern(text)

    def matches(self, name: bytes) -> bool:
        """Return whether a name matches."""
        if name.startswith(b".") and not self._hidden:
            return False
        return self._pattern.matches(name, directory=False)


def _characters_of(name: str) -> str | None:
    """Return the characters of a POSIX class; ``None`` if there is no such class."""
    # Most patterns have none, and the import takes longer than to compile a pattern.
    import string

    return {
        "alnum": string.ascii_letters + string.digits,
        "alpha": string.ascii_letters,
        "blank": " \t",
        "cntrl": "".join(map(chr, (*range(32), 127))),
        "digit": string.digits,
        "graph": string.ascii_letters + string.digits + string.punctuation,
        "lower": string.ascii_lowercase,
        "print": string.ascii_letters + string.digits + string.punctuation + " ",
        "punct": string.punctuation,
        "space": string.whitespace,
        "upper": string.ascii_uppercase,
        "xdigit": string.hexdigits,
    }.get(name)


def _tokens(body: bytes, whole: bytes) -> Iterator[bytes]:
    """Yield expressions of one byte each, `_STAR` and `_STARS`.

    :raises UsageError: if a class is not closed, or nothing follows the last backslash.
    """
    wild = has_wildcard(body)
    at = 0
    while at < len(body):
        one = body[at : at + 1]
        at += 1
        if one == b"*":
            stars = at
            while body[at : at + 1] == b"*":
                at += 1
            yield _STAR if at == stars else _STARS
        elif one == b"?":
            yield _ONE
        elif one == b"[":
            members, at = _members(body, at, whole)
            yield _one_of(members)
        elif one == b"\\" and wild:
            if at == len(body):
                raise _malformed(whole, "nothing follows the last backslash")
            yield re.escape(body[at : at + 1])
            at += 1
        else:
            yield re.escape(one)


def _members(body: bytes, at: int, whole: bytes) -> tuple[set[int], int]:
    """Return the bytes that a class stands for, and the offset after it.

    :param at: the offset after the opening bracket.
    """
    negated = body[at : at + 1] in (b"!", b"^")
    at += negated
    members: set[int] = set()
    first = at
    # The byte before a hyphen, if a range may begin with it.
    start = -1
    named_class = re.compile(_CLASS)
    while at == first or body[at : at + 1] != b"]":
        named = named_class.match(body, at)
        if named is not None:
            known = _characters_of(named[1].decode("latin-1"))
            if known is None:
                raise _malformed(whole, f"there is no class {printable(named[0])}")
            members.update(known.encode())
            at, start = named.end(), -1
            continue
        ranged = start >= 0 and body[at : at + 1] == b"-" and body[at + 1 : at + 2] != b"]"
        at += ranged
        at += body[at : at + 1] == b"\\"
        if at >= len(body) or body[at : at + 1] == b"/":
            # Whether the slash separates names would depend on the program.
            raise _malformed(whole, "a [ without its ] in the same name")
        if ranged:
            members.update(range(start, body[at] + 1))
            start = -1
        else:
            members.add(body[at])
            start = body[at]
        at += 1
    if negated:
        members = set(range(256)) - members
    return members - {ord("/")}, at + 1


def _one_of(members: set[int]) -> bytes:
    if not members:
        return b"(?!)"
    return b"[" + b"".join(b"\\x%02x" % each for each in sorted(members)) + b"]"


def _expression(tokens: Iterator[bytes], prefix: bytes) -> bytes:
    """Return an expression in which no star is tried again once what follows it was found.

    Text between two stars is best found as early as possible: what follows has the most choices
    then. So the number of steps is bounded by the square of the length of the path.

    :param prefix: what may precede the pattern.
    """
    # Parts between ** of pieces between *, each piece of a fixed length.
    parts = [[b""]]
    for token in tokens:
        if token == _STARS:
            parts.append([b""])
        elif token == _STAR:
            parts[-1].append(b"")
        else:
            parts[-1][-1] += token
    number = 0

    def committed(expression: bytes) -> bytes:
        nonlocal number
        number += 1
        return b"(?=(?P<p%d>%b))(?P=p%d)" % (number, expression, number)

    whole = b""
    for index, (piece, *pieces) in enumerate(parts):
        last = pieces.pop() if pieces and index == len(parts) - 1 else None
        part = piece + b"".join(committed(b"[^/]*?" + each) for each in pieces)
        if last is not None:
            part += b"[^/]*" + last
        lead = prefix
        if index:
            lead = b".*" if index == len(parts) - 1 else b".*?"
        whole += committed(lead + part) if lead and index < len(parts) - 1 else lead + part
    return whole


def _malformed(text: bytes, reason: str) -> UsageError:
    return UsageError(f"the pattern '{printable(text)}' cannot be used: {reason}")
