"""Records as lines for programs: JSON, and CSV that is safe to open in a spreadsheet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from natproxy.records.record import Record

EVENT_MEMBERS = ("event", "time")
"""Members that events have and translations have not."""

ACTION_MEMBERS = ("uid", "pid")
"""Members of administrators' actions."""

LAST_MEMBERS = ("total",)
"""Members of the last event of a command that had several attempts."""

TRANSLATION_MEMBERS = tuple(
    member
    for member in Record._fields
    if member not in (*EVENT_MEMBERS, *ACTION_MEMBERS, *LAST_MEMBERS)
)
"""The columns of translations."""

FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""A field that begins with one of these may be a formula to a spreadsheet."""

_QUOTED = re.compile('[",\r\n]')
"""Finds what makes quotes around a field necessary."""

_SPECIAL = re.compile(f"{_QUOTED.pattern}|^['{re.escape(FORMULA)}]")
"""Finds what makes a text differ from its field."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


def json_line(members: dict[str, Any]) -> str:
    """Return an object as one line of JSON, line feed included."""
    return _encode(members) + "\n"


def csv_line(values: Iterable[object]) -> str:
    """Return values as one line of CSV (RFC 4180, but with a line feed alone at the end).

    ``None`` is an empty field. A text that begins with a character of `FORMULA`, or with an
    apostrophe, has an apostrophe more in front: no spreadsheet takes it for a formula, and a
    program removes one apostrophe.
    """
    return ",".join(map(_field, values)) + "\n"


def read_csv_field(field: str) -> str:
    """Return the text of a field of `csv_line`."""
    return field[1:] if field[:1] == "'" else field


def json_lines(objects: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield a line of JSON for each object."""
    return map(json_line, objects)


def csv_lines(objects: Iterable[dict[str, Any]], columns: Iterable[str]) -> Iterator[str]:
    """Yield the header, and then a line of CSV for each object.

    :param columns: names of members, in the order of the fields; a member that an object does not
        have is an empty field.
    """
    names = tuple(columns)
    yield csv_line(names)
    for members in objects:
        get: Callable[[str], object] = members.get
        yield csv_line(map(get, names))


def _field(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        # A number; Python writes small ones with an exponent, which CSV has not.
        return f"{value:.6f}" if isinstance(value, float) else str(value)
    if _SPECIAL.search(value) is None:
        return value
    if value[0] in FORMULA or value[0] == "'":
        value = f"'{value}"
    if _QUOTED.search(value) is None:
        return value
    escaped = value.replace('"', '""')
    return f'"{escaped}"'
