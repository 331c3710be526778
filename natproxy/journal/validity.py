"""Checks of what is read from a segment or the catalogue, whose bytes may be damaged.

SQLite has no checksums, and a column takes values of any type: a page with wrong bytes can be a
sound database with texts in place of numbers, or with times that no date has. What is wrong raises
``sqlite3.DatabaseError``, as does damage that SQLite itself finds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from natproxy.journal.rows import Action, GapRow, Row, Step

DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What damage raises. The second is raised where the text of an error of SQLite itself, with a name
from the damaged file, is not UTF-8."""

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Microseconds since the epoch of the first and the last time that a date can have."""

Types = frozenset[type]

_WHOLE: Types = frozenset((int,))
_TEXT: Types = frozenset((str,))
_WHOLE_OR_NULL: Types = frozenset((int, type(None)))
_TEXT_OR_NULL: Types = frozenset((str, type(None)))

_ROW = tuple(
    {
        "serial": _WHOLE,
        "started": _WHOLE,
        "client": _TEXT,
        "client_port": _WHOLE,
        "identity": _TEXT_OR_NULL,
        "nat": _TEXT_OR_NULL,
        "upstream": _TEXT_OR_NULL,
        "verb": _TEXT,
        "name": _TEXT,
        "bytes": _WHOLE,
        "outcome": _TEXT_OR_NULL,
        "reason": _TEXT_OR_NULL,
    }.get(field, _WHOLE_OR_NULL)
    for field in Row._fields
)
_ACTION = (_WHOLE, _TEXT, _WHOLE, _WHOLE_OR_NULL, _WHOLE_OR_NULL, _WHOLE_OR_NULL, _TEXT_OR_NULL)
_GAP = (_WHOLE_OR_NULL, _WHOLE_OR_NULL, _WHOLE_OR_NULL, _WHOLE_OR_NULL, _TEXT)
_STEP = (_WHOLE, _WHOLE, _WHOLE)
_INFO = (
    (_TEXT, _TEXT, _WHOLE, _TEXT)
    + (_WHOLE,) * 4
    + (_WHOLE_OR_NULL, _WHOLE, _WHOLE_OR_NULL, _WHOLE_OR_NULL, _WHOLE, _WHOLE)
    + (_TEXT_OR_NULL,) * 2
)
_INFO_TIMES = slice(5, 12)

_META = {
    "proxy": _TEXT,
    "worker": _WHOLE,
    "boot": _TEXT,
    "part": _WHOLE,
    "last_seq": _WHOLE,
    "former": _TEXT,
    "beside": _TEXT,
}
_META_TIMES = ("boot_started", "opened", "complete_to", "sealed", "stopped")

# The types of rows that have been found to be right: a handful.
_known: set[tuple[type, ...]] = set()


def rows_of(found: Iterable[Sequence[Any]]) -> list[Row]:
    """Return rows of the table ``entries``.

    :raises sqlite3.DatabaseError: if a value has the wrong type, or a time is none of a date.
    """
    rows = []
    for values in found:
        types = tuple(map(type, values))
        if types not in _known:
            _check_types(values, _ROW)
            _known.add(types)
        row = Row._make(values)
        # Without a call: there may be many rows.
        started = row.started
        if not (
            FIRST <= started <= LAST
            and FIRST <= (row.ended or 0) <= LAST
            and FIRST <= started + (row.relaying or 0) <= LAST
        ):
            raise _malformed((started, row.relaying, row.ended))
        rows.append(row)
    return rows


def actions_of(found: Iterable[Sequence[Any]]) -> list[Action]:
    """Return rows of the table ``actions``; see `rows_of`."""
    actions = [Action._make(_check_types(values, _ACTION)) for values in found]
    for action in actions:
        _check_time(action.time)
    return actions


def gaps_of(found: Iterable[Sequence[Any]]) -> tuple[GapRow, ...]:
    """Return rows of the table ``gaps``; see `rows_of`."""
    gaps = tuple(GapRow._make(_check_types(values, _GAP)) for values in found)
    for gap in gaps:
        _check_time(gap.since)
        _check_time(gap.until)
    return gaps


def steps_of(found: Iterable[Sequence[Any]]) -> tuple[Step, ...]:
    """Return rows of the table ``steps``; see `rows_of`."""
    steps = tuple(Step._make(_check_types(values, _STEP)) for values in found)
    for step in steps:
        _check_time(step.time)
        _check_time(step.time - step.step)
    return steps


def meta_of(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the table ``meta`` of a segment; see `rows_of`. A key may be missing."""
    meta = dict(connection.execute("select key, value from meta"))
    for key, value in meta.items():
        if key in _META:
            _check_types((value,), (_META[key],))
        elif key in _META_TIMES:
            _check_types((value,), (_WHOLE,))
            _check_time(value)
    return meta


def check_info(values: Sequence[Any]) -> Sequence[Any]:
    """Return a row of the table ``segments`` of the catalogue; see `rows_of`."""
    _check_types(values, _INFO)
    for time in values[_INFO_TIMES]:
        _check_time(time)
    return values


def check_times(*times: int | None) -> None:
    """Check times; see `rows_of`."""
    for time in times:
        _check_types((time,), (_WHOLE,))
        _check_time(time)


def _check_types(values: Sequence[Any], expected: Sequence[Types]) -> Sequence[Any]:
    for value, types in zip(values, expected, strict=True):
        if type(value) not in types:
            raise _malformed(value)
    return values


def _check_time(time: int | None) -> None:
    if time is not None and not FIRST <= time <= LAST:
        raise _malformed(time)


def _malformed(value: object) -> sqlite3.DatabaseError:
    shown = f"{value!a}"
    return sqlite3.DatabaseError(f"it has a malformed value: {shown[:40]}")
