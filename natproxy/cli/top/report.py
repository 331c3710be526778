"""``natproxy top`` where there is no terminal, or for programs: one state."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence

from natproxy.cli.top.sampling import Row
from natproxy.cli.top.view import RESERVED, Line

COLUMNS = 120
ROWS = 20


def write_lines(lines: Callable[[int, int], Sequence[Line]]) -> None:
    """Write a state for people.

    :param lines: returns the lines of a screen with so many columns and rows.
    """
    for line in lines(COLUMNS, ROWS + RESERVED)[:-2]:
        if line.text:
            sys.stdout.write(line.text.rstrip() + "\n")


def write_groups(group: str, rows: Iterable[Row]) -> None:
    """Write an object for each group.

    :param group: the name of what the groups have in common.
    """
    for row in rows:
        members = {
            group: row.key,
            "in_flight": row.in_flight,
            "bytes": row.sent,
            "rate": round(row.rate, 3),
            "commands": round(row.finished, 3),
            "failed": round(row.failed, 3),
        }
        sys.stdout.write(json.dumps(members) + "\n")
