"""Tables for people, JSON and CSV for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from natproxy.cli.translations.columns import Column
from natproxy.cli.translations.texts import fitted, width

FIRST = 200
"""Rows that determine the widths of the columns before the first one is written."""

SHRINKING = ("name", "reason")
"""The columns that are cut if the terminal is too narrow, in this order."""

NARROWEST = 12
"""Columns of the terminal that a cut column keeps."""

GAP = "  "


class Table:
    """Formats rows in aligned columns, under a header.

    :param columns: at least one.
    :param limit: columns of the terminal; ``None`` for lines of any length.
    """

    def __init__(self, columns: Sequence[Column], limit: int | None = None) -> None:
        self._columns = columns
        self._limit = limit
        self._widths = [width(column.title) for column in columns]

    def lines(self, records: Iterable[Any]) -> Iterator[str]:
        """Yield the header and a line for each record; nothing if there is no record.

        The rows are formatted as they arrive, except the first `FIRST`. A later row that is wider
        widens its column from there on.
        """
        rest = iter(records)
        beginning = list(islice(rest, FIRST))
        if not beginning:
            return
        first = self._rows(beginning)
        if self._limit is not None and self._natural_width(first) > self._limit:
            self._columns = [
                column if column.short is None else column._replace(text=column.short)
                for column in self._columns
            ]
            first = self._rows(beginning)
        rows = ([column.text(record) for column in self._columns] for record in rest)
        self._widen(first)
        yield self._line([column.title.replace("_", " ").upper() for column in self._columns])
        for row in chain(first, rows):
            self._widen([row])
            yield self._line(row)

    def _rows(self, records: Iterable[Any]) -> list[list[str]]:
        return [[column.text(record) for column in self._columns] for record in records]

    def _natural_width(self, rows: Sequence[Sequence[str]]) -> int:
        """Return the columns of the terminal that a line takes if nothing is cut."""
        columns = zip(self._widths, zip(*rows, strict=True), strict=True)
        widths = [max(title, *map(width, texts)) for title, texts in columns]
        return sum(widths) + len(GAP) * (len(widths) - 1)

    def _widen(self, rows: Sequence[Sequence[str]]) -> None:
        for row in rows:
            for place, text in enumerate(row):
                taken = width(text)
                if taken > self._widths[place]:
                    self._widths[place] = taken
        if self._limit is None:
            return
        over = sum(self._widths) + len(GAP) * (len(self._widths) - 1) - self._limit
        for title in SHRINKING:
            for place, column in enumerate(self._columns):
                if column.title == title and over > 0:
                    least = min(self._widths[place], NARROWEST)
                    less = min(over, self._widths[place] - least)
                    self._widths[place] -= less
                    over -= less

    def _line(self, row: Sequence[str]) -> str:
        fields = [
            fitted(text, columns, column.right)
            for text, columns, column in zip(row, self._widths, self._columns, strict=True)
        ]
        return GAP.join(fields).rstrip()


def terminal_columns() -> int | None:
    """Return the columns of a line on standard output; ``None`` for any number.

    A line is narrower than the terminal: some wrap a full line.
    """
    from natproxy.cli.output import is_terminal
    from natproxy.cli.parsing import columns

    return columns() - 1 if is_terminal(sys.stdout) else None


def write_csv(rows: Iterable[dict[str, Any]], names: Sequence[str]) -> None:
    """Write rows with a header.

    :param names: of the columns.
    """
    from natproxy.records.formats import csv_lines

    for line in csv_lines(rows, names):
        sys.stdout.write(line)


def write_json_lines(objects: Iterable[dict[str, Any]]) -> None:
    """Write an object per line; each is flushed."""
    from json import dumps

    for each in objects:
        sys.stdout.write(dumps(each) + "\n")
        sys.stdout.flush()
