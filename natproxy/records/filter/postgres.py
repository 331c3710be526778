"""The SQL of filters for PostgreSQL.

The rows have the alias ``e``, and the columns ``proxy``, ``worker``, ``boot``, ``client``, ``nat``,
``upstream`` and ``upstream_port`` besides those of the table ``entries`` of a segment. Where
PostgreSQL may compare in another way than Python, a term is not decided.
"""

from __future__ import annotations

import re

from natproxy.records.filter.members import ERASED, Member
from natproxy.records.filter.sql import Dialect

_CLIENT = f"nullif(e.client, '{ERASED}')"

_COLUMNS: dict[str, str | None] = {
    "client": _CLIENT,
    "client-port": f"case when {_CLIENT} is not null then e.client_port end",
    "nat": "e.nat",
    "upstream": "e.upstream",
    # In other collations, letters besides those of ASCII change, too.
    "verb": 'lower(e.verb collate "C")',
    "outcome": 'lower(e.outcome collate "C")',
    "reason": f"case when {_CLIENT} is null then '{ERASED}' else e.reason end",
    "files": ("substring(e.name from '^[^ ]* and ([0-9]{1,18}) others?(?:, .*)?$')::bigint + 1"),
    # A float is not compared with an integer as exactly as in Python.
    "rate": None,
    "proxy": "e.proxy",
    "worker": "e.worker",
    "boot": "e.boot",
    "time": "null::bigint",
    "event": "null::text",
    "uid": "null::bigint",
    "pid": "null::bigint",
}
"""The values of members that are not where a segment has them."""

_SYMBOL = re.compile(r"\[(.)\]|(.)", re.DOTALL)


def like_of(glob: str) -> str:
    """Return the pattern for ``LIKE`` of one for ``GLOB``; ``[X]`` in it is the character X."""
    return _SYMBOL.sub(_like, glob)


def _like(found: re.Match[str]) -> str:
    literal, symbol = found.groups()
    if literal is None and symbol in "*?":
        return "%" if symbol == "*" else "_"
    text: str = symbol if literal is None else literal
    return f"\\{text}" if text in "%_\\" else text


def _column(member: Member) -> str | None:
    return _COLUMNS.get(member.name, member.column)


POSTGRES = Dialect(
    true="true",
    parameter="%s",
    otherwise="({0}) is not true",
    pattern="like",
    pattern_of=like_of,
    spaced="position(' ' in {0}) > 0",
    column=_column,
)
