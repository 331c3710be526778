"""Texts with the wildcards ``*`` and ``?``, matched in linear time.

They are matched with texts as they are displayed (`natproxy.protocol.printable`), so that a
displayed name can be pasted: ``\\xff`` is a byte that is not UTF-8, ``\\\\`` a backslash.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import NamedTuple

from natproxy.protocol import WireError, decode_name, encode_name, printable

ANY = "*"
"""The symbol that any text matches, also an empty one, and one with slashes."""

ONE = "?"
"""The symbol that any displayed character matches."""

_SYMBOL = re.compile(
    r"(?P<wildcard>[*?])"
    r"|\\(?P<literal>[*?'\"])"
    r"|(?P<escape>\\(?:\\|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}))"
    r"|(?P<plain>[^\\])",
    re.DOTALL,
)

_DISPLAYED = re.compile(r"\\(?:\\|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|.", re.DOTALL)

LONGEST_PART = 64
"""Elements without a wildcard in a ``GLOB``, whose time is the product of two lengths."""

_SPECIAL = re.compile(r"([*?\[])")
"""What ``GLOB`` does not take as it is."""

ESCAPES = r"\\, \*, \?, \', \x and two, \u and four, or \U and eight hexadecimal digits"
"""What a backslash may begin, for messages."""


class Symbol(NamedTuple):
    """One element of a pattern.

    :ivar text: a displayed character, `ANY` or `ONE`.
    :ivar wild: whether it is one of those two.
    """

    text: str
    wild: bool


def symbols_of(text: str) -> tuple[Symbol, ...]:
    """Return the elements of a pattern as it is written.

    :raises ValueError: if a backslash begins none of `ESCAPES`; the argument is its position.
    """
    found: list[Symbol] = []
    place = 0
    while place < len(text):
        match = _SYMBOL.match(text, place)
        if match is None:
            raise ValueError(place)
        kind, place = match.lastgroup, match.end()
        written = match[kind or 0]
        if kind == "wildcard":
            # Adjacent stars are one star.
            if written != ANY or found[-1:] != [Symbol(ANY, True)]:
                found.append(Symbol(written, True))
        elif kind == "escape":
            found.append(Symbol(written[:2] + written[2:].lower(), False))
        else:
            # A character that is not displayed as it is becomes several.
            shown = printable(_bytes_of(written))
            if kind == "literal" or shown == written:
                found.append(Symbol(written, False))
            else:
                found.extend(Symbol(each, False) for each in _DISPLAYED.findall(shown))
    return tuple(found)


def literal_of(symbols: tuple[Symbol, ...]) -> str | None:
    """Return the text that alone matches; ``None`` if there is a wildcard."""
    if any(symbol.wild for symbol in symbols):
        return None
    return "".join(symbol.text for symbol in symbols)


def matcher(symbols: tuple[Symbol, ...]) -> Callable[[str], bool]:
    """Return a function that returns whether a displayed text matches as a whole."""
    literal = literal_of(symbols)
    if literal is not None:
        return literal.__eq__
    states = _states(symbols)
    if Symbol(ONE, True) in symbols:
        return states
    parts = [""]
    for symbol in symbols:
        if symbol.wild:
            parts.append("")
        else:
            parts[-1] += symbol.text
    first, *middle, last = parts

    def matches(text: str) -> bool:
        if "\\" in text:
            # A part must not begin inside an escape.
            return states(text)
        end = len(text) - len(last)
        place = len(first)
        if place > end or not text.startswith(first) or not text.endswith(last):
            return False
        for part in middle:
            place = text.find(part, place, end)
            if place < 0:
                return False
            place += len(part)
        return True

    return matches


def glob_of(symbols: tuple[Symbol, ...], encoded: bool = False) -> tuple[str, bool]:
    """Return a pattern for SQLite's ``GLOB`` that matches at least the same texts.

    :param encoded: whether the texts are percent-encoded names.
    :return: the pattern, or the literal text if nothing in it is wild; and whether it is literal.
    """
    parts: list[tuple[str, bool]] = []
    for text, wild in symbols:
        if wild:
            parts.append(("?*" if text == ONE else ANY, True))
        elif not encoded:
            parts.append((text, False))
        else:
            raw = _raw(text)
            parts.append((ANY, True) if raw is None else (encode_name(raw).decode("ascii"), False))
    if not any(wild for _, wild in parts):
        return "".join(text for text, _ in parts), True
    glob = []
    length = 0
    for text, wild in parts:
        length = 0 if wild else length + 1
        if length < LONGEST_PART:
            glob.append(text if wild else _SPECIAL.sub(r"[\1]", text))
        elif length == LONGEST_PART:
            glob.append(ANY)
    return "".join(glob), False


def displayed_name(name: str) -> str:
    """Return a percent-encoded name as it is displayed, without a limit of its length."""
    raw = name.encode("utf-8", "backslashreplace")
    # It is empty, or was not encoded by this program.
    with contextlib.suppress(WireError):
        raw = decode_name(raw)
    return printable(raw, 4 * len(raw) + 4)


def _states(symbols: tuple[Symbol, ...]) -> Callable[[str], bool]:
    """Return a matcher that follows all possible positions at once, as the bits of an integer."""
    masks: dict[str, int] = {}
    any_one = 0
    # Bit N is the position before the Nth symbol that is not a star.
    stars = 0
    position = 0
    for text, wild in symbols:
        bit = 1 << position
        if wild and text == ANY:
            stars |= bit
            continue
        if wild:
            any_one |= bit
        else:
            masks[text] = masks.get(text, 0) | bit
        position += 1
    accepted = 1 << position

    def matches(text: str) -> bool:
        positions = 1
        for each in _DISPLAYED.findall(text) if "\\" in text else text:
            positions = (positions & (masks.get(each, 0) | any_one)) << 1 | positions & stars
            if not positions:
                return False
        return bool(positions & accepted)

    return matches


def _bytes_of(character: str) -> bytes:
    try:
        return character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return character.encode("utf-8", "surrogatepass")


def _raw(displayed: str) -> bytes | None:
    """Return the bytes that are displayed so; ``None`` if they may be several."""
    if len(displayed) == 1:
        return _bytes_of(displayed)
    if displayed == "\\\\":
        return b"\\"
    code = int(displayed[2:], 16)
    if displayed[1] == "x":
        # From 0x80, it is a byte that is not UTF-8, or a control character.
        return bytes([code]) if code < 0x80 else None
    try:
        return chr(code).encode()
    except (ValueError, OverflowError):
        return None
