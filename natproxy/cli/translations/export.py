"""Translations of the past as lines for other programs."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from natproxy.cli.translations.history import report_gaps
from natproxy.cli.translations.query import filter_text, interval_of
from natproxy.cli.translations.sources import source_of
from natproxy.records.formats import TRANSLATION_MEMBERS, csv_lines, json_lines
from natproxy.records.record import Record

BLOCK = 500
"""Lines that are written at once."""


def write_export(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Write the translations that the options of the command select; return the exit status.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    text = filter_text(arguments.filter)
    since, until = interval_of(arguments.since, arguments.until)
    source = source_of(arguments, complain)
    records = source.history(text, since, until, arguments.last)
    for block in blocks(export_lines(records, arguments.format, arguments.ipfix_names)):
        sys.stdout.write(block)
    report_gaps(source, since, until, complain)
    return 0


def export_lines(records: Iterable[Record], format: str, ipfix: bool) -> Iterator[str]:  # noqa: A002
    """Yield the lines of an export.

    :param format: ``jsonl`` or ``csv``.
    :param ipfix: whether each translation becomes its events with IPFIX's names.
    """
    objects: Iterable[dict[str, Any]]
    columns: Iterable[str] = TRANSLATION_MEMBERS
    if ipfix:
        from natproxy.records.ipfix import ELEMENTS, ipfix_events

        objects = chain.from_iterable(map(ipfix_events, records))
        columns = ELEMENTS
    else:
        objects = (record.json() for record in records)
    return csv_lines(objects, columns) if format == "csv" else json_lines(objects)


def blocks(lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines, many at once."""
    while block := "".join(islice(lines, BLOCK)):
        yield block
