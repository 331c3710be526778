"""`FilterError`: what is wrong with the text of a filter, and where."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 72
"""Characters of the text that `FilterError.explained` shows around the wrong word."""

LONGEST_COMPARED = 40
"""Characters of a word that are compared with known ones for a suggestion."""


class FilterError(ValueError):
    """The text of a filter is wrong. The text of the exception is one sentence.

    :ivar text: of the filter.
    :ivar position: of the wrong word in it, in characters from 0.
    :ivar length: of the wrong word; 0 at the end of the text.
    """

    def __init__(self, message: str, text: str, position: int, length: int = 1) -> None:
        super().__init__(message)
        self.text = text
        self.position = position
        self.length = length

    def explained(self) -> str:
        """Return three lines: the message, the text, and carets below the wrong word.

        A long text is cut around the word. Characters that are not printable are shown as ``?``.
        """
        start = max(0, min(self.position - SHOWN // 2, len(self.text) - SHOWN))
        stop = start + SHOWN
        left = "…" if start else ""
        right = "…" if stop < len(self.text) else ""
        before, word, after = map(
            shown,
            (
                self.text[start : self.position],
                self.text[self.position : min(self.position + self.length, stop)],
                self.text[self.position + self.length : stop],
            ),
        )
        margin = " " * width(left + before)
        carets = "^" * max(1, width(word))
        return f"{self}\n  {left}{before}{word}{after}{right}\n  {margin}{carets}"


def shown(text: str) -> str:
    """Return a text with ``?`` in place of the characters that are not printable."""
    return "".join(one if one.isprintable() else "?" for one in text)


def width(text: str) -> int:
    """Return the columns that a printable text takes in a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def quoted(word: str) -> str:
    """Return a word for a message: in quotes, printable, and cut if it is long."""
    text = shown(word[:LONGEST_COMPARED])
    return f"'{text}…'" if len(word) > LONGEST_COMPARED else f"'{text}'"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?`` with the known words that are near to a word, or ``""``."""
    from difflib import get_close_matches

    near = get_close_matches(word[:LONGEST_COMPARED].lower().replace("_", "-"), list(known), 3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
