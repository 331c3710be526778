"""From the tree of a filter to a condition for the tables of a segment (`natproxy.journal.schema`).

A condition selects at least the rows that match. It is *exact* if it selects no others. Values are
always parameters.
"""

from __future__ import annotations

from typing import NamedTuple

from natproxy.records.filter.grammar import And, Node, Not, Term
from natproxy.records.filter.hosts import Network
from natproxy.records.filter.members import MEMBERS, MemberType
from natproxy.records.filter.pattern import glob_of
from natproxy.records.filter.values import Host, Interval, Missing, Pattern, Value

_ENDS = {"<": "low", "<=": "high", ">": "high", ">=": "low"}
"""The end of the value's interval that each operator compares with."""


class Condition(NamedTuple):
    """A condition in SQL.

    :ivar where: ``null`` selects no row.
    :ivar params: of its ``?``.
    :ivar exact: whether it selects no row that does not match.
    """

    where: str
    params: list[int | str]
    exact: bool


ALL = Condition("1", [], True)

_UNDECIDED = Condition("1", [], False)


def condition_of(node: Node, now: int | None, events: bool, negated: bool = False) -> Condition:
    """Return the condition of a tree.

    :param now: microseconds since the epoch; ``None`` if terms that need it are not decided.
    :param events: whether the rows are selected for their events: what may differ among the
        events of a translation is not decided.
    :param negated: whether the rows that do not match are wanted.
    """
    if isinstance(node, Not):
        return condition_of(node.node, now, events, not negated)
    if isinstance(node, Term):
        condition = _term(node, now, events)
        if not negated:
            return condition
        if not condition.exact:
            return _UNDECIDED
        # Only here: an index is not used for an expression in `ifnull`.
        return Condition(f"not ifnull({condition.where}, 0)", condition.params, True)
    parts = [condition_of(part, now, events, negated) for part in node.nodes]
    both = isinstance(node, And) is not negated
    exact = all(part.exact for part in parts)
    if both:
        parts = [part for part in parts if part.where != "1"]
    elif any(part.where == "1" for part in parts):
        return Condition("1", [], exact)
    if not parts:
        return Condition("1", [], exact)
    where = (" and " if both else " or ").join(part.where for part in parts)
    return Condition(f"({where})", [value for part in parts for value in part.params], exact)


def _term(term: Term, now: int | None, events: bool) -> Condition:
    member = term.member
    column = member.column
    if events and not member.fixed:
        return _UNDECIDED
    if "{now}" in column:
        if now is None:
            return _UNDECIDED
        column = column.replace("{now}", str(int(now)))
    if term.operator in _ENDS:
        bound = getattr(term.values[0], _ENDS[term.operator])
        return Condition(f"{column} {term.operator} ?", [bound], True)
    port = MEMBERS[member.port].column if member.port else ""
    choices = [
        _equal(value, member.type, column, port)
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
    return Condition(f"{column} is not null and not ifnull({' or '.join(wheres)}, 0)", params, True)


def _equal(value: Value, kind: MemberType, column: str, port: str) -> Condition:
    """Return the condition that a column equals a value; ``null`` if the column is."""
    if isinstance(value, Interval):
        if value.low == value.high:
            return Condition(f"{column} = ?", [value.low], True)
        return Condition(f"{column} between ? and ?", [value.low, value.high], True)
    if isinstance(value, Pattern):
        text, literal = glob_of(value.symbols, encoded=kind is MemberType.NAME)
        if kind is MemberType.NAME:
            # A text with a space has the names of several files: see `natproxy.records.packed`.
            one = f"{column} {'=' if literal else 'glob'} ?"
            return Condition(f"({one} or {column} glob '* *')", [text], False)
        if literal:
            return Condition(f"{column} = ?", [text], True)
        return Condition(f"{column} glob ?", [text], False)
    assert isinstance(value, Host)
    parts = []
    if value.network is not None:
        parts.append(_network(value.network, column))
    elif value.pattern is not None:
        text, literal = glob_of(value.pattern)
        parts.append(Condition(f"{column} {'=' if literal else 'glob'} ?", [text], literal))
    if value.port is not None:
        parts.append(Condition(f"{port} = ?", [value.port], True))
    return Condition(
        f"({' and '.join(part.where for part in parts)})",
        [param for part in parts for param in part.params],
        all(part.exact for part in parts),
    )


def _network(network: Network, column: str) -> Condition:
    if network.version == 6:
        if network.bits or network.zone:
            return Condition(f"{column} glob ?", ["*:*"], False)
        text = network.text()
        return Condition(f"({column} = ? or {column} glob ?)", [text, f"{text}%*"], True)
    if not network.bits:
        text = network.text()
        return Condition(f"{column} in (?, ?)", [text, f"::ffff:{text}"], True)
    # The octets that the prefix has as a whole.
    whole = (32 - network.bits) // 8
    octets = (network.prefix << network.bits).to_bytes(4, "big")[:whole]
    start = "".join(f"{octet}." for octet in octets)
    return Condition(
        f"({column} glob ? or {column} glob ?)", [f"{start}*", f"::ffff:{start}*"], False
    )
