"""Translations of the past, written as they are found."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator

from natproxy.cli.translations.columns import (
    PAST,
    columns_of,
    members_of,
    parse_columns,
)
from natproxy.cli.translations.query import filter_text, interval_of
from natproxy.cli.translations.sentences import gap_text
from natproxy.cli.translations.sources import (
    FleetSource,
    JournalSource,
    Source,
    report_missing,
    several_workers,
    source_of,
)
from natproxy.cli.translations.tables import Table, terminal_columns, write_csv, write_json_lines
from natproxy.client.control.daemon import Daemon
from natproxy.client.errors import ClientError
from natproxy.records.formats import TRANSLATION_MEMBERS
from natproxy.records.record import Record
from natproxy.records.whois import Gap

MOST_GAPS = 5
"""Gaps that are reported one by one."""


def write_history(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Write the translations that the options of the command select; return the exit status.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    text = filter_text(arguments.filter)
    since, until = interval_of(arguments.since, arguments.until)
    selected = parse_columns(arguments.columns, PAST)
    source = source_of(arguments, complain)
    found = _Counted(source.history(text, since, until, arguments.last))
    if arguments.json:
        listed = selected if arguments.columns is not None else None
        write_json_lines(members_of(record, listed) for record in found)
    elif arguments.csv:
        listed = selected if arguments.columns is not None else TRANSLATION_MEMBERS
        write_csv((members_of(record, listed) for record in found), listed)
    else:
        several = "serial" in selected and several_workers(source)
        columns = columns_of(selected, several=several)
        for line in Table(columns, terminal_columns()).lines(found):
            sys.stdout.write(line + "\n")
        if not found.count:
            complain("no command of the past is recorded, or none matches")
    report_missing(source, complain)
    # What is older than the newest N is not shown, and neither are its gaps.
    report_gaps(source, found.since if found.count == arguments.last else since, until, complain)
    return 0


def report_gaps(
    source: Source, since: int | None, until: int | None, complain: Callable[[str], object]
) -> None:
    """Report of which times of an interval the journal is not complete.

    That each journal has a beginning is not reported.

    :param complain: called with a message for each of them.
    """
    try:
        gaps = _gaps(source, since, until)
    except ClientError as error:
        complain(f"this may be incomplete: the gaps of the journal cannot be read: {error}")
        return
    inner = list(dict.fromkeys(gap_text(gap) for gap in gaps if gap.since is not None))
    for text in inner[:MOST_GAPS]:
        complain(f"this may be incomplete: {text}")
    if len(inner) > MOST_GAPS:
        complain(f"and {len(inner) - MOST_GAPS} more gaps")


def _gaps(source: Source, since: int | None, until: int | None) -> list[Gap]:
    """Return the times of an interval of which a journal, or that of a daemon, is not complete."""
    if isinstance(source, JournalSource | FleetSource):
        return source.gaps(since, until)
    journal = source.status().get("journal") if isinstance(source, Daemon) else None
    if not journal:
        return []
    gaps = JournalSource(str(journal["directory"])).gaps(since, until)
    # The daemon has what is not written yet.
    return [gap for gap in gaps if gap.until is not None]


class _Counted:
    """Iterates over records, and counts them.

    :ivar since: when the first one started.
    """

    def __init__(self, records: Iterator[Record]) -> None:
        self.count = 0
        self.since: int | None = None
        self._records = records

    def __iter__(self) -> Iterator[Record]:
        for record in self._records:
            if not self.count:
                self.since = record.started
            self.count += 1
            yield record
