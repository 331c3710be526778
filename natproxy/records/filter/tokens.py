"""The words, quoted texts, operators and punctuation of a filter."""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from natproxy.records.filter.errors import FilterError

MAX_LENGTH = 4096
"""Characters of the text of a filter."""


class TokenKind(enum.Enum):
    """What a token is."""

    WORD = "word"
    QUOTED = "quoted"
    OPERATOR = "operator"
    OPEN = "open"
    CLOSE = "close"
    COMMA = "comma"
    END = "end"


class Token(NamedTuple):
    """One token.

    :ivar text: as written; of a quoted text, without its quotes.
    :ivar start: position of its first character in the text of the filter.
    :ivar end: position after its last character.
    """

    kind: TokenKind
    text: str
    start: int
    end: int

    @property
    def keyword(self) -> str:
        """The word in lower case; empty for anything else."""
        return self.text.lower() if self.kind is TokenKind.WORD else ""


# The alternatives inside quotes exclude each other, so that the time is linear.
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<operator><=|>=|!=|==|=|<|>)
    |(?P<open>\()
    |(?P<close>\))
    |(?P<comma>,)
    |(?P<word>[^\s'"()<>=!,]+)
    |(?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)


def tokens_of(text: str) -> list[Token]:
    """Return the tokens of a filter; the last one is `TokenKind.END`.

    :raises FilterError: if the text is too long, a quote is not closed, or a character is none of
        the language.
    """
    if len(text) > MAX_LENGTH:
        raise FilterError(
            f"the filter has {len(text):,} characters; at most {MAX_LENGTH:,} are accepted",
            text,
            MAX_LENGTH,
        )
    found = []
    place = 0
    while True:
        match = _TOKEN.match(text, place)
        if match is None:
            raise _unknown(text, place)
        kind = TokenKind(match.lastgroup)
        word = match[kind.value]
        start, place = match.span(kind.value)
        found.append(Token(kind, word[1:-1] if kind is TokenKind.QUOTED else word, start, place))
        if kind is TokenKind.END:
            return found


def _unknown(text: str, place: int) -> FilterError:
    """Return the error of a place where no token begins."""
    while text[place].isspace():
        place += 1
    if text[place] in "'\"":
        return FilterError(f"the quote {text[place]} is not closed", text, place)
    return FilterError("'!' is followed by '=' only; write 'not' to negate", text, place)
