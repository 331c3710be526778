"""Bytes from a peer or the file system, as text that people may safely read."""

from __future__ import annotations

import re

# What no reader can see, and what may change how the rest is shown: control characters,
# line and paragraph separators, all of Unicode's format characters (category Cf) and what
# else it says is shown as nothing (Default_Ignorable_Code_Point: joiners, fillers,
# variation selectors). Two names that look the same would be two files otherwise.
_UNPRINTABLE = re.compile(
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


class WireError(ValueError):
    """Bytes that break the grammar. Its text names what and why, on one line."""


def printable(text: bytes, limit: int = 1024) -> str:
    """Bytes from the network or the file system, made fit for a log or a terminal.

    UTF-8 is shown as it is; control characters, invisible characters, backslashes and
    bytes that are not UTF-8 are escaped, so that no line can be forged, no terminal driven
    and nothing hidden.

    :param limit: of the text, in characters; what is cut is marked with ``...``.
    """
    if len(text) <= limit and text.isascii():
        plain = text.decode("ascii")
        if plain.isprintable() and "\\" not in plain:
            return plain
    # Escapes only lengthen the text: what is beyond the limit need not be escaped.
    shown = text[: 4 * limit + 4].decode("utf-8", "surrogateescape")[: limit + 1]
    shown = _UNPRINTABLE.sub(lambda match: _escape(match[0]), shown)
    shown = shown.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
