"""Rules in order, compiled into one expression, against rules that are tried one by one."""

from __future__ import annotations

from fuzz.naive import TooManySteps, allows
from natproxy.access.caller import Caller
from natproxy.access.patterns import NamePattern
from natproxy.access.rules import AccessRule, Rules
from natproxy.address import Address
from natproxy.pattern import PatternError
from natproxy.protocol import VERBS, parse_command

CALLERS = (
    Caller.at(Address("10.0.0.5", 43_210)),
    Caller.at(Address("::ffff:10.0.0.5", 43_210), "alice"),
    Caller.at(Address("2001:db8::1", 43_210), "bob-2"),
)
CLIENTS = (None, ("10.0.0.0/8",), ("2001:db8::/32", "10.0.0.5"), ("192.0.2.1",))
IDENTITIES = (None, ("alice",), ("a*", "b*2"), ("*",))
VERB_LISTS = (None, ("GET",), ("LIST", "LS", "PACK"), ("DOWNLOAD", "STAT", "GET", "HASH"))
MOST_RULES = 12

WORDS = [verb.decode() for verb in VERBS] + ["**", "/**", "*.key", "a%2Fb", "..", "depth=2"]


def check(data: bytes) -> None:
    """Check the first line as a command, and each further one as a rule.

    The first two bytes of a rule choose whether it allows, its clients, identities and verbs; the
    rest are patterns between commas; without any, the rule is about all names.
    """
    line, *texts = data.split(b"\n")
    command = parse_command(line)
    if command is None:
        return
    default = len(texts) % 2 == 0
    made = [rule_of(text) for text in texts[:MOST_RULES]]
    rules = [rule for rule in made if rule is not None]
    compiled = Rules(rules, default)
    for caller in CALLERS:
        decision = compiled.decide(caller, command)
        assert compiled.decide(caller, command) == decision
        compiled.explain(caller, command)
        try:
            expected = allows(rules, default, caller, command)
        except TooManySteps:
            continue
        assert decision.allowed == expected, (decision, rules)


def rule_of(text: bytes) -> AccessRule | None:
    """Return a rule; ``None`` if a pattern is malformed."""
    choices = int.from_bytes(text[:2], "big")
    names = tuple(each.decode("utf-8", "surrogateescape") for each in text[2:].split(b",") if each)
    try:
        for each in names:
            NamePattern(each)
    except PatternError:
        return None
    return AccessRule(
        bool(choices & 1),
        CLIENTS[choices >> 1 & 3],
        IDENTITIES[choices >> 3 & 3],
        VERB_LISTS[choices >> 5 & 3],
        names or None,
    )
