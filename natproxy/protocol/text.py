"""Bytes from a peer or the file system as text that is safe to display."""

from __future__ import annotations

import re
from functools import cache


class WireError(ValueError):
    """Bytes that violate the grammar; the message describes them, on one line."""


def printable(text: bytes, limit: int = 1024) -> str:
    """Return bytes from the network or the file system as text for a log or a terminal.

    Control characters, invisible characters, backslashes and bytes that are not UTF-8 are
    escaped, so that the text can neither forge a line, control a terminal, nor hide anything.

    :param limit: maximal length of the text, in characters; text that is cut ends with ``...``.
    """
    if len(text) <= limit and text.isascii():
        plain = text.decode("ascii")
        if plain.isprintable() and "\\" not in plain:
            return plain
    # Escapes only lengthen the text: bytes beyond the limit need not be escaped.
    shown = text[: 4 * limit + 4].decode("utf-8", "surrogateescape")[: limit + 1]
    shown = _unprintable().sub(lambda match: _escape(match[0]), shown)
    shown = shown.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


@cache
def _unprintable() -> re.Pattern[str]:
    """Return the expression of a character that is invisible or changes how others are displayed.

    These are control characters, line and paragraph separators, Unicode's format characters
    (category Cf), and the rest of its Default_Ignorable_Code_Point (joiners, fillers, variation
    selectors). Unescaped, they would make the names of two files look the same.
    """
    # Compiled when it is needed: that takes longer than many imports.
    return re.compile(
        r"["
        r"\\\x00-\x1f\x7f-\x9f"
        r"\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2"
        r"\u115f\u1160\u17b4\u17b5\u180b-\u180f"
        r"\u200b-\u200f\u2028-\u202e\u2060-\u206f"
        r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
        r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bcaf"
        r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
        r"]"
    )


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
