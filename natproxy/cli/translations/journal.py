"""The files of a journal: listed, verified, and a client erased from them."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from natproxy.cli.display.text import amount
from natproxy.cli.translations.confirmation import confirmed
from natproxy.cli.translations.sources import (
    PROXY,
    JournalFailure,
    check_directory,
    names_database,
)
from natproxy.cli.translations.texts import NONE, fitted, seconds_of, shown, width
from natproxy.client.control.daemon import Daemon
from natproxy.client.control.finding import Search
from natproxy.client.errors import CannotConnect, NoDaemon, UsageError
from natproxy.counts import counted
from natproxy.journal.contents import Contents, Directory
from natproxy.journal.directory import JournalError
from natproxy.journal.summary import Summary
from natproxy.journal.verify import Check
from natproxy.protocol import printable
from natproxy.records.record import format_time
from natproxy.records.times import show_local
from natproxy.records.whois import Gap

HEADER = ("SEGMENT", "FROM", "TO", "STATE", "GAPS", "SIZE")
RIGHT = ("GAPS", "SIZE")


def run_journal(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Do what the command line selects; return the exit status.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    directory = journal_of(arguments)
    with journal_errors():
        if arguments.action == "erase":
            return erase(directory, arguments, complain)
        if arguments.action == "verify":
            return verify(directory, arguments.json)
        return list_segments(directory, arguments.json, complain)


@contextmanager
def journal_errors() -> Iterator[None]:
    """Raise `JournalFailure` in place of `JournalError`."""
    try:
        yield
    except JournalError as error:
        raise JournalFailure(str(error)) from None


def journal_of(arguments: Namespace) -> str:
    """Return the directory that the options select, or that of the only journal.

    That of a daemon that runs may be in any place: its status has it. If there are several
    journals, it is that of the only proxy that runs, as for other commands.

    :raises UsageError: if the options contradict each other, or there are several journals.
    :raises NoDaemon: if there is none.
    """
    directory: str | None = arguments.journal
    control, name = arguments.control, arguments.name
    if directory is not None:
        if control is not None or name is not None:
            raise UsageError("--journal excludes --control and --name: a directory is enough")
        if names_database(directory):
            raise UsageError(
                f"journal {arguments.action}: needs a directory; journal proxies lists what is in"
                " a database"
            )
        check_directory(directory)
        return directory
    search = Search()
    if search.path_of(control, name) is not None:
        return _directory_of(search.daemon(control, name, PROXY))
    found = search.journals(name)
    # What is erased from one journal may have to be erased from the others as well.
    several = len(found) > 1 and arguments.action != "erase"
    if name is not None or not found or several:
        with suppress(CannotConnect, UsageError):
            return _directory_of(search.daemon(name=name, kind=PROXY))
    if len(found) > 1:
        listed = ", ".join(printable(os.fsencode(each.path)) for each in found)
        raise UsageError(f"there are several journals; --journal or --name selects one: {listed}")
    if not found:
        whose = "" if arguments.name is None else f" of {printable(os.fsencode(arguments.name))}"
        raise NoDaemon(f"there is no journal{whose} in the usual place; --journal names it")
    return found[0].path


def _directory_of(daemon: Daemon) -> str:
    """Return the directory of a proxy's journal.

    :raises NoDaemon: if it has none.
    """
    status = daemon.status()
    journal = status.get("journal")
    if not isinstance(journal, dict) or not isinstance(journal.get("directory"), str):
        raise NoDaemon(f"{shown(status.get('name'))} runs without a journal")
    return str(journal["directory"])


def list_segments(directory: str, json: bool, complain: Callable[[str], object]) -> int:
    """Write a line for each segment; return the exit status, which is 1 if one is unreadable."""
    opened = Directory(directory)
    try:
        contents = opened.contents()
    finally:
        opened.close()
    if json:
        from natproxy.cli.records import write_json

        write_json(segment_json(segment, contents) for segment in contents.segments)
    else:
        rows = [segment_row(segment, contents) for segment in contents.segments]
        for line in aligned([HEADER, *rows], RIGHT) if rows else ():
            sys.stdout.write(line + "\n")
        if not contents.files:
            complain(f"{printable(os.fsencode(directory))}: no segment")
    for error in contents.unreadable:
        complain(str(error))
    return 1 if contents.unreadable else 0


def verify(directory: str, json: bool) -> int:
    """Write what is wrong with each segment; return the exit status, which is 1 for a problem."""
    from natproxy.journal.search import Journal

    failed = False

    def checks() -> Iterator[Check]:
        nonlocal failed
        with Journal(directory) as journal:
            for check in journal.verify():
                failed = failed or bool(check.problems)
                yield check

    if json:
        from natproxy.cli.records import write_json

        write_json(
            {"file": check.segment, "rows": check.rows, "problems": list(check.problems)}
            for check in checks()
        )
    else:
        for check in checks():
            for text in check.problems or (f"ok, {counted(check.rows, 'entry', 'entries')}",):
                sys.stdout.write(f"{shown(check.segment)}: {shown(text)}\n")
            sys.stdout.flush()
    return 1 if failed else 0


def erase(directory: str, arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Erase a client, after a confirmation; return the exit status, which is 1 for a failure.

    :raises UsageError: if the client is malformed, or a confirmation is not possible.
    """
    from natproxy.journal.erase import erase_client

    client: str = arguments.client
    prompt = f"Erase {shown(client)} from {printable(os.fsencode(directory))}?"
    if not arguments.yes and not confirmed(prompt, "erase the client"):
        complain("nothing was erased")
        return 1
    found = erase_client(directory, client)
    if arguments.json:
        from natproxy.cli.records import write_json

        write_json(
            {"file": each.segment, "rows": each.rows, "failure": each.failure} for each in found
        )
    else:
        for each in found:
            if each.failure is None:
                text = f"erased from {counted(each.rows, 'entry', 'entries')}"
                sys.stdout.write(f"{shown(each.segment)}: {text}\n")
    failures = [each for each in found if each.failure is not None]
    for each in failures:
        complain(f"{shown(each.segment)}: {each.failure}")
    if not found:
        complain(f"no entry has the client {shown(client)}")
    return 1 if failures else 0


def segment_json(segment: Summary, contents: Contents) -> dict[str, Any]:
    """Return the object of a segment: its file, its origin, and of which time it is complete."""

    def time(value: int | None) -> str | None:
        return None if value is None else format_time(value)

    return {
        "file": segment.name,
        "proxy": segment.proxy,
        "worker": segment.worker,
        "boot": segment.boot,
        "part": segment.part,
        "boot_started": time(segment.boot_started),
        "opened": time(segment.opened),
        "complete_to": time(segment.complete_to),
        "sealed": time(segment.sealed),
        "stopped": time(segment.stopped),
        "size": contents.files[segment.name][1],
        "gaps": [Gap(gap.since, gap.until, gap.cause).json() for gap in segment.gaps],
    }


def segment_row(segment: Summary, contents: Contents) -> tuple[str, ...]:
    """Return the texts of a segment for people."""
    state = "live" if segment.sealed is None else "sealed"
    return (
        printable(os.fsencode(segment.name)),
        _time(segment.opened),
        _time(segment.complete_to),
        f"{state}, stopped" if segment.stopped is not None else state,
        shown(len(segment.gaps)) if segment.gaps else NONE,
        amount(contents.files[segment.name][1]),
    )


def aligned(rows: Sequence[Sequence[str]], right: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table.

    :param rows: its header first.
    :param right: titles of the columns that are aligned to the right.
    """
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        fields = [
            fitted(text, columns, title in right)
            for text, columns, title in zip(row, widths, rows[0], strict=True)
        ]
        yield "  ".join(fields).rstrip()


def _time(microseconds: int) -> str:
    return seconds_of(show_local(microseconds))
