"""From the tree of a filter to a condition in SQL.

It is for the tables of a segment (`natproxy.journal.schema`), or, in another `Dialect`, for those
of a fleet's journal.

A condition selects at least the rows that match. It is *exact* if it selects no others. Values are
always parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from natproxy.records.filter.grammar import And, Node, Not, Term
from natproxy.records.filter.hosts import Network
from natproxy.records.filter.members import MEMBERS, Member, MemberType
from natproxy.records.filter.pattern import glob_of
from natproxy.records.filter.values import Host, Interval, Missing, Pattern, Value

_ENDS = {"<": "low", "<=": "high", ">": "high", ">=": "low"}
"""The end of the value's interval that each operator compares with."""


class Dialect(NamedTuple):
    """How a database writes conditions.

    :ivar true: the condition that selects all rows.
    :ivar parameter: the place of a value.
    :ivar otherwise: of a condition ``{0}``: selects the rows for which it is false or ``null``.
    :ivar pattern: the operator that compares with a pattern.
    :ivar pattern_of: returns the pattern of a ``GLOB``.
    :ivar spaced: whether ``{0}`` has a space.
    :ivar column: returns a member's value; ``None`` if its terms are not decided.
    """

    true: str
    parameter: str
    otherwise: str
    pattern: str
    pattern_of: Callable[[str], str]
    spaced: str
    column: Callable[[Member], str | None]


SQLITE = Dialect(
    true="1",
    parameter="?",
    # An index is not used for an expression in it.
    otherwise="not ifnull({0}, 0)",
    pattern="glob",
    pattern_of=lambda glob: glob,
    spaced="{0} glob '* *'",
    column=lambda member: member.column,
)


class Condition(NamedTuple):
    """A condition in SQL.

    :ivar where: ``null`` selects no row.
    :ivar params: of its parameters.
    :ivar exact: whether it selects no row that does not match.
    """

    where: str
    params: list[int | str]
    exact: bool


def condition_of(
    node: Node | None, now: int | None, events: bool = False, dialect: Dialect = SQLITE
) -> Condition:
    """Return the condition of a tree.

    :param node: ``None`` for all rows.
    :param now: microseconds since the epoch; ``None`` if terms that need it are not decided.
    :param events: whether the rows are selected for their events: what may differ among the
        events of a translation is not decided.
    """
    if node is None:
        return Condition(dialect.true, [], True)
    return _Conditions(now, events, dialect).condition(node)


class _Conditions:
    """Makes conditions; see `condition_of`."""

    def __init__(self, now: int | None, events: bool, dialect: Dialect) -> None:
        self._now = now
        self._events = events
        self._dialect = dialect
        self._undecided = Condition(dialect.true, [], False)

    def condition(self, node: Node, negated: bool = False) -> Condition:
        """Return the condition of a node.

        :param negated: whether the rows that do not match are wanted.
        """
        if isinstance(node, Not):
            return self.condition(node.node, not negated)
        if isinstance(node, Term):
            condition = self._term(node)
            if not negated:
                return condition
            if not condition.exact:
                return self._undecided
            return Condition(
                self._dialect.otherwise.format(condition.where), condition.params, True
            )
        true = self._dialect.true
        parts = [self.condition(part, negated) for part in node.nodes]
        both = isinstance(node, And) is not negated
        exact = all(part.exact for part in parts)
        if both:
            parts = [part for part in parts if part.where != true]
        elif any(part.where == true for part in parts):
            return Condition(true, [], exact)
        if not parts:
            return Condition(true, [], exact)
        where = (" and " if both else " or ").join(part.where for part in parts)
        return Condition(f"({where})", [value for part in parts for value in part.params], exact)

    def _term(self, term: Term) -> Condition:
        member, dialect = term.member, self._dialect
        column = dialect.column(member)
        if column is None or (self._events and not member.fixed):
            return self._undecided
        if "{now}" in column:
            if self._now is None:
                return self._undecided
            column = column.replace("{now}", str(int(self._now)))
        if term.operator in _ENDS:
            bound = getattr(term.values[0], _ENDS[term.operator])
            return Condition(f"{column} {term.operator} {dialect.parameter}", [bound], True)
        port = (dialect.column(MEMBERS[member.port]) or "null") if member.port else ""
        choices = [
            self._equal(value, member.type, column, port)
            for value in term.values
            if not isinstance(value, Missing)
        ]
        params: list[int | str] = [value for choice in choices for value in choice.params]
        exact = all(choice.exact for choice in choices)
        missing = len(choices) < len(term.values)
        wheres = [choice.where for choice in choices]
        if term.operator == "=":
            if missing:
                wheres.append(f"{column} is null")
            return Condition(f"({' or '.join(wheres)})", params, exact)
        if not exact:
            # `not` of a condition that selects too many rows selects too few.
            return Condition(f"({column} is not null)", [], False)
        if not choices:
            return Condition(f"{column} is not null", [], True)
        # `null`, if the column or the port is.
        otherwise = dialect.otherwise.format(" or ".join(wheres))
        return Condition(f"{column} is not null and {otherwise}", params, True)

    def _equal(self, value: Value, kind: MemberType, column: str, port: str) -> Condition:
        """Return the condition that a column equals a value; ``null`` if the column is."""
        mark = self._dialect.parameter
        if isinstance(value, Interval):
            if value.low == value.high:
                return Condition(f"{column} = {mark}", [value.low], True)
            return Condition(f"{column} between {mark} and {mark}", [value.low, value.high], True)
        if isinstance(value, Pattern):
            name = kind is MemberType.NAME
            text, literal = glob_of(value.symbols, encoded=name)
            found = self._text(column, text, literal)
            if name:
                # A text with a space has the names of several files: see
                # `natproxy.records.packed`.
                spaced = self._dialect.spaced.format(column)
                return Condition(f"({found.where} or {spaced})", found.params, False)
            return found
        assert isinstance(value, Host)
        parts = []
        if value.network is not None:
            parts.append(self._network(value.network, column))
        elif value.pattern is not None:
            parts.append(self._text(column, *glob_of(value.pattern)))
        if value.port is not None:
            parts.append(Condition(f"{port} = {mark}", [value.port], True))
        return Condition(
            f"({' and '.join(part.where for part in parts)})",
            [param for part in parts for param in part.params],
            all(part.exact for part in parts),
        )

    def _text(self, column: str, text: str, literal: bool) -> Condition:
        """Return the condition that a column equals a text, or matches a ``GLOB``."""
        if literal:
            return Condition(f"{column} = {self._dialect.parameter}", [text], True)
        dialect = self._dialect
        return Condition(
            f"{column} {dialect.pattern} {dialect.parameter}", [dialect.pattern_of(text)], False
        )

    def _network(self, network: Network, column: str) -> Condition:
        if network.version == 6:
            if network.bits or network.zone:
                return self._text(column, "*:*", False)
            text = network.text()
            return self._any(
                self._text(column, text, True), self._text(column, f"{text}%*", False), exact=True
            )
        if not network.bits:
            text = network.text()
            mark = self._dialect.parameter
            return Condition(f"{column} in ({mark}, {mark})", [text, f"::ffff:{text}"], True)
        # The octets that the prefix has as a whole.
        whole = (32 - network.bits) // 8
        octets = (network.prefix << network.bits).to_bytes(4, "big")[:whole]
        start = "".join(f"{octet}." for octet in octets)
        return self._any(
            self._text(column, f"{start}*", False),
            self._text(column, f"::ffff:{start}*", False),
            exact=False,
        )

    @staticmethod
    def _any(one: Condition, other: Condition, *, exact: bool) -> Condition:
        return Condition(f"({one.where} or {other.where})", [*one.params, *other.params], exact)
