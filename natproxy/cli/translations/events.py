"""Events, one per line: those of the past, and new ones for as long as the user watches."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from json import dumps
from typing import Any

from natproxy.cli.translations.query import filter_text, interval_of
from natproxy.cli.translations.sentences import event_line
from natproxy.cli.translations.sources import (
    has_workers,
    proxy_of,
    report_missing,
    several_workers,
    source_of,
)
from natproxy.client.control.daemon import Daemon, Event, MissingWorker
from natproxy.client.control.position import Position
from natproxy.client.errors import CannotConnect, ConnectionBroken, Unavailable, UsageError
from natproxy.records.record import Record, format_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LAST = 20
"""Events of the past with which a listing begins that nothing else limits."""

RETRY = 0.5
"""Seconds between two attempts to connect to a daemon that has ended."""


def write_events(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Write the events that the options of the command select; return the exit status.

    With ``--follow``, write new ones until an interrupt.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    follow = arguments.follow
    if follow and (arguments.journal is not None or arguments.until is not None):
        other = "--journal" if arguments.journal is not None else "--until"
        raise UsageError(f"--follow waits for new events: not with {other}")
    if arguments.last is not None and arguments.after is not None:
        raise UsageError("--last and --after exclude each other: both select a beginning")
    text = filter_text(arguments.filter)
    since, until = interval_of(arguments.since, arguments.until)
    if follow:
        # A journal has no new events: to follow, a daemon is needed.
        Follower(proxy_of(arguments), text, arguments.json, complain).run(
            since, arguments.after, arguments.last
        )
    source = source_of(arguments, complain)
    several = not arguments.json and several_workers(source)
    count = 0
    for event in source.events(text, since, until, arguments.after, arguments.last):
        _write(event, arguments.json, several)
        count += 1
    report_missing(source, complain)
    if not count and not arguments.json:
        complain("no event is recorded, or none matches; -f waits for new ones")
    return 0


class Follower:
    """Writes the events of a daemon as they occur, also after its restart.

    :param daemon: its first connection must succeed.
    :param text: of the filter.
    :param complain: called with a message for people.
    """

    def __init__(
        self, daemon: Daemon, text: str, as_json: bool, complain: Callable[[str], object]
    ) -> None:
        self._daemon = daemon
        self._text = text
        self._json = as_json
        self._complain = complain
        self._newest = Position()
        self._several = False

    def run(self, since: int | None, after: str | None, last: int | None) -> NoReturn:
        """Write events until an interrupt or an error; a daemon that has ended is waited for.

        :raises ClientError: on failure.
        """
        if last is None and since is None and after is None:
            # Those who watch need not have the whole past first.
            last = LAST
        status = self._daemon.status()
        self._several = has_workers(status)
        with suppress(ValueError):
            # Where to continue if there is no event before the daemon ends.
            self._newest = Position(str(status.get("position") or ""))
        self._write_all(self._daemon.events(self._text, since, None, after, last, follow=True))
        while True:
            self._complain("the daemon has ended; waiting until it runs again")
            time.sleep(RETRY)
            while not self._continue():
                time.sleep(RETRY)

    def _continue(self) -> bool:
        """Write the events after the last one until the daemon ends; return whether it ran."""
        found = self._daemon.events(self._text, after=str(self._newest) or None, follow=True)
        try:
            self._write_all(found)
        except (CannotConnect, Unavailable):
            return False
        return True

    def _write_all(self, found: Iterator[Event]) -> None:
        with suppress(ConnectionBroken):
            for event in found:
                _write(event, self._json, self._several)
                if not isinstance(event, MissingWorker):
                    self._newest.advance(event)


def _write(event: Event, as_json: bool, several: bool) -> None:
    """Write an event as it arrives."""
    line = dumps(event_members(event)) if as_json else event_line(event, several)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def event_members(event: Event) -> dict[str, Any]:
    """Return the object of an event for JSON."""
    if isinstance(event, Record):
        return event.json()
    if isinstance(event, MissingWorker):
        time = None if event.time is None else format_time(event.time)
        return {"event": "missing", "time": time, "worker": event.worker, "reason": event.reason}
    return {
        "event": "lost",
        "proxy": event.proxy,
        "worker": event.worker,
        "boot": event.boot,
        "from": event.first,
        "to": event.last,
    }
