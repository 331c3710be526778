"""A database of a fleet's journal, and journals that are shipped to it without a process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

from natproxy.journal.contents import Directory
from natproxy.journal.postgres import search
from natproxy.journal.postgres.connection import connect
from natproxy.journal.postgres.migrate import migrate
from natproxy.journal.postgres.positions import Registration
from natproxy.journal.postgres.reading import by_proxy
from natproxy.journal.postgres.search import FleetJournal
from natproxy.journal.postgres.shipment import Look, Progress, Shipment
from natproxy.records.whois import WhoisQuery, WhoisReply
from tests.support.journal_runs import Translations

PORT = 50_000

TABLES = "proxies, workers, runs, segments, gaps, routes, entries, unended, refused"


class Database:
    """A database with the schema of this program.

    :ivar connection: to it.
    :ivar url: of it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = connect(url)
        migrate(self.connection)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def empty(self) -> None:
        """Delete all rows, and release the locks of shippers on this connection."""
        self.connection.execute("select pg_advisory_unlock_all()")
        self.connection.execute(f"truncate {TABLES} restart identity")
        self.connection.execute("update days set earliest = 4611686018427387904")
        self.connection.execute("update retention set since = -4611686018427387904")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(query).fetchall()


class Ship:
    """Ships one directory, pass by pass.

    :param directory: of the journal.
    :param clock: returns microseconds since the epoch.
    :ivar complaints: messages for people.
    """

    def __init__(self, database: Database, directory: str, clock: Callable[[], int]) -> None:
        self.complaints: list[str] = []
        self._database = database
        self._clock = clock
        self._directory = Directory(directory)
        self._shipments: dict[str, Shipment] = {}

    def restart(self) -> None:
        """Begin as a new process does: with what is in the database."""
        self._shipments.clear()

    def close(self) -> None:
        """Close the segments."""
        self._directory.close()

    def run(self, stopping: Callable[[], bool] = lambda: False) -> list[Progress]:
        """Ship what is new; return what was done of each proxy."""
        look = Look(self._directory, self._directory.contents(), self._clock())
        progress = []
        for name, segments in by_proxy(look.contents).items():
            if name not in self._shipments:
                self._shipments[name] = Shipment(
                    self._database.connection,
                    Registration(name, "host", self._directory.path, "1"),
                    self._clock,
                    self.complaints.append,
                )
            progress.append(self._shipments[name].ship(look, segments, stopping))
        return progress


class Fleet:
    """Several proxies, each with a journal of its own, and one database."""

    def __init__(self, database: Database, root: Path) -> None:
        self.database = database
        self._root = root
        self.daemons: dict[str, Translations] = {}
        self.ships: dict[str, Ship] = {}

    def add(self, name: str) -> Translations:
        directory = self._root / name
        directory.mkdir()
        daemon = Translations(directory)
        daemon.proxy = name
        self.daemons[name] = daemon
        self.ships[name] = Ship(self.database, str(directory), lambda: daemon.now)
        daemon.start()
        return daemon

    def ship(self, *names: str) -> None:
        for name in names or self.ships:
            self.ships[name].run()

    def ask(self, query: WhoisQuery, now: int | None = None) -> WhoisReply:
        clock = mock.patch.object(search, "_now", return_value=now)
        with closing(FleetJournal(self.database.url)) as journal:
            if now is None:
                return journal.whois_all([query])[0]
            with clock:
                return journal.whois_all([query])[0]

    def close(self) -> None:
        for daemon in self.daemons.values():
            daemon.close()
        for ship in self.ships.values():
            ship.close()


def at(time: int, port: int = PORT) -> WhoisQuery:
    return WhoisQuery(port, since=time, until=time)
