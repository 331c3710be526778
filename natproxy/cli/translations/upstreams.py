"""The upstreams of a proxy as text, once or at an interval."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from json import dumps
from typing import TYPE_CHECKING

from natproxy.cli.display.text import duration
from natproxy.cli.output import is_terminal
from natproxy.cli.translations.columns import Column
from natproxy.cli.translations.query import now
from natproxy.cli.translations.screen import clear, draw, time_text
from natproxy.cli.translations.sources import proxy_of, report_missing
from natproxy.cli.translations.tables import Table, terminal_columns
from natproxy.cli.translations.texts import NONE, precise, shown
from natproxy.client.control.daemon import Daemon
from natproxy.client.errors import CannotConnect, ConnectionBroken, Unavailable, UsageError
from natproxy.records.upstreams import (
    DOWN,
    DRAIN,
    MAINTENANCE,
    READY,
    UpstreamRecord,
    UpstreamsRecord,
)

if TYPE_CHECKING:
    from typing import NoReturn

MODE_TEXTS = {DRAIN: "draining", MAINTENANCE: "in maintenance"}


def write_upstreams(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Write the upstreams of the selected proxy; return the exit status.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    if arguments.wait:
        raise UsageError("upstreams: --wait belongs to ready, drain and maintenance")
    daemon = proxy_of(arguments)
    write(daemon.upstreams(), daemon, arguments.json)
    report_missing(daemon, complain)
    return 0


def write(record: UpstreamsRecord, daemon: Daemon, as_json: bool) -> None:
    """Write upstreams as a table, or as one JSON object.

    :param daemon: that has sent them: it has the workers that have not replied.
    """
    if as_json:
        missing = [{"worker": each.worker, "reason": each.reason} for each in daemon.missing]
        sys.stdout.write(dumps({**record.json(), "missing": missing}) + "\n")
    else:
        for line in lines(record):
            sys.stdout.write(line + "\n")
    sys.stdout.flush()


def watch(arguments: Namespace, complain: Callable[[str], object]) -> NoReturn:
    """Write the upstreams at an interval, until an interrupt; a daemon that ends is waited for.

    On a terminal, each state replaces the last one.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    daemon = proxy_of(arguments)
    # That no daemon runs is an error at first.
    connected, failed = False, False
    on_terminal = is_terminal(sys.stdout) and not arguments.json
    if on_terminal:
        clear()
    while True:
        started = time.monotonic()
        try:
            record = daemon.upstreams()
        except (CannotConnect, ConnectionBroken, Unavailable) as error:
            if not connected:
                raise
            if on_terminal:
                draw([time_text(), "", str(error)])
            elif not failed:
                complain(str(error))
            failed = True
            time.sleep(arguments.watch)
            continue
        connected, failed = True, False
        if on_terminal:
            draw([time_text(), *map(str, daemon.missing), "", *lines(record)])
        else:
            write(record, daemon, arguments.json)
            if not arguments.json:
                sys.stdout.write("\n")
                sys.stdout.flush()
        time.sleep(max(0.0, started + arguments.watch - time.monotonic()))


def lines(record: UpstreamsRecord) -> Iterator[str]:
    """Yield a table of the upstreams, in what their workers differ, and the queue."""
    moment = now()
    yield from Table(_columns(moment), terminal_columns()).lines(record.upstreams)
    for upstream in record.upstreams:
        yield from _differences(upstream)
    queue = record.queue
    most = "" if queue.limit is None else f" of {queue.limit:,}"
    wait = f", the first for {precise(queue.longest_wait)}" if queue.length else ""
    refused = f", {queue.refused:,} refused so far" if queue.refused else ""
    yield f"queue: {queue.length:,}{most}{wait}{refused}"


def _columns(moment: int) -> list[Column]:
    """Return the columns of the table.

    :param moment: now, in microseconds since the epoch.
    """

    def ago(time: int | None) -> str:
        return NONE if time is None else duration(max(0, moment - time) / 1e6)

    return [
        Column("upstream", lambda each: shown(each.name)),
        Column("health", lambda each: shown(each.health)),
        Column("mode", lambda each: shown(each.mode)),
        Column("since", lambda each: ago(each.since), right=True),
        Column("active", _active_text, right=True),
        Column("commands", lambda each: f"{each.commands:,}", right=True),
        Column("failed", lambda each: f"{each.failures:,}", right=True),
        Column("checked", lambda each: ago(each.last_check), right=True),
        Column("endpoint", _endpoint_text),
        # The column of a reason is cut on a narrow terminal.
        Column("reason", _reason_text),
    ]


def _active_text(upstream: UpstreamRecord) -> str:
    """Return the commands that an upstream has, of how many if there is a limit."""
    return f"{upstream.active:,}" + ("" if upstream.limit is None else f"/{upstream.limit:,}")


def _endpoint_text(upstream: UpstreamRecord) -> str:
    """Return the endpoint, with the addresses of its host name."""
    endpoint = shown(upstream.endpoint)
    if not upstream.addresses:
        return endpoint
    return f"{endpoint} ({', '.join(map(shown, upstream.addresses))})"


def _reason_text(upstream: UpstreamRecord) -> str:
    """Return why an upstream is down, or may soon be; a failure before its last success is none."""
    failing = upstream.health == DOWN or upstream.failures_in_row
    return shown((failing and upstream.last_error) or None)


def _differences(upstream: UpstreamRecord) -> Iterator[str]:
    """Yield a line for each worker whose view of an upstream is not that of the others."""
    for worker in upstream.workers:
        facts = [
            shown(worker.get(name))
            for name in ("health", "mode")
            if worker.get(name) != getattr(upstream, name)
        ]
        if facts:
            yield f"{shown(upstream.name)}: {', '.join(facts)} for worker {shown(worker['worker'])}"


def summary(members: object) -> str | None:
    """Return the upstreams of a status in one line, such as ``2 up, 1 down (files-b: refused)``.

    :param members: of ``upstreams`` in the status.
    :return: ``None`` if there are none, or if there is one only and nothing to report.
    """
    record = _record_of(members)
    upstreams, queue = record.upstreams, record.queue
    if not upstreams or (len(upstreams) == 1 and all_well(members)):
        return None
    taking = [each for each in upstreams if each.takes_commands]
    parts = [f"{len(taking):,} up"]
    down = [each for each in upstreams if each.health == DOWN and each.mode == READY]
    if down:
        named = (f"{shown(each.name)}: {shown(each.last_error)}" for each in down)
        parts.append(f"{len(down):,} down ({'; '.join(named)})")
    for mode, text in MODE_TEXTS.items():
        names = [each.name for each in upstreams if each.mode == mode]
        if names:
            parts.append(f"{len(names):,} {text} ({', '.join(map(shown, names))})")
    parts.append(f"queue {queue.length:,}")
    return ", ".join(parts)


def all_well(members: object) -> bool:
    """Return whether all upstreams of a status take commands, and no command waits."""
    record = _record_of(members)
    return not record.queue.length and all(each.takes_commands for each in record.upstreams)


def _record_of(members: object) -> UpstreamsRecord:
    """Return the upstreams of a status; none if they are missing or malformed."""
    if not isinstance(members, Mapping):
        return UpstreamsRecord()
    try:
        return UpstreamsRecord.from_json(members)
    except (ValueError, TypeError, KeyError, AttributeError):
        return UpstreamsRecord()
