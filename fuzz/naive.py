"""Rules and their patterns as the documentation has them, without anything that is compiled."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from natproxy.access.caller import Caller
from natproxy.access.decision import names_in
from natproxy.access.patterns import NamePattern, plain_name
from natproxy.access.rules import ALWAYS_ALLOWED, AccessRule
from natproxy.pattern import STAR, STARS
from natproxy.protocol import MAX_NAMES, VERBS, Command, Naming, is_loop_probe

MOST_STEPS = 20_000
"""Steps of a pattern; one that needs more is not compared."""


class TooManySteps(Exception):
    """A pattern takes too long."""


def matches(pattern: NamePattern, name: bytes) -> bool:
    """Return whether a pattern matches a name or a directory above it, by trying everything.

    :raises TooManySteps: see `MOST_STEPS`.
    """
    path = b"/" + name
    if pattern.anchored:
        starts = [1]
    elif pattern.tokens[0] == STARS:
        # Any bytes at the beginning include the slash before the first name.
        starts = [0]
    else:
        starts = [at + 1 for at, byte in enumerate(path) if byte == ord("/")]
    steps = 0

    def ends(tokens: tuple[bytes, ...], at: int) -> bool:
        nonlocal steps
        steps += 1
        if steps > MOST_STEPS:
            raise TooManySteps
        if not tokens:
            return at == len(path) or path[at] == ord("/")
        first, rest = tokens[0], tokens[1:]
        if first in (STAR, STARS):
            while True:
                if ends(rest, at):
                    return True
                if at == len(path) or (first == STAR and path[at] == ord("/")):
                    return False
                at += 1
        if at < len(path) and re.compile(first, re.DOTALL).fullmatch(path, at, at + 1):
            return ends(rest, at + 1)
        return False

    return any(ends(tuple(pattern.tokens), start) for start in starts)


def allows(rules: Sequence[AccessRule], default: bool, caller: Caller, command: Command) -> bool:
    """Return whether rules allow a command, by trying each rule for each name.

    :raises TooManySteps: see `MOST_STEPS`.
    """
    if command.verb in ALWAYS_ALLOWED:
        return True
    about = [rule for rule in rules if _is_about(rule, caller)]
    if command.verb not in VERBS:
        if is_loop_probe(command):
            return True
        if any(rule.names is not None for rule in rules):
            return False
        return next((rule.allow for rule in about if rule.verbs is None), default)
    verb = command.verb.decode()
    about = [rule for rule in about if rule.verbs is None or verb in rule.verbs]
    # Names matter if there are any before the first rule that matches all of them.
    ruled = next((rule.names for rule in about), None) is not None
    if not ruled:
        return about[0].allow if about else default
    return all(_allows_name(about, default, name) for name in _names_of(command))


def _names_of(command: Command) -> list[bytes | None]:
    naming = VERBS[command.verb].naming
    names = names_in(command)
    if naming is Naming.SEVERAL:
        return names if 0 < len(names) <= MAX_NAMES else [None]
    if naming is Naming.REST:
        # Another server may drop white space at the end of a line.
        return [command.name, command.name.rstrip()]
    return names or [b""]


def _allows_name(rules: Sequence[AccessRule], default: bool, name: bytes | None) -> bool:
    plain = None if name is None else plain_name(name)
    if plain is None:
        return False
    for rule in rules:
        if rule.names is None or any(matches(NamePattern(each), plain) for each in rule.names):
            return rule.allow
    return default


def _is_about(rule: AccessRule, caller: Caller) -> bool:
    if rule.clients is not None:
        host = ipaddress.ip_address(caller.address.host)
        host = getattr(host, "ipv4_mapped", None) or host
        if not any(host in ipaddress.ip_network(each) for each in rule.clients):
            return False
    if rule.identities is None:
        return True
    return caller.identity is not None and any(
        re.fullmatch(".*".join(map(re.escape, each.split("*"))), caller.identity, re.DOTALL)
        for each in rule.identities
    )
