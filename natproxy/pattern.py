"""Patterns of paths, as ``rsync`` reads them, as regular expressions.

``*`` stands for any bytes but a slash, ``**`` for any bytes, ``?`` for one byte that is not a
slash, and ``[a-z]``, ``[!a-z]`` or ``[[:digit:]]`` for one of several. A backslash makes the next
character literal, if the pattern has one of ``*?[``; otherwise it is literal itself.

The client selects files by them (`natproxy.client.transfer.pattern`), and the daemons compare the
names in commands with them (`natproxy.access.patterns`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MAX_PATTERN = 4096
"""Bytes of a pattern: no path is longer."""

STAR = b"*"
STARS = b"**"

_ONE = b"[^/]"
_CLASS = rb"\[:([^:/\]]*):\]"


class PatternError(ValueError):
    """A pattern is malformed; the text is the reason."""


def has_wildcard(text: bytes) -> bool:
    """Return whether a text, taken as a pattern, may match anything else than itself."""
    return any(mark in text for mark in (b"*", b"?", b"["))


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


def tokens_of(body: bytes) -> Iterator[bytes]:
    """Yield the parts of a pattern: expressions of one byte each, `STAR` and `STARS`.

    :raises PatternError: if a class is not closed, or nothing follows the last backslash.
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
            yield STAR if at == stars else STARS
        elif one == b"?":
            yield _ONE
        elif one == b"[":
            members, at = _members(body, at)
            yield _one_of(members)
        elif one == b"\\" and wild:
            if at == len(body):
                raise PatternError("nothing follows the last backslash")
            yield re.escape(body[at : at + 1])
            at += 1
        else:
            yield re.escape(one)


def _members(body: bytes, at: int) -> tuple[set[int], int]:
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
                raise PatternError(f"there is no class {ascii(named[0])[2:-1]}")
            members.update(known.encode())
            at, start = named.end(), -1
            continue
        ranged = start >= 0 and body[at : at + 1] == b"-" and body[at + 1 : at + 2] != b"]"
        at += ranged
        at += body[at : at + 1] == b"\\"
        if at >= len(body) or body[at : at + 1] == b"/":
            # Whether the slash separates names would depend on the program.
            raise PatternError("a [ without its ] in the same name")
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


def expression_of(tokens: Iterable[bytes], prefix: bytes, label: bytes = b"p") -> bytes:
    """Return an expression in which no star is tried again once what follows it was found.

    Text between two stars is best found as early as possible: what follows has the most choices
    then. So the number of steps is bounded by the square of the length of the path.

    :param prefix: what may precede the pattern.
    :param label: the beginning of the names of its groups.
    """
    # Parts between ** of pieces between *, each piece of a fixed length.
    parts = [[b""]]
    for token in tokens:
        if token == STARS:
            parts.append([b""])
        elif token == STAR:
            parts[-1].append(b"")
        else:
            parts[-1][-1] += token
    number = 0

    def committed(expression: bytes) -> bytes:
        nonlocal number
        number += 1
        group = b"%b%d" % (label, number)
        return b"(?=(?P<%b>%b))(?P=%b)" % (group, expression, group)

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
