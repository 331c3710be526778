"""The values of a filter: numbers, sizes, durations, times, texts and hosts."""

from __future__ import annotations

import re
from typing import NamedTuple

from natproxy.records.filter.errors import FilterError, quoted, suggestion
from natproxy.records.filter.hosts import Network, parse_network, split_port
from natproxy.records.filter.members import Member, MemberType, lower
from natproxy.records.filter.pattern import ESCAPES, Symbol, literal_of, symbols_of
from natproxy.records.filter.tokens import Token, TokenKind
from natproxy.records.times import TimeError, Zone, multiple, parse_duration, parse_moment

GREATEST = (1 << 63) - 1
"""The greatest number: SQLite's integers have 64 bits."""

_NUMBER = re.compile("([0-9]{1,19})(?:-([0-9]{1,19}))?")
_QUANTITY = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)([A-Za-z]*)")

_PREFIXES = "kmgtp"

ANY_TEXT = symbols_of("*")

SIZES: dict[str, int] = {
    "": 1,
    "b": 1,
    **{prefix: 1024**power for power, prefix in enumerate(_PREFIXES, 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate(_PREFIXES, 1)},
    **{f"{prefix}b": 1000**power for power, prefix in enumerate(_PREFIXES, 1)},
}
"""Bytes of each unit, in lower case."""


class Missing(NamedTuple):
    """The word ``none``: the record has no value."""

    written: str


class Interval(NamedTuple):
    """A number, a duration, or a time: all values from one up to another.

    :ivar low: the smallest value; of times and durations, in microseconds.
    :ivar high: the largest one.
    """

    written: str
    low: int
    high: int


class Pattern(NamedTuple):
    """A text, which may have wildcards.

    :ivar symbols: its elements.
    """

    written: str
    symbols: tuple[Symbol, ...]

    @property
    def literal(self) -> str | None:
        """The text, if it has no wildcards."""
        return literal_of(self.symbols)


class Host(NamedTuple):
    """An address, a network, or a text such as ``unix``; and a port.

    :ivar network: ``None`` for any, or for a text.
    :ivar pattern: of the host as a text; ``None`` for any, or for a network.
    :ivar port: ``None`` for any.
    """

    written: str
    network: Network | None
    pattern: tuple[Symbol, ...] | None
    port: int | None


Value = Missing | Interval | Pattern | Host


class ValueReader:
    """Reads the values of members.

    :param text: of the filter.
    :param now: microseconds since the epoch, for times such as ``-10min``.
    :param zone: of times without one.
    """

    def __init__(self, text: str, now: int, zone: Zone) -> None:
        self._text = text
        self._now = now
        self._zone = zone

    def read(self, member: Member, token: Token) -> Value:
        """Return the value that a word or a quoted text stands for.

        :raises FilterError: if the member has no such value.
        """
        written = self._text[token.start : token.end]
        if token.keyword == "none":
            return Missing("none")
        kind = member.type
        try:
            if kind is MemberType.HOST:
                return self._host(token, written)
            if kind in (MemberType.WORD, MemberType.TEXT, MemberType.NAME):
                return self._pattern(member, token, written)
            return Interval(written, *self._interval(kind, token.text))
        except FilterError:
            raise
        except ValueError as error:
            reason = f": {error}" if str(error) else ""
            raise self._error(
                token,
                f"{quoted(token.text)} is no value of {member.name}{reason}; it is {kind.value}",
            ) from None

    def _interval(self, kind: MemberType, text: str) -> tuple[int, int]:
        """Return the smallest and the largest value.

        :raises ValueError: if the text is malformed.
        """
        if kind is MemberType.MOMENT:
            try:
                moment = parse_moment(text, self._now, self._zone)
            except TimeError as error:
                raise ValueError(error.reason) from None
            return moment.since, moment.until - 1
        if kind is MemberType.NUMBER:
            match = _NUMBER.fullmatch(text)
            if match is None:
                raise ValueError
            low, high = int(match[1]), int(match[2] or match[1])
            if low > high:
                raise ValueError("the first number of a range is the smaller one")
        elif kind is MemberType.DURATION:
            low = high = parse_duration(text)
        else:
            rate = kind is MemberType.RATE
            low = high = _bytes(text.removesuffix("/s") if rate else text)
        if high > GREATEST:
            raise ValueError("it is too large")
        return low, high

    def _pattern(self, member: Member, token: Token, written: str) -> Pattern:
        word = member.type is MemberType.WORD
        symbols = self._symbols(token, fold=word)
        literal = literal_of(symbols)
        known = member.words
        if known and token.kind is TokenKind.WORD and literal is not None and literal not in known:
            hint = suggestion(token.text, known) or f"; known are {', '.join(known)}"
            raise self._error(token, f"{quoted(token.text)} is no {member.name}{hint}")
        return Pattern(written, symbols)

    def _host(self, token: Token, written: str) -> Host:
        text = token.text
        if token.kind is TokenKind.WORD and text.lower().startswith("unix"):
            # The word alone is any UNIX socket.
            any_path = len(text) == len("unix")
            symbols = self._symbols(token) + (ANY_TEXT if any_path else ())
            return Host(written, None, symbols, None)
        if "*" in text.removesuffix(":*") or "?" in text:
            return Host(written, None, self._symbols(token), None)
        host, port = split_port(text)
        if not host:
            return Host(written, None, None, port)
        try:
            network = parse_network(host)
        except ValueError:
            if token.kind is TokenKind.QUOTED:
                return Host(written, None, self._symbols(token), None)
            if host[:1].isdigit() or "/" in host or ":" in host:
                raise
            raise ValueError("records have addresses, and names are not resolved") from None
        return Host(written, network, None, port)

    def _symbols(self, token: Token, fold: bool = False) -> tuple[Symbol, ...]:
        try:
            symbols = symbols_of(token.text)
        except ValueError as error:
            offset = error.args[0] + (token.kind is TokenKind.QUOTED)
            raise FilterError(
                f"a backslash is followed by something else than in {ESCAPES}",
                self._text,
                token.start + offset,
            ) from None
        if fold:
            symbols = tuple(Symbol(lower(symbol.text), symbol.wild) for symbol in symbols)
        return symbols

    def _error(self, token: Token, message: str) -> FilterError:
        return FilterError(message, self._text, token.start, token.end - token.start)


def _bytes(text: str) -> int:
    """Return the bytes of a number with a unit, rounded down.

    :raises ValueError: if it is malformed.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError
    unit = SIZES.get(match[2].lower())
    if unit is None:
        raise ValueError(f"{quoted(match[2])} is no unit{suggestion(match[2], SIZES)}")
    return multiple(match[1], unit)
