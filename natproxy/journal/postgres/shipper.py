"""Follows the journals of one or several daemons, and ships what is new, until it is stopped."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterable
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from natproxy import __version__
from natproxy.journal.contents import Directory
from natproxy.journal.directory import JournalError
from natproxy.journal.postgres.connection import DatabaseAway, connect, errors
from natproxy.journal.postgres.migrate import check_schema
from natproxy.journal.postgres.partitions import retain
from natproxy.journal.postgres.positions import Registration
from natproxy.journal.postgres.reading import by_proxy
from natproxy.journal.postgres.shipment import AnotherShipper, Look, Shipment, Superseded
from natproxy.journal.summary import BEGINNING, Summary
from natproxy.records.record import format_time

if TYPE_CHECKING:
    import psycopg

PAUSE = 1.0
"""Seconds between two looks at the journals."""

STATUS = 60.0
"""Seconds between two lines that report what was done."""

RETENTION = 3600.0
"""Seconds between two deletions of old partitions."""

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds after which a database that is away is tried again."""

OPEN = 0
"""Segments that stay open: none, so that none is open while the database is waited for.

An open one cannot be sealed, and occupies the disk after its deletion.
"""


class Settings(NamedTuple):
    """What a shipper does.

    :ivar url: of the database.
    :ivar retention: seconds for which rows are kept in it; ``None`` for ever.
    :ivar once: whether to ship what is there, and return.
    """

    url: str
    retention: float | None = None
    once: bool = False


class Totals:
    """What a shipper has done since the last report.

    :ivar rows: that were taken.
    :ivar refused: those of them that were set aside.
    :ivar complete_to: until when the record of each proxy is complete.
    """

    def __init__(self) -> None:
        self.rows = self.refused = 0
        self.complete_to: dict[str, int] = {}

    def line(self, now: int) -> str:
        """Return a line for people, and begin anew.

        :param now: microseconds since the epoch.
        """
        refused = f", {self.refused:,} refused" if self.refused else ""
        proxies = ", ".join(
            f"{name} is complete to {format_time(complete_to)[:19]}Z"
            f" ({max(0, now - complete_to) / 1e6:.1f} s behind)"
            if complete_to > BEGINNING
            else f"there is no record of {name} yet"
            for name, complete_to in self.complete_to.items()
        )
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        line = f"shipped {rows}{refused}; {proxies or 'there is no journal yet'}"
        self.rows = self.refused = 0
        return line


class Shipper:
    """Ships journals to one database.

    A database that is away is tried again after a delay that grows; segments wait meanwhile.

    :param journals: returns the directories of the journals that exist now.
    :param complain: called with a message for people.
    :param stop: is set to end `run`.
    """

    def __init__(
        self,
        settings: Settings,
        journals: Callable[[], Iterable[str]],
        complain: Callable[[str], object],
        stop: Event,
    ) -> None:
        self._settings = settings
        self._journals = journals
        self._complain = complain
        self._stop = stop
        self._connection: psycopg.Connection[Any] | None = None
        self._directories: dict[str, Directory] = {}
        self._shipments: dict[tuple[str, str], Shipment] = {}
        self._totals = Totals()
        self._complained: dict[str, str] = {}
        self._retained = -RETENTION

    def run(self) -> None:
        """Ship until ``stop`` is set, or once.

        :raises PostgresError: if the database cannot be used, and waiting does not help; with
            ``once``, also if it is away.
        """
        delay, reported = FIRST_DELAY, time.monotonic()
        try:
            while not self._stop.is_set():
                try:
                    rows = self._pass()
                except DatabaseAway as error:
                    self._disconnect()
                    if self._settings.once:
                        raise
                    # Many shippers do not come back at the same moment.
                    wait = delay * random.uniform(0.75, 1.25)  # noqa: S311
                    self._complain(f"{error}; trying again in {wait:.0f} s, nothing is lost")
                    self._stop.wait(wait)
                    delay = min(2 * delay, LONGEST_DELAY)
                    continue
                if delay > FIRST_DELAY:
                    self._complain("PostgreSQL is back")
                delay = FIRST_DELAY
                if self._settings.once:
                    break
                if time.monotonic() - reported >= STATUS:
                    reported = time.monotonic()
                    self._complain(self._totals.line(_now()))
                if not rows:
                    self._stop.wait(PAUSE)
            self._complain(self._totals.line(_now()))
        finally:
            self._disconnect()
            for directory in self._directories.values():
                directory.close()

    def _pass(self) -> int:
        """Ship what is new in all journals; return the number of rows."""
        with errors():
            if self._connection is None:
                self._connection = connect(self._settings.url)
                check_schema(self._connection)
            self._retain(self._connection)
            rows = 0
            for path in self._journals():
                rows += self._ship(self._connection, path)
                if self._stop.is_set():
                    break
            return rows

    def _ship(self, connection: psycopg.Connection[Any], path: str) -> int:
        """Ship what is new in one journal; return the number of rows."""
        directory = self._directories.setdefault(path, Directory(path, OPEN))
        checked = _now()
        try:
            contents = directory.contents()
        except JournalError as error:
            self._once(path, str(error))
            return 0
        self._once(path, "; ".join(str(error) for error in contents.unreadable))
        look = Look(directory, contents, checked)
        return sum(
            self._ship_proxy(connection, look, name, segments)
            for name, segments in by_proxy(contents).items()
        )

    def _ship_proxy(
        self, connection: psycopg.Connection[Any], look: Look, name: str, segments: list[Summary]
    ) -> int:
        """Ship what is new of one proxy; return the number of rows."""
        path = look.directory.path
        key = path, name
        try:
            if key not in self._shipments:
                registration = Registration(name, socket.gethostname(), path, __version__)
                self._shipments[key] = Shipment(connection, registration, _now, self._complain)
            progress = self._shipments[key].ship(look, segments, self._stop.is_set)
        except Superseded:
            # A retention has deleted rows, or another process has shipped some.
            del self._shipments[key]
            return self._ship_proxy(connection, look, name, segments)
        except AnotherShipper as error:
            if self._settings.once:
                raise
            self._once(name, str(error))
            return 0
        self._once(name, "")
        self._totals.rows += progress.rows
        self._totals.refused += progress.refused
        self._totals.complete_to[name] = progress.complete_to
        return progress.rows

    def _retain(self, connection: psycopg.Connection[Any]) -> None:
        """Delete old partitions from time to time."""
        keep = self._settings.retention
        if keep is None or time.monotonic() - self._retained < RETENTION:
            return
        try:
            with errors():
                deleted = retain(connection, _now() - round(keep * 1e6))
        except DatabaseAway as error:
            if connection.closed:
                raise
            # A search reads what is to be deleted.
            self._once("", f"old partitions are not deleted yet: {error}")
            return
        self._retained = time.monotonic()
        if deleted:
            self._complain(f"deleted {', '.join(deleted)}")

    def _once(self, about: str, message: str) -> None:
        """Complain of something, unless that was the last complaint about it."""
        if self._complained.get(about, "") != message:
            self._complained[about] = message
            if message:
                self._complain(message)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._shipments.clear()
        if connection is not None:
            connection.close()


def _now() -> int:
    return time.time_ns() // 1000
