"""The words of a line at the prompt, with quotes so that any file name can be typed.

As in a POSIX shell, every character inside ``'…'`` or after a backslash is literal; inside
``"…"``, a backslash escapes ``"`` and itself only. As in bash, ``$'…'`` has escapes: ``\\n``,
``\\r``, ``\\t``, ``\\\\``, ``\\'``, ``\\xHH`` for a byte and ``\\uHHHH`` for a character. There are
no variables, no patterns and no comments.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from natproxy.cli.encoding import can_encode, is_utf_8, remote_name
from natproxy.client.requests import name_text

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
    "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r",
    "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"', "?": "?",
}  # fmt: skip
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}
_PLAIN = re.compile(r"[\w@%+=:,./~-]+")


class Word(NamedTuple):
    """A word as it was typed.

    :ivar text: without quotes; bytes that the locale cannot decode are surrogates.
    :ivar start: its offset in the line.
    :ivar end: the offset of its end.
    :ivar style: the quotes that it begins with; may be empty.
    """

    text: str
    start: int
    end: int
    style: str = ""


def split(line: str) -> list[str]:
    """Return the words of a line.

    :raises ValueError: if the line is invalid; the text is the reason.
    """
    words, problem = read(line)
    if problem:
        raise ValueError(problem)
    return [word.text for word in words]


def read(line: str) -> tuple[list[Word], str]:
    """Parse a line as far as possible.

    :return: its words, of which the last may be incomplete, and why the line is invalid;
        empty if it is valid.
    """
    words: list[Word] = []
    problem = ""
    start, style = -1, ""
    value: list[str] = []

    def finish(end: int) -> None:
        nonlocal start
        if start >= 0:
            words.append(Word(_joined(value), start, end, style))
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
            value.append(_value(kind, piece[kind]))
        except ValueError as error:
            problem = problem or _reason(error)
        if kind == "one" and not piece[kind]:
            problem = problem or "nothing follows the last backslash"
        elif kind in ("single", "double", "escaped") and not piece[f"{kind}_end"]:
            problem = problem or "no closing quotation"
    finish(len(line))
    return words, problem


def quoted(name: bytes, style: str = "", local: bool = False) -> str:
    """Return a name as a word that can be typed and shown on one line.

    :param style: the quotes to use if possible: ``'``, ``"`` or ``$'``; if empty, none.
    :param local: whether it is a local path, in the locale's encoding, or a name on the server.
    """
    text = os.fsdecode(name) if local else name_text(name)
    if style == "$'" or not _can_be_typed(text):
        return f"$'{''.join(_escaped(character, local) for character in text)}'"
    if not style and _PLAIN.fullmatch(text):
        return text
    if style == '"' or "'" in text:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"'{text}'"


def _joined(pieces: list[str]) -> str:
    text = "".join(pieces)
    # Escaped bytes may form a character, if the locale has the same encoding as the server.
    return name_text(remote_name(text)) if is_utf_8() else text


def _value(kind: str, text: str) -> str:
    if kind == "double":
        text = re.sub(r'\\(["\\])', r"\1", text)
    if kind != "escaped":
        return _checked(text)
    value = ""
    done = 0
    for match in _ESCAPE.finditer(text):
        value += _checked(text[done : match.start()]) + _checked(_meaning(match))
        done = match.end()
    return value + _checked(text[done:])


def _meaning(escape: re.Match[str]) -> str:
    digits = escape[escape.lastgroup or 0]
    if escape["one"]:
        # As bash does, keep unknown escapes unchanged.
        return _NAMED.get(digits) or escape[0]
    if escape["octal"]:
        return _byte(int(digits, 8) & 0xFF)
    if escape["byte"]:
        return _byte(int(digits, 16))
    try:
        character = chr(int(digits, 16))
        character.encode()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"there is no character {escape[0]}") from error
    return character


def _byte(number: int) -> str:
    return bytes([number]).decode("ascii", "surrogateescape")


def _checked(text: str) -> str:
    if "\0" in text:
        raise ValueError("a name has no NUL in it")
    text.encode("utf-8", "surrogateescape")
    return text


def _can_be_typed(text: str) -> bool:
    return text.isprintable() and can_encode(text)


def _reason(error: ValueError) -> str:
    return "a character has no bytes here" if isinstance(error, UnicodeError) else str(error)


def _escaped(character: str, local: bool) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if _can_be_typed(character):
        return character
    data = os.fsencode(character) if local else remote_name(character)
    return "".join(f"\\x{byte:02x}" for byte in data)
