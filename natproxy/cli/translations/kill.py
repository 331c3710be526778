"""Ends commands, after a confirmation."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Callable
from itertools import groupby, islice

from natproxy.cli.translations.columns import columns_of
from natproxy.cli.translations.confirmation import confirmed
from natproxy.cli.translations.query import explain, filter_text
from natproxy.cli.translations.sources import proxy_of, report_missing, several_workers
from natproxy.cli.translations.tables import Table, terminal_columns
from natproxy.client.control.daemon import Daemon
from natproxy.client.errors import NotFound, UsageError
from natproxy.counts import counted
from natproxy.records.record import Record

PART = 100
"""Commands that one request ends after a confirmation: the length of a filter is limited."""

COLUMNS = ("serial", "port", "client", "verb", "name", "bytes", "age", "state")


def kill(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """End the commands that the command line selects; return the exit status.

    :param complain: called with a message for people.
    :raises NotFound: if there is none.
    :raises ClientError: on another failure.
    """
    (first, *others) = arguments.filter
    number = None if others else re.fullmatch(r"(?:([0-9]{1,6}):)?([0-9]+)", first, re.ASCII)
    serial = None if number is None else int(number[2])
    worker = None if number is None or number[1] is None else int(number[1])
    if arguments.explain:
        # A serial number is also what this filter selects.
        return explain(arguments.filter if number is None else ["serial", number[2]])
    text = filter_text(arguments.filter) if serial is None else None
    if text is not None and not text.strip():
        raise UsageError("kill: a serial number or a filter is needed")
    daemon = proxy_of(arguments)
    several = several_workers(daemon)
    if arguments.dry_run or not arguments.yes:
        found = daemon.kill(serial, text, dry_run=True, worker=worker)
        report_missing(daemon, complain)
        _check(found, first if serial is not None else None)
        _show(found, several)
        if arguments.dry_run:
            return 0
        if not confirmed(f"End {_commands(found)}?", "end these commands"):
            complain("nothing was ended")
            return 1
        ended = _end(daemon, found)
    else:
        ended = daemon.kill(serial, text, worker=worker)
        report_missing(daemon, complain)
        _check(ended, first if serial is not None else None)
        _show(ended, several)
    complain(f"ended {_commands(ended)}")
    return 0


def _end(daemon: Daemon, confirmed: list[Record]) -> list[Record]:
    """End the commands that the user has seen, and no other that the filter matches by now."""
    ended: list[Record] = []
    runs = groupby(confirmed, lambda record: (record.boot, record.worker))
    for (boot, worker), records in runs:
        while part := list(islice(records, PART)):
            serials = ", ".join(str(record.serial) for record in part)
            run = f"boot '{boot}' and worker {worker}"
            ended += daemon.kill(filter=f"serial in ({serials}) and {run}")
    return ended


def _check(found: list[Record], serial: str | None) -> None:
    if not found:
        if serial is None:
            raise NotFound("no command in flight matches the filter")
        hint = f"; a port is written nat-port {serial}"
        raise NotFound(f"no command in flight has the serial number {serial}{hint}")


def _show(records: list[Record], several: bool) -> None:
    for line in Table(columns_of(COLUMNS, several=several), terminal_columns()).lines(records):
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _commands(records: list[Record]) -> str:
    return counted(len(records), "command")
