"""The words of a line at the prompt, quoted so that any file name can be typed.

As in a POSIX shell, everything inside ``'…'`` stands for itself, and so does what follows
a backslash; inside ``"…"`` a backslash does that for ``"`` and for itself only. As in bash,
``$'…'`` has escapes: ``\\n``, ``\\r``, ``\\t``, ``\\\\``, ``\\'``, ``\\xHH`` for a byte and
``\\uHHHH`` for a character. There are no variables, no patterns and no comments.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_PIECE = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
    | \$'(?P<escaped>(?:[^'\\]|\\.)*)(?P<escaped_end>'?)
    | '(?P<single>[^']*)(?P<single_end>'?)
    | "(?P<double>(?:[^"\\]|\\.)*)(?P<double_end>"?)
    | \\(?P<one>.?)
    | (?P<plain>[^ \t\r\n'"\\$]+|\$)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:x(?P<byte>[0-9A-Fa-f]{1,2})|u(?P<short>[0-9A-Fa-f]{1,4})|U(?P<long>[0-9A-Fa-f]{1,8})"
    r"|(?P<octal>[0-7]{1,3})|(?P<one>.))",
    re.DOTALL,
)
_NAMED = {
    "a": b"\a", "b": b"\b", "e": b"\x1b", "E": b"\x1b", "f": b"\f", "n": b"\n", "r": b"\r",
    "t": b"\t", "v": b"\v", "\\": b"\\", "'": b"'", '"': b'"', "?": b"?",
}  # fmt: skip
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}
_PLAIN = re.compile(r"[\w@%+=:,./~-]+")


class Word(NamedTuple):
    """A word as it was typed.

    :ivar text: what it stands for; bytes that are not UTF-8 are surrogates.
    :ivar start: where it begins in the line.
    :ivar end: where it ends.
    :ivar style: the quotes that it begins with, or nothing.
    """

    text: str
    start: int
    end: int
    style: str = ""


def split(line: str) -> list[str]:
    """Give the words of a line.

    :raises ValueError: if it can't be read; the text says why.
    """
    words, problem = read(line)
    if problem:
        raise ValueError(problem)
    return [word.text for word in words]


def read(line: str) -> tuple[list[Word], str]:
    """Read a line as far as it goes.

    :return: its words, the last of them perhaps unfinished, and what is wrong with it.
    """
    words: list[Word] = []
    problem = ""
    start, style, value = -1, "", bytearray()

    def finish(end: int) -> None:
        nonlocal start
        if start >= 0:
            words.append(Word(os.fsdecode(bytes(value)), start, end, style))
            value.clear()
            start = -1

    for piece in _PIECE.finditer(line):
        kind = piece.lastgroup or ""
        if kind == "space":
            finish(piece.start())
            continue
        if start < 0:
            start = piece.start()
            style = next((mark for mark in ("$'", "'", '"') if piece[0].startswith(mark)), "")
        kind = kind.removesuffix("_end")
        try:
            value += _value(kind, piece[kind])
        except ValueError as error:
            problem = problem or _reason(error)
        if kind == "one" and not piece[kind]:
            problem = problem or "nothing follows the last backslash"
        elif kind in ("single", "double", "escaped") and not piece[f"{kind}_end"]:
            problem = problem or "no closing quotation"
    finish(len(line))
    return words, problem


def quoted(name: bytes, style: str = "") -> str:
    """Write a name as a word that can be typed and shown on one line.

    :param style: the quotes to use, if they will do: ``'``, ``"``, ``$'`` or as few as possible.
    """
    text = os.fsdecode(name)
    if style == "$'" or not text.isprintable():
        return f"$'{''.join(map(_escaped, text))}'"
    if not style and _PLAIN.fullmatch(text):
        return text
    if style == '"' or "'" in text:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"'{text}'"


def _value(kind: str, text: str) -> bytes:
    if kind == "double":
        text = re.sub(r'\\(["\\])', r"\1", text)
    if kind != "escaped":
        return _bytes(text)
    value = bytearray()
    done = 0
    for match in _ESCAPE.finditer(text):
        value += _bytes(text[done : match.start()]) + _meaning(match)
        done = match.end()
    return bytes(value + _bytes(text[done:]))


def _meaning(escape: re.Match[str]) -> bytes:
    digits = escape[escape.lastgroup or 0]
    if escape["one"]:
        # bash leaves the others as they are, too.
        return _NAMED.get(digits) or _bytes(escape[0])
    if escape["octal"]:
        return _checked(bytes([int(digits, 8) & 0xFF]))
    if escape["byte"]:
        return _checked(bytes([int(digits, 16)]))
    try:
        character = chr(int(digits, 16)).encode()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"there is no character {escape[0]}") from error
    return _checked(character)


def _bytes(text: str) -> bytes:
    return _checked(os.fsencode(text))


def _checked(data: bytes) -> bytes:
    if 0 in data:
        raise ValueError("a name has no NUL in it")
    return data


def _reason(error: ValueError) -> str:
    return "a character has no bytes here" if isinstance(error, UnicodeError) else str(error)


def _escaped(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
