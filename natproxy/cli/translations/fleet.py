"""The journal of a fleet in PostgreSQL: shipped to, migrated, and its proxies listed."""

from __future__ import annotations

import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event
from types import FrameType

from natproxy.cli.display.text import elapsed
from natproxy.cli.translations.journal import aligned
from natproxy.cli.translations.sources import (
    check_directory,
    database_failures,
    names_database,
)
from natproxy.cli.translations.texts import NONE, shown
from natproxy.client.control.finding import Search
from natproxy.client.errors import NoDaemon, UsageError
from natproxy.journal.postgres.connection import connect
from natproxy.journal.postgres.connection import shown as shown_url
from natproxy.journal.postgres.fleet import Proxy
from natproxy.journal.postgres.migrate import migrate, newest
from natproxy.journal.postgres.search import FleetJournal
from natproxy.journal.postgres.shipper import Settings, Shipper
from natproxy.journal.summary import BEGINNING
from natproxy.records.times import parse_duration

HEADER = ("PROXY", "BEHIND", "HEARTBEAT", "ROWS", "REFUSED", "VERSION", "HOST", "ADDRESSES")
RIGHT = ("BEHIND", "HEARTBEAT", "ROWS", "REFUSED")


def run_fleet(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Do what the command line selects; return the exit status.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    if arguments.action == "proxies":
        return list_proxies(_database("--journal", arguments.journal), arguments.json)
    url = _database("--to", arguments.to)
    if arguments.action == "ship":
        return ship(url, arguments, complain)
    with database_failures(), closing(connect(url)) as connection:
        applied = migrate(connection)
        done = f"applied {', '.join(map(str, applied))}" if applied else "nothing to do"
        sys.stdout.write(f"{shown_url(url)}: {done}; the schema has version {newest()}\n")
    return 0


def ship(url: str, arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Ship journals until a signal ends it, or once; return the exit status.

    :raises UsageError: if the options contradict each other; with ``--once``, if a directory of
        ``--journal`` does not exist.
    :raises NoDaemon: with ``--once``, if there is no journal.
    """
    selected, name = arguments.journal or [], arguments.name
    if selected and name is not None:
        raise UsageError("--journal excludes --name: a directory is enough")
    if any(map(names_database, selected)):
        raise UsageError("journal ship: --journal names a directory, and --to the database")
    search = Search()

    def journals() -> list[str]:
        return selected or [place.path for place in search.journals(name)]

    if arguments.once:
        for directory in selected:
            check_directory(directory)
        if not journals():
            raise NoDaemon("there is no journal in the usual place; --journal names it")
    settings = Settings(url, _retention(arguments.retention), arguments.once)
    stop = Event()
    with database_failures(), _until_signal(stop):
        Shipper(settings, journals, complain, stop).run()
    return 0


def list_proxies(url: str, json: bool) -> int:
    """Write a line for each proxy that is registered; return the exit status."""
    with database_failures(), closing(FleetJournal(url)) as journal:
        proxies = journal.proxies()
    if json:
        from natproxy.cli.records import write_json

        write_json(proxy.json() for proxy in proxies)
        return 0
    now = time.time_ns() // 1000
    for line in aligned([HEADER, *(proxy_row(proxy, now) for proxy in proxies)], RIGHT):
        sys.stdout.write(line + "\n")
    return 0


def proxy_row(proxy: Proxy, now: int) -> tuple[str, ...]:
    """Return the texts of a proxy for people.

    :param now: microseconds since the epoch.
    """

    def ago(moment: int) -> str:
        return NONE if moment <= BEGINNING else elapsed(max(0, now - moment) / 1e6)

    return (
        shown(proxy.name),
        "retired" if proxy.retired else ago(proxy.horizon),
        ago(proxy.heartbeat),
        f"{proxy.shipped:,}",
        f"{proxy.refused:,}" if proxy.refused else NONE,
        shown(proxy.version),
        shown(proxy.host),
        shown(" ".join(proxy.addresses)) or NONE,
    )


def _database(option: str, url: str) -> str:
    if not names_database(url):
        raise UsageError(f"{option}: the database is needed, as postgresql://USER@HOST/DATABASE")
    return url


def _retention(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text) / 1e6
    except ValueError:
        raise UsageError(f"--retention {text}: must be a time such as 90d or 12h") from None


@contextmanager
def _until_signal(stop: Event) -> Iterator[None]:
    """Set an event at the first SIGTERM or SIGINT; the second one ends the process."""

    def handle(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
