"""The rules of a TOML file: an array of tables, as ``[[proxy.rules]]``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from natproxy.access.networks import Networks
from natproxy.access.patterns import NamePattern
from natproxy.access.rules import ALWAYS_ALLOWED, AccessRule
from natproxy.protocol import VERBS

ACTIONS = {"allow": True, "deny": False}

MOST_RULES = 1000
MOST_NAMES = 1000
"""Patterns of one rule; so many networks and identities may be in it, too."""

LONGEST_NOTE = 128
"""Characters of a note."""

KEYS = ("action", "clients", "identities", "verbs", "names", "note")


def parse_rules(value: object, key: str = "rules") -> tuple[AccessRule, ...]:
    """Return the rules of an array of tables.

    :param key: of the array, for messages.
    :raises ValueError: if a rule is wrong; the message begins with its key, as in
        ``rules[2].clients``, and ends with its number, from 1, as it is in the log.
    """
    if not isinstance(value, (list, tuple)) or len(value) > MOST_RULES:
        raise ValueError(f"{key}: must be an array of up to {MOST_RULES} tables, one for each rule")
    rules = []
    for index, one in enumerate(value):
        try:
            rules.append(
                one if isinstance(one, AccessRule) else _parse_rule(one, f"{key}[{index}]")
            )
        except ValueError as error:
            raise ValueError(f"{error} (rule {index + 1})") from None
    return tuple(rules)


def rule_tables(rules: Sequence[AccessRule]) -> list[dict[str, Any]]:
    """Return rules as the tables of a TOML file; `parse_rules` is the inverse."""
    return [
        {
            "action": next(word for word, allow in ACTIONS.items() if allow is rule.allow),
            **{
                key: list(texts)
                for key in ("clients", "identities", "verbs", "names")
                if (texts := getattr(rule, key)) is not None
            },
            **({"note": rule.note} if rule.note else {}),
        }
        for rule in rules
    ]


def _parse_rule(value: object, place: str) -> AccessRule:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}: must be a table with the key action")
    for key in value:
        if key not in KEYS:
            near = get_close_matches(key[:100], KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
            raise ValueError(f"{place}.{ascii(key)[1:-1][:80]}: unknown key; {hint}")
    action = value.get("action")
    if not isinstance(action, str) or action not in ACTIONS:
        raise ValueError(f'{place}.action: must be "allow" or "deny"')
    note = value.get("note", "")
    if not isinstance(note, str) or len(note) > LONGEST_NOTE or not note.isprintable():
        raise ValueError(
            f"{place}.note: must be a string of up to {LONGEST_NOTE} printable characters"
        )
    return AccessRule(
        ACTIONS[action],
        _texts(value, place, "clients", Networks),
        _texts(value, place, "identities", _check_identities),
        _texts(value, place, "verbs", _check_verbs, str.upper),
        _texts(value, place, "names", _check_names),
        note,
    )


def _texts(
    table: Mapping[str, object],
    place: str,
    key: str,
    check: Callable[[tuple[str, ...]], object],
    convert: Callable[[str], str] = str,
) -> tuple[str, ...] | None:
    """Return the strings of a key; ``None`` if it is missing.

    :param check: raises ``ValueError`` for one that is wrong.
    """
    if key not in table:
        return None
    value = table[key]
    texts = [value] if isinstance(value, str) else value
    if (
        not isinstance(texts, list)
        or not 0 < len(texts) <= MOST_NAMES
        or not all(isinstance(each, str) for each in texts)
    ):
        raise ValueError(f"{place}.{key}: must be a string, or a list of 1 to {MOST_NAMES} strings")
    converted = tuple(convert(each) for each in texts)
    try:
        check(converted)
    except ValueError as error:
        raise ValueError(f"{place}.{key}: {error}") from None
    return converted


def _check_identities(identities: tuple[str, ...]) -> None:
    for each in identities:
        if not (each and each.isascii() and each.isprintable()):
            raise ValueError(f"{each[:80]!a} is no identity: printable ASCII is needed")


def _check_names(names: tuple[str, ...]) -> None:
    for each in names:
        NamePattern(each)


def _check_verbs(verbs: tuple[str, ...]) -> None:
    ruled = [*_ruled_verbs()]
    for each in verbs:
        if each.encode("ascii", "replace") in ALWAYS_ALLOWED:
            raise ValueError(f"{each} is always allowed, and no rule is about it")
        if each not in ruled:
            raise ValueError(f"{each[:80]!a} is none of {', '.join(ruled)}")


def _ruled_verbs() -> Iterator[str]:
    return (word.decode() for word in VERBS if word not in ALWAYS_ALLOWED)
