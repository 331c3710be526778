"""The grammar of filters: from the text to a tree, and back."""

from __future__ import annotations

from typing import NamedTuple

from natproxy.records.filter.errors import FilterError, quoted, suggestion
from natproxy.records.filter.members import MEMBERS, Member, MemberType, meant_by
from natproxy.records.filter.tokens import Token, TokenKind, tokens_of
from natproxy.records.filter.values import Missing, Value, ValueReader
from natproxy.records.times import Zone

MAX_DEPTH = 32
"""Parentheses and ``not`` inside each other."""

MAX_VALUES = 256
"""Values in one filter."""

KEYWORDS = ("and", "or", "not", "in", "none")

_ORDERED = (
    MemberType.NUMBER,
    MemberType.SIZE,
    MemberType.RATE,
    MemberType.DURATION,
    MemberType.MOMENT,
)

_OTHER_WORDS = {"&&": "and", "&": "and", "||": "or", "|": "or"}


class Term(NamedTuple):
    """A comparison of a member.

    :ivar operator: ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``.
    :ivar values: with ``=``, one of them is equal; with ``!=``, none of them.
    """

    member: Member
    operator: str
    values: tuple[Value, ...]


class Not(NamedTuple):
    """What does not match."""

    node: Node


class And(NamedTuple):
    """What matches all nodes."""

    nodes: tuple[Node, ...]


class Or(NamedTuple):
    """What matches one of the nodes."""

    nodes: tuple[Node, ...]


Node = Term | Not | And | Or


def parse_tree(text: str, now: int, zone: Zone) -> Node | None:
    """Return the tree of a filter; ``None`` if it is empty.

    :param now: microseconds since the epoch, for times such as ``-10min``.
    :param zone: of times without one.
    :raises FilterError: if the text is malformed.
    """
    return _Parser(text, now, zone).parse()


def format_tree(node: Node) -> str:
    """Return the text of a tree, with as few parentheses as possible."""
    if isinstance(node, Term):
        values = ", ".join(value.written for value in node.values)
        if len(node.values) > 1:
            word = "in" if node.operator == "=" else "not in"
            return f"{node.member.name} {word} ({values})"
        return f"{node.member.name} {node.operator} {values}"
    if isinstance(node, Not):
        inner = format_tree(node.node)
        return f"not ({inner})" if isinstance(node.node, And | Or) else f"not {inner}"
    if isinstance(node, And):
        return " and ".join(
            f"({format_tree(part)})" if isinstance(part, And | Or) else format_tree(part)
            for part in node.nodes
        )
    return " or ".join(
        f"({format_tree(part)})" if isinstance(part, Or) else format_tree(part)
        for part in node.nodes
    )


class _Parser:
    """A parser by recursive descent, one token ahead."""

    def __init__(self, text: str, now: int, zone: Zone) -> None:
        self._text = text
        self._tokens = tokens_of(text)
        self._place = 0
        self._depth = 0
        self._values = 0
        self._reader = ValueReader(text, now, zone)

    def parse(self) -> Node | None:
        if self._token.kind is TokenKind.END:
            return None
        node = self._disjunction()
        token = self._token
        if token.kind is TokenKind.CLOSE:
            raise self._error(token, "there is no '(' for this ')'")
        if token.kind is not TokenKind.END:
            raise self._error(token, self._unexpected(token))
        return node

    @property
    def _token(self) -> Token:
        return self._tokens[self._place]

    def _next(self) -> Token:
        token = self._token
        self._place += 1
        return token

    def _disjunction(self) -> Node:
        nodes = [self._conjunction()]
        while self._token.keyword == "or":
            self._next()
            nodes.append(self._conjunction())
        return nodes[0] if len(nodes) == 1 else Or(tuple(nodes))

    def _conjunction(self) -> Node:
        nodes = [self._negation()]
        while self._token.keyword == "and":
            self._next()
            nodes.append(self._negation())
        return nodes[0] if len(nodes) == 1 else And(tuple(nodes))

    def _negation(self) -> Node:
        token = self._token
        negated = token.keyword == "not"
        if not negated and token.kind is not TokenKind.OPEN:
            return self._term()
        if self._depth == MAX_DEPTH:
            raise self._error(
                token, f"more than {MAX_DEPTH} parentheses and 'not' inside each other"
            )
        self._next()
        self._depth += 1
        node = self._negation() if negated else self._disjunction()
        self._depth -= 1
        if negated:
            return Not(node)
        if self._token.kind is not TokenKind.CLOSE:
            if self._token.kind is TokenKind.END:
                raise self._error(token, "this '(' is not closed")
            raise self._error(self._token, self._unexpected(self._token))
        self._next()
        return node

    def _term(self) -> Node:
        member = self._member()
        operator = self._operator(member)
        values = self._list(member)
        if operator not in ("=", "!="):
            token = self._tokens[self._place - 1]
            if len(values) > 1:
                raise self._error(token, f"'{operator}' compares with one value, not with a list")
            if isinstance(values[0], Missing):
                raise self._error(token, f"'none' is compared with '=' or '!=', not '{operator}'")
        return Term(member, operator, values)

    def _member(self) -> Member:
        token = self._token
        if token.kind is not TokenKind.WORD or token.keyword in KEYWORDS:
            if token.kind is TokenKind.END:
                raise self._error(token, "the filter ends where a member such as client is needed")
            raise self._error(
                token, f"a member such as client is needed instead of {self._shown(token)}"
            )
        member = MEMBERS.get(token.text.lower().replace("_", "-"))
        if member is None:
            hint = (
                meant_by(token.text)
                or suggestion(token.text, MEMBERS)
                or f"; known are {', '.join(sorted(MEMBERS))}"
            )
            raise self._error(token, f"{quoted(token.text)} is no member{hint}")
        self._next()
        return member

    def _operator(self, member: Member) -> str:
        token = self._token
        if token.kind is TokenKind.OPERATOR:
            self._next()
            operator = "=" if token.text == "==" else token.text
            if operator not in ("=", "!=") and member.type not in _ORDERED:
                raise self._error(token, f"{member.name} is compared with '=' or '!=' only")
            if self._token.keyword in ("in", "not"):
                raise self._error(self._token, f"a value is needed after '{token.text}'")
            return operator
        if token.keyword == "in":
            self._next()
            return "="
        if token.keyword == "not":
            self._next()
            if self._token.keyword != "in":
                raise self._error(
                    token, f"write 'not {member.name} …', '{member.name} != …' or 'not in (…)'"
                )
            self._next()
            return "!="
        return "="

    def _list(self, member: Member) -> tuple[Value, ...]:
        opened = self._token if self._token.kind is TokenKind.OPEN else None
        if opened is not None:
            self._next()
        values = [self._value(member)]
        while self._token.kind is TokenKind.COMMA:
            self._next()
            values.append(self._value(member))
        if opened is not None:
            if self._token.kind is TokenKind.END:
                raise self._error(opened, "this '(' is not closed")
            if self._token.kind is not TokenKind.CLOSE:
                raise self._error(
                    self._token, f"',' or ')' is needed instead of {self._shown(self._token)}"
                )
            self._next()
        return tuple(values)

    def _value(self, member: Member) -> Value:
        token = self._token
        if token.kind not in (TokenKind.WORD, TokenKind.QUOTED) or (
            token.keyword in KEYWORDS and token.keyword != "none"
        ):
            found = "" if token.kind is TokenKind.END else f" instead of {self._shown(token)}"
            raise self._error(
                token, f"a value of {member.name} is needed{found}: {member.type.value}"
            )
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(token, f"the filter has more than {MAX_VALUES} values")
        self._next()
        return self._reader.read(member, token)

    def _unexpected(self, token: Token) -> str:
        other = _OTHER_WORDS.get(token.text)
        if other is not None and token.kind is TokenKind.WORD:
            return f"write '{other}' instead of {self._shown(token)}"
        if token.kind is TokenKind.OPERATOR or token.kind is TokenKind.COMMA:
            return (
                f"'and' or 'or' is needed instead of {self._shown(token)}; "
                "quote a value that contains it"
            )
        return f"'and' or 'or' is needed before {self._shown(token)}"

    def _shown(self, token: Token) -> str:
        if token.kind is TokenKind.END:
            return "the end"
        return quoted(self._text[token.start : token.end])

    def _error(self, token: Token, message: str) -> FilterError:
        return FilterError(message, self._text, token.start, token.end - token.start)
