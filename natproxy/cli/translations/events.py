"""Events, one per line, until the end of those that there are or for ever."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from json import dumps
from typing import Any

from natproxy.cli.translations.query import filter_text, interval_of
from natproxy.cli.translations.sentences import event_line
from natproxy.cli.translations.sources import Source, proxy_of, source_of
from natproxy.client.control.daemon import LostEvents
from natproxy.client.errors import ConnectionBroken, UsageError
from natproxy.records.record import Record

LAST = 20
"""Events of the past with which a listing begins that nothing else limits."""


def write_events(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Write the events that the options of the command select; return the exit status.

    :raises ClientError: on failure, and if a daemon that is followed ends.
    """
    follow = arguments.follow
    if follow and (arguments.journal is not None or arguments.until is not None):
        other = "--journal" if arguments.journal is not None else "--until"
        raise UsageError(f"--follow waits for new events: not with {other}")
    if arguments.last is not None and arguments.after is not None:
        raise UsageError("--last and --after exclude each other: both select a beginning")
    text = filter_text(arguments.filter)
    since, until = interval_of(arguments.since, arguments.until)
    last = arguments.last
    if follow and last is None and since is None and arguments.after is None:
        # Those who watch need not have the whole past first.
        last = LAST
    # A journal has no new events: to follow, a daemon is needed.
    source: Source = proxy_of(arguments) if follow else source_of(arguments, complain)
    found = source.events(text, since, until, arguments.after, last, follow)
    newest, count = _write(found, arguments.json)
    if follow:
        again = f"; --after {newest} continues after the last event" if newest else ""
        raise ConnectionBroken(f"the daemon has ended{again}")
    if not count and not arguments.json:
        complain("no event is recorded, or none matches; -f waits for new ones")
    return 0


def _write(found: Iterator[Record | LostEvents], as_json: bool) -> tuple[str | None, int]:
    """Write events, each as it arrives.

    :return: the number of the last one, ``WORKER:SEQ``, and how many there were.
    """
    newest = None
    count = 0
    for event in found:
        count += 1
        line = dumps(event_members(event)) if as_json else event_line(event)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if isinstance(event, Record) and event.seq is not None:
            newest = f"{event.worker}:{event.seq}"
    return newest, count


def event_members(event: Record | LostEvents) -> dict[str, Any]:
    """Return the object of an event for JSON."""
    if isinstance(event, Record):
        return event.json()
    return {
        "event": "lost",
        "proxy": event.proxy,
        "worker": event.worker,
        "boot": event.boot,
        "from": event.first,
        "to": event.last,
    }
