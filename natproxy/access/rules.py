"""Rules in order: the first one that matches a command allows or denies it.

A rule matches by the client's network, its identity, the verb and the file name; what it does not
restrict matches everything. `natproxy.access.rule_table` reads rules from a configuration file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from natproxy.access.caller import Caller
from natproxy.access.decision import (
    ALWAYS,
    DEFAULT,
    MALFORMED,
    MALFORMED_NAME,
    READERS,
    UNKNOWN,
    UNKNOWN_VERB,
    Decide,
    DecideName,
    Decision,
    names_in,
)
from natproxy.access.networks import Networks
from natproxy.access.patterns import NamePattern, NamePatterns, plain_name
from natproxy.access.verdict import PROCEED, Verdict, refuse
from natproxy.nat import Outcome
from natproxy.pattern import STARS, expression_of
from natproxy.protocol import (
    FORBIDDEN,
    ROOT,
    VERBS,
    Command,
    Naming,
    encode_name,
    forbidden_text,
    is_loop_probe,
    printable,
)

ALWAYS_ALLOWED = (b"FEAT", b"AUTH")
"""Verbs that no rule denies: a client finds out by them what it may do."""

MOST_CALLERS = 1024
"""Hosts, each with an identity, whose rules are remembered."""

MOST_PLANS = 256
"""Selections of rules whose expression is remembered."""

_OTHER_VERB = b""
"""Stands for each verb that is not in `VERBS`."""


class AccessRule(NamedTuple):
    """One rule. ``None`` restricts nothing.

    :ivar allow: whether it allows or denies what it matches.
    :ivar clients: networks: see `Networks`.
    :ivar identities: of which the client has one; a ``*`` in them stands for any characters.
    :ivar verbs: in upper case, of `VERBS`.
    :ivar names: patterns of file names: see `natproxy.access.patterns`.
    :ivar note: for the log; may be empty.
    """

    allow: bool
    clients: tuple[str, ...] | None = None
    identities: tuple[str, ...] | None = None
    verbs: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    note: str = ""


class _Compiled(NamedTuple):
    """A rule, and what is made of it once."""

    rule: AccessRule
    networks: Networks | None
    identity: re.Pattern[bytes] | None
    verbs: frozenset[bytes] | None
    names: tuple[NamePattern, ...] | None
    decision: Decision

    def is_about(self, host: str, identity: str | None) -> bool:
        """Return whether it is about a client."""
        if self.networks is not None and host not in self.networks:
            return False
        return self.identity is None or (
            identity is not None and self.identity.fullmatch(identity.encode()) is not None
        )

    def is_for(self, verb: bytes) -> bool:
        """Return whether it is about a verb."""
        return self.verbs is None or verb in self.verbs


class Rules:
    """Decides about commands.

    What the rules decide for a client and a verb is remembered as one expression for all names.

    :param rules: in order.
    :param default: whether a command is allowed that no rule matches.
    :raises ValueError: if a network or a pattern is malformed.
    """

    def __init__(self, rules: Sequence[AccessRule] = (), default: bool = True) -> None:
        self.rules = tuple(rules)
        self.default = default
        self._compiled = tuple(_compile(number, rule) for number, rule in enumerate(rules, 1))
        self._otherwise = Decision(
            default, DEFAULT, f"no rule matches, and the default is {_action(default)}"
        )
        self._names_ruled = any(rule.names is not None for rule in rules)
        self._callers: dict[tuple[str, str | None], dict[bytes, Decide]] = {}
        # By the positions of the selected rules; ``None`` if no name is compared.
        self._plans: dict[tuple[int, ...], DecideName | None] = {}

    def __bool__(self) -> bool:
        """Return whether anything can be denied."""
        return bool(self.deciders)

    @property
    def deciders(self) -> tuple[str, ...]:
        """Every value that `Decision.decided_by` can have for a denied command."""
        numbers = (str(number) for number, rule in enumerate(self.rules, 1) if not rule.allow)
        others = (UNKNOWN_VERB, MALFORMED_NAME) if self._names_ruled else ()
        return (*numbers, *([] if self.default else [DEFAULT]), *others)

    def decide(self, caller: Caller, command: Command) -> Decision:
        """Return the decision of the first rule that matches, or the default.

        Several names are decided one by one: the first one that is denied denies the command.
        """
        verbs = self._callers.get((caller.address.host, caller.identity))
        if verbs is None:
            verbs = self._add_caller(caller.address.host, caller.identity)
        decide = verbs.get(command.verb)
        if decide is None:
            decide = self._add_verb(verbs, caller, command.verb)
        return decide(command)

    def explain(self, caller: Caller, command: Command) -> list[str]:
        """Return for each rule, up to the first one that matches, why it does not.

        Of several names, the one that `decide` returns is explained, or the first one.
        """
        if command.verb in ALWAYS_ALLOWED or command.verb not in VERBS:
            return []
        denied = self.decide(caller, command).name
        name = denied if denied is not None else next(iter(names_in(command)), b"")
        plain = None if name is None else plain_name(name)
        lines = []
        for number, each in enumerate(self._compiled, 1):
            host, identity = caller.address.host, caller.identity
            rule = each.rule
            reason = ""
            if each.networks is not None and host not in each.networks:
                reason = f"{host} is not in its clients"
            elif not each.is_about(host, identity):
                reason = f"{identity or 'no identity'} is not among its identities"
            elif not each.is_for(command.verb):
                reason = f"{command.verb.decode()} is not among its verbs"
            elif each.names is not None:
                shown = printable(plain or b".")
                if plain is None or NamePatterns(each.names).first(plain) is None:
                    reason = f"{shown} matches none of its names"
            if not reason:
                break
            note = f" ({rule.note})" if rule.note else ""
            lines.append(f"rule {number}{note} does not match: {reason}")
        return lines

    def _add_caller(self, host: str, identity: str | None) -> dict[bytes, Decide]:
        if len(self._callers) >= MOST_CALLERS:
            self._callers.clear()
        verbs = self._callers[host, identity] = dict.fromkeys(ALWAYS_ALLOWED, _always)
        return verbs

    def _add_verb(self, verbs: dict[bytes, Decide], caller: Caller, verb: bytes) -> Decide:
        """Return what decides about a verb of a caller; verbs of any number are not remembered."""
        known = VERBS.get(verb)
        key = verb if known is not None else _OTHER_VERB
        if key not in verbs:
            host, identity = caller.address.host, caller.identity
            selected: list[int] = []
            for position, each in enumerate(self._compiled):
                if each.is_for(key) and each.is_about(host, identity):
                    selected.append(position)
                    if each.names is None:
                        break
            verbs[key] = (
                self._decide_unknown(tuple(selected))
                if known is None
                else self._plan(tuple(selected), known.naming)
            )
        return verbs[key]

    def _decide_unknown(self, selected: tuple[int, ...]) -> Decide:
        """Return what decides about verbs whose names cannot be found in their lines."""
        decision = UNKNOWN if self._names_ruled else self._last(selected)

        def decide(command: Command) -> Decision:
            return ALWAYS if is_loop_probe(command) else decision

        return decide

    def _plan(self, selected: tuple[int, ...], naming: Naming) -> Decide:
        """Return what decides by the names in a command."""
        if selected not in self._plans:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            self._plans[selected] = self._compile_plan(selected)
        decide_name = self._plans[selected]
        if decide_name is None:
            decision = self._last(selected)
            return lambda command: decision
        return READERS[naming](decide_name)

    def _compile_plan(self, selected: tuple[int, ...]) -> DecideName | None:
        otherwise = self._last(selected)
        patterns: list[NamePattern] = []
        decisions: list[Decision] = []
        for position in selected:
            names = self._compiled[position].names
            if names is not None:
                patterns += names
                decisions += [self._compiled[position].decision] * len(names)
        if not patterns:
            return None
        first = NamePatterns(patterns).first

        def decide_name(name: bytes) -> Decision:
            plain = plain_name(name)
            if plain is None:
                return MALFORMED
            found = first(plain)
            return otherwise if found is None else decisions[found]

        return decide_name

    def _last(self, selected: tuple[int, ...]) -> Decision:
        """Return the decision about what no name of the selected rules matches."""
        if selected and self.rules[selected[-1]].names is None:
            return self._compiled[selected[-1]].decision
        return self._otherwise


class RulesGate:
    """The gate of the rules; see `natproxy.access.Gate`.

    :ivar rules: of the commands that begin from now on; they may be replaced at any time.
    :ivar denied: commands so far, by `Decision.decided_by`.
    """

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = Rules() if rules is None else rules
        self.denied: Counter[str] = Counter()

    def admit(self, command: Command, client: Caller) -> Verdict:
        """Return `PROCEED`, or the refusal of a command that is denied."""
        decision = self.rules.decide(client, command)
        if decision.allowed:
            return PROCEED
        self.denied[decision.decided_by] += 1
        name = None if decision.name is None else encode_name(decision.name) or ROOT
        return refuse(FORBIDDEN, forbidden_text(name), Outcome.DENIED, decision.reason)

    def ended(self, command: Command, client: Caller) -> None:
        """Do nothing: the rules do not depend on which commands are under way."""


def _always(command: Command) -> Decision:
    return ALWAYS


def _action(allow: bool) -> str:
    return "allow" if allow else "deny"


def _compile(number: int, rule: AccessRule) -> _Compiled:
    note = f": {rule.note}" if rule.note else ""
    return _Compiled(
        rule,
        None if rule.clients is None else Networks(rule.clients),
        None if rule.identities is None else compile_identities(rule.identities),
        None if rule.verbs is None else frozenset(verb.encode() for verb in rule.verbs),
        None if rule.names is None else tuple(map(NamePattern, rule.names)),
        Decision(rule.allow, str(number), f"rule {number}{note}"),
    )


def compile_identities(identities: Sequence[str]) -> re.Pattern[bytes]:
    """Return the expression of identities, in which ``*`` stands for any characters."""
    expressions = []
    for number, identity in enumerate(identities):
        parts = re.split(r"\*+", identity)
        tokens = [re.escape(parts[0].encode())]
        for part in parts[1:]:
            tokens += (STARS, re.escape(part.encode()))
        expressions.append(expression_of(tokens, b"", b"i%d_" % number))
    return re.compile(b"|".join(expressions), re.DOTALL)
