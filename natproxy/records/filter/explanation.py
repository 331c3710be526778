"""From the tree of a filter to a sentence."""

from __future__ import annotations

from natproxy.records.filter.errors import shown
from natproxy.records.filter.grammar import And, Node, Not, Term
from natproxy.records.filter.members import Member, MemberType
from natproxy.records.filter.values import Host, Interval, Missing, Pattern, Value
from natproxy.records.times import UNITS, show_local

_ORDERS = {"<": "less than", "<=": "at most", ">": "more than", ">=": "at least"}

_TIME_ORDERS = {"<": "before", "<=": "before", ">": "after", ">=": "not before"}


def explain_tree(tree: Node | None) -> str:
    """Return what a filter selects; ``None`` is the empty filter."""
    if tree is None:
        return "Everything."
    sentence = shown(_explain(tree, inside=False))
    return f"{sentence[0].upper()}{sentence[1:]}."


def _explain(node: Node, inside: bool) -> str:
    if isinstance(node, Term):
        return _term(node, negated=False)
    if isinstance(node, Not):
        if isinstance(node.node, Term):
            return _term(node.node, negated=True)
        return f"it is not true that {_explain(node.node, inside=True)}"
    parts = [_explain(part, inside=True) for part in node.nodes]
    text = (", and " if isinstance(node, And) else ", or ").join(parts)
    return f"({text})" if inside else text


def _term(term: Term, negated: bool) -> str:
    member = term.member
    be = "is not" if negated else "is"
    if term.operator in _ORDERS:
        return f"{member.noun} {be} {_order(term)}"
    known = [value for value in term.values if not isinstance(value, Missing)]
    texts = [_value(member, value) for value in known]
    missing = len(known) < len(term.values)
    if term.operator == "!=":
        # A member without a value differs from none.
        if not known:
            return f"{member.noun} {'does not exist' if negated else 'exists'}"
        other = f"exists and is not {_list(texts)}"
        return f"it is not true that {member.noun} {other}" if negated else f"{member.noun} {other}"
    if missing:
        if not known:
            return f"{member.noun} {'exists' if negated else 'does not exist'}"
        texts.append("missing")
    return f"{member.noun} {be} {_list(texts)}"


def _list(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


def _order(term: Term) -> str:
    value = term.values[0]
    assert isinstance(value, Interval)
    if term.member.type is not MemberType.MOMENT:
        return f"{_ORDERS[term.operator]} {_number(term.member, value.low)}"
    # `>` is after the whole interval, `<=` before its end.
    after = term.operator == ">"
    edge = value.high + 1 if after or term.operator == "<=" else value.low
    return f"{'not before' if after else _TIME_ORDERS[term.operator]} {show_local(edge)}"


def _value(member: Member, value: Value) -> str:
    if isinstance(value, Interval):
        if member.type is MemberType.MOMENT:
            return f"from {show_local(value.low)} until {show_local(value.high + 1)}"
        if value.low == value.high:
            return _number(member, value.low)
        return f"from {_number(member, value.low)} to {_number(member, value.high)}"
    if isinstance(value, Pattern):
        return _pattern(value.written, value.literal is None)
    assert isinstance(value, Host)
    port = "" if value.port is None else f"port {value.port}"
    if value.network is not None:
        host = f"{'in ' if value.network.bits else ''}{value.network.text()}"
    elif value.pattern is not None:
        return value.written
    else:
        return f"at {port}"
    return f"{host} at {port}" if port else host


def _pattern(written: str, wild: bool) -> str:
    return f"like {written}" if wild else written


def _number(member: Member, number: int) -> str:
    if member.type is MemberType.DURATION:
        return show_duration(number)
    if member.type is MemberType.SIZE or member.type is MemberType.RATE:
        return f"{number:,}"
    return str(number)


def show_duration(microseconds: int) -> str:
    """Return a duration with the largest unit that it is a whole number of, such as ``90 s``."""
    for unit in ("d", "h", "min", "s", "ms"):
        if microseconds and microseconds % UNITS[unit] == 0:
            return f"{microseconds // UNITS[unit]} {unit}"
    return f"{microseconds} us" if microseconds else "0 s"
