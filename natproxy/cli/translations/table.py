"""The table of a proxy, written once or at an interval."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from natproxy.cli.display.text import speed
from natproxy.cli.output import is_terminal
from natproxy.cli.translations.columns import (
    DEFAULT,
    Rates,
    columns_of,
    identity_of,
    members_of,
    ordered,
    parse_columns,
)
from natproxy.cli.translations.screen import clear, draw, time_text
from natproxy.cli.translations.sources import proxy_of, report_missing, several_workers
from natproxy.cli.translations.tables import Table, terminal_columns, write_csv
from natproxy.client.errors import CannotConnect, ConnectionBroken, Unavailable
from natproxy.records.formats import TRANSLATION_MEMBERS
from natproxy.records.record import Record

if TYPE_CHECKING:
    from typing import NoReturn


class Sampler:
    """Computes rates from the bytes of two samples.

    :param clock: returns seconds since any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: dict[tuple[str, int, int | None], int] = {}
        self._at: float | None = None

    def rates(self, records: list[Record]) -> Rates | None:
        """Return the rates since the last sample; ``None`` for the first one.

        A translation that is new has no rate there.
        """
        at = self._clock()
        bytes_now = {identity_of(record): record.bytes or 0 for record in records}
        rates = None
        if self._at is not None and at > self._at:
            rates = {
                key: (sent - self._before[key]) / (at - self._at)
                for key, sent in bytes_now.items()
                if key in self._before
            }
        self._before, self._at = bytes_now, at
        return rates


class TableReport:
    """Writes the table as the options of the command select.

    :param arguments: with ``sort``, ``columns``, ``json``, ``csv``, and the options of the daemon.
    :raises UsageError: if a column is unknown.
    """

    def __init__(self, arguments: Namespace) -> None:
        self._json = arguments.json
        self._csv = arguments.csv
        self._sort = arguments.sort
        self._listed = arguments.columns is not None
        default = (*DEFAULT[:-1], "rate", DEFAULT[-1]) if arguments.watch is not None else DEFAULT
        self._columns = parse_columns(arguments.columns, default)
        self._daemon = proxy_of(arguments)
        for_people = not (self._json or self._csv)
        self._several = for_people and "serial" in self._columns and several_workers(self._daemon)

    def write(self, text: str) -> int:
        """Write the table once, and return the number of its rows.

        :param text: of the filter.
        """
        records = ordered(self._daemon.table(text), self._sort)
        self._write(records, None)
        return len(records)

    def report(self, complain: Callable[[str], object]) -> None:
        """Report which workers have not replied.

        :param complain: called with a message for each of them.
        """
        report_missing(self._daemon, complain)

    def watch(self, text: str, seconds: float, complain: Callable[[str], object]) -> NoReturn:
        """Write the table at an interval, until an interrupt; a daemon that ends is waited for.

        On a terminal, each replaces the last one.

        :param complain: called with a message for people.
        :raises ClientError: on failure.
        """
        sampler = Sampler()
        # That no daemon runs is an error at first.
        connected, failed = False, False
        reported: set[int] = set()
        on_terminal = is_terminal(sys.stdout) and not (self._json or self._csv)
        if on_terminal:
            clear()
        while True:
            started = time.monotonic()
            try:
                records = list(self._daemon.table(text))
            except (CannotConnect, ConnectionBroken, Unavailable) as error:
                if not connected:
                    raise
                if on_terminal:
                    draw([time_text(), "", str(error)])
                elif not failed:
                    complain(str(error))
                failed = True
                time.sleep(seconds)
                continue
            connected, failed = True, False
            missing = {each.worker for each in self._daemon.missing}
            if not on_terminal and missing - reported:
                self.report(complain)
            reported = missing
            rates = sampler.rates(records)
            records = ordered(records, self._sort, rates)
            if on_terminal:
                self._redraw(records, rates)
            else:
                self._write(records, rates)
                if not (self._json or self._csv):
                    sys.stdout.write("\n")
            sys.stdout.flush()
            time.sleep(max(0.0, started + seconds - time.monotonic()))

    def _write(self, records: list[Record], rates: Rates | None) -> None:
        if self._json:
            from natproxy.cli.records import write_json

            selected = self._columns if self._listed else None
            write_json(members_of(record, selected, rates) for record in records)
        elif self._csv:
            columns = self._columns if self._listed else TRANSLATION_MEMBERS
            write_csv((members_of(record, columns, rates) for record in records), columns)
        else:
            for line in self._lines(records, rates):
                sys.stdout.write(line + "\n")

    def _lines(self, records: list[Record], rates: Rates | None) -> list[str]:
        table = Table(columns_of(self._columns, rates, self._several), terminal_columns())
        return list(table.lines(records))

    def _redraw(self, records: list[Record], rates: Rates | None) -> None:
        total = sum(rates.values()) if rates else 0.0
        head = f"{time_text()}  {len(records):,} in flight, {speed(total)}"
        draw([head, *map(str, self._daemon.missing), "", *self._lines(records, rates)])
