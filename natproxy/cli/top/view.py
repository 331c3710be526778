"""The lines that show the state of ``natproxy top``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from natproxy.cli.display.text import amount, duration, speed
from natproxy.cli.top.sampling import MOST_ENTRIES, Row
from natproxy.cli.top.state import Top
from natproxy.cli.translations.columns import columns_of
from natproxy.cli.translations.tables import Table
from natproxy.cli.translations.texts import fitted, shown, width
from natproxy.cli.translations.upstreams import all_well, summary
from natproxy.counts import counted

COLUMNS = ("serial", "port", "client", "verb", "name", "bytes", "rate", "age", "state")

KEYS = (
    "q quit  sort: a age  b bytes  r rate  c client  g group  / filter  k kill  p pause",
    "q quit  a b r c sort  g group  / filter  k kill  p pause",
    "q quit  / filter  k kill",
)
"""What the keys do, for a wide terminal and for narrower ones."""

RESERVED = 5
"""Lines that are no rows: two at the top, the header, the message, the keys."""


RECENT = 60
"""Seconds for which a client that was over a limit is shown."""


class Line(NamedTuple):
    """A line of the screen.

    :ivar style: of rich; empty for plain text.
    """

    text: str
    style: str = ""


def lines(top: Top, columns: int, height: int) -> list[Line]:
    """Return the lines of the screen, each with at most this many columns."""
    found = [Line(_title(top), "bold"), Line(_totals(top))]
    notices = [line for line in (_upstreams(top), _over_limits(top)) if line.text]
    # On a small screen, one row is more important.
    notices = notices[: max(0, height - RESERVED - 1)]
    found += notices
    most = max(1, height - RESERVED - len(notices))
    rows = _entries(top, columns, most) if top.group is None else _groups(top, columns, most)
    found += rows
    found += [Line("")] * (height - 2 - len(found))
    found.append(Line(top.message, "yellow"))
    if top.prompt:
        found.append(Line(_tail(top.prompt, columns), "bold"))
    else:
        keys = next((each for each in KEYS if len(each) <= columns), KEYS[-1])
        found.append(Line(keys, "dim"))
    return [Line(cut(line.text, columns), line.style) for line in found]


def _title(top: Top) -> str:
    if top.sample is None:
        return "natproxy"
    status = top.sample.status
    parts = [shown(status.get("name"))]
    if top.failed:
        parts.append("NO REPLY")
    if isinstance(status.get("uptime"), (int, float)):
        parts.append(f"up {duration(status['uptime'])}")
    if isinstance(status.get("clients"), int):
        parts.append(counted(status["clients"], "client"))
    if isinstance(status.get("table"), int):
        parts.append(f"{status['table']:,} in flight")
    if status.get("draining"):
        parts.append("draining")
    missing = status.get("missing")
    for each in missing if isinstance(missing, list) else ():
        parts.append(f"worker {shown(_member({'': each}, '').get('worker'))} does not reply")
    if top.paused:
        parts.append("PAUSED")
    if top.text.strip():
        parts.append(f"filter: {shown(top.text)}")
    return "  ".join(parts)


def _totals(top: Top) -> str:
    total = top.window.total()
    parts = [f"{total.finished:,.1f} commands/s", f"{total.failed:,.1f} failed/s"]
    parts += [speed(total.rate), f"sorted by {_order(top)}"]
    if top.sample is not None and top.sample.lost:
        lost = top.sample.lost
        parts.append(f"{counted(lost, 'event')} {'was' if lost == 1 else 'were'} too many to count")
    if top.sample is not None and len(top.sample.table) >= MOST_ENTRIES:
        parts.append(f"the first {MOST_ENTRIES:,} only")
    return "  ".join(parts)


def _upstreams(top: Top) -> Line:
    """Return how the upstreams are; an empty line for one that takes commands."""
    members = None if top.sample is None else top.sample.status.get("upstreams")
    text = summary(members)
    return Line("" if text is None else f"upstreams: {text}", "" if all_well(members) else "yellow")


def _over_limits(top: Top) -> Line:
    """Return which clients were over a limit lately, the last one first; empty if none was."""
    limits = _member(_member({} if top.sample is None else top.sample.status, "counters"), "limits")
    parts = []
    if isinstance(limits.get("waiting"), int) and limits["waiting"]:
        parts.append(f"{counted(limits['waiting'], 'command')} delayed")
    clients = limits.get("clients")
    for client in clients if isinstance(clients, list) else ():
        age = client.get("age") if isinstance(client, Mapping) else None
        if isinstance(age, (int, float)) and age < RECENT:
            parts.append(f"{shown(client.get('client'))} ({shown(client.get('limit'))})")
    return Line(f"over limits: {'  '.join(parts)}" if parts else "", "yellow")


def _member(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = members.get(name)
    return value if isinstance(value, Mapping) else {}


def _order(top: Top) -> str:
    if top.group is None:
        return top.sort
    return {"age": "number in flight", "client": top.group}.get(top.sort, top.sort)


def _entries(top: Top, columns: int, most: int) -> list[Line]:
    records = top.records()
    if not records:
        return [Line("no command in flight" if top.sample is not None else "connecting ...")]
    selected = top.selected()
    first = max(0, min(selected - most // 2, len(records) - most))
    table = Table(columns_of(COLUMNS, top.rates, top.several), columns)
    header, *rows = table.lines(records[first : first + most])
    found = [Line(fitted(header, columns), "reverse")]
    for place, row in enumerate(rows, first):
        found.append(Line(fitted(row, columns), "bold cyan") if place == selected else Line(row))
    return found


def _groups(top: Top, columns: int, most: int) -> list[Line]:
    rows = top.rows()
    if not rows:
        return [Line("no command in flight" if top.sample is not None else "connecting ...")]
    return group_lines(top.group or "", rows, columns, most)


def group_lines(group: str, rows: Sequence[Row], columns: int, most: int) -> list[Line]:
    """Return a header and the lines of groups.

    :param group: the name of what the groups have in common.
    :param rows: one at least.
    :param most: number of groups at most.
    """
    keys = max(len(group), *(width(row.key) for row in rows[:most]))
    keys = max(8, min(keys, columns - 55))
    titles = ("IN FLIGHT", "BYTES", "RATE", "COMMANDS/S", "FAILED/S")
    head = fitted(group.upper(), keys) + "".join(f"{each:>11}" for each in titles)
    return [
        Line(fitted(head, columns), "reverse"),
        *(Line(fitted(row.key, keys) + _figures(row)) for row in rows[:most]),
    ]


def _figures(row: Row) -> str:
    texts = (
        f"{row.in_flight:,}",
        amount(row.sent),
        speed(row.rate),
        f"{row.finished:,.1f}",
        f"{row.failed:,.1f}",
    )
    return "".join(f"{each:>11}" for each in texts)


def _tail(text: str, columns: int) -> str:
    """Return the end of a text, where the user types, if it is too wide."""
    while width(text) > columns:
        text = "..." + text[4:] if text.startswith("...") else "..." + text[3:]
    return text


def cut(text: str, columns: int) -> str:
    """Return a text without what does not fit."""
    return fitted(text, columns) if width(text) > columns else text
