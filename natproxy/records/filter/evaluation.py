"""From the tree of a filter to a function that decides on records."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from natproxy.records.filter.grammar import And, Node, Not, Term
from natproxy.records.filter.members import MEMBERS, MemberType
from natproxy.records.filter.pattern import displayed_name, matcher
from natproxy.records.filter.values import Host, Interval, Missing, Pattern, Value
from natproxy.records.record import Record

Predicate = Callable[[Record, int], bool]
"""Whether a record matches, at a time in microseconds since the epoch."""

_ORDERS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "<": (operator.lt, "low"),
    "<=": (operator.le, "high"),
    ">": (operator.gt, "high"),
    ">=": (operator.ge, "low"),
}
"""The comparison of each operator, and the end of the value's interval that it is with."""


def predicate_of(node: Node) -> Predicate:
    """Return the function of a tree."""
    if isinstance(node, Term):
        return _term(node)
    if isinstance(node, Not):
        inner = predicate_of(node.node)
        return lambda record, now: not inner(record, now)
    parts = [predicate_of(part) for part in node.nodes]
    if isinstance(node, And):
        return lambda record, now: all(part(record, now) for part in parts)
    return lambda record, now: any(part(record, now) for part in parts)


def _term(term: Term) -> Predicate:
    member = term.member
    read = member.read
    if term.operator in _ORDERS:
        compare, end = _ORDERS[term.operator]
        bound = getattr(term.values[0], end)

        def ordered(record: Record, now: int) -> bool:
            found = read(record, now)
            return found is not None and compare(found, bound)

        return ordered
    equal = _any_of(term.values)
    missing = any(isinstance(value, Missing) for value in term.values)
    wanted = term.operator == "="
    if member.type is MemberType.HOST:
        read_port = MEMBERS[member.port].read

        def hosts(record: Record, now: int) -> bool:
            host = read(record, now)
            if host is None:
                return wanted and missing
            return equal((host, read_port(record, now))) is wanted

        return hosts

    if member.type is MemberType.NAME:

        def names(record: Record, now: int) -> bool:
            name = read(record, now)
            if name is None and record.files is None:
                return wanted and missing
            found = [] if name is None else [name]
            if record.others:
                found += map(displayed_name, record.others.split())
            return any(map(equal, found)) is wanted

        return names

    def equals(record: Record, now: int) -> bool:
        found = read(record, now)
        if found is None:
            return wanted and missing
        return equal(found) is wanted

    return equals


def _any_of(values: tuple[Value, ...]) -> Callable[[Any], bool]:
    """Return a function that returns whether a value of a record equals one of these."""
    tests = [_test(value) for value in values if not isinstance(value, Missing)]
    if len(tests) == 1:
        return tests[0]
    return lambda found: any(test(found) for test in tests)


def _test(value: Value) -> Callable[[Any], bool]:
    if isinstance(value, Interval):
        low, high = value.low, value.high
        return lambda found: bool(low <= found <= high)
    if isinstance(value, Pattern):
        return matcher(value.symbols)
    assert isinstance(value, Host)
    return _host(value)


def _host(value: Host) -> Callable[[tuple[str, int | None]], bool]:
    port = value.port
    contains: Callable[[str], bool]
    if value.network is not None:
        contains = value.network.contains
    elif value.pattern is not None:
        contains = matcher(value.pattern)
    else:
        return lambda found: found[1] == port
    if port is None:
        return lambda found: contains(found[0])
    return lambda found: found[1] == port and contains(found[0])
