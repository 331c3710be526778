"""Bytes from a peer or the file system, as text that people may safely read."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\\]"
)


class WireError(ValueError):
    """Bytes that break the grammar. Its text names what and why, on one line."""


def printable(text: bytes, limit: int = 1024) -> str:
    """Bytes from the network or the file system, made fit for a log or a terminal.

    UTF-8 is shown as it is; control characters, backslashes and bytes that are not
    UTF-8 are escaped, so that no line can be forged and no terminal driven.

    :param limit: of the text, in characters; what is cut is marked with ``...``.
    """
    if len(text) <= limit and text.isascii():
        plain = text.decode("ascii")
        if plain.isprintable() and "\\" not in plain:
            return plain
    shown = text[: 4 * limit + 4].decode("utf-8", "surrogateescape")
    shown = _UNPRINTABLE.sub(lambda match: _escape(match[0]), shown)
    shown = re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", shown)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
