"""What of the journal of a proxy is in the database: the position of its shipper."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from natproxy.journal.postgres.copying import storable
from natproxy.journal.rows import GapRow, Row, Step
from natproxy.journal.summary import BEGINNING, Summary

if TYPE_CHECKING:
    import psycopg

Run = tuple[int, str]
"""Worker and boot."""


Ends = tuple[str | None, str | None, int | None]
"""The proxy's host, and host and port of the upstream."""


class Taken(NamedTuple):
    """What was taken of a segment.

    :ivar run: number of its worker and boot in the database.
    :ivar summary: as it was when nothing of it was left; before, as it began.
    :ivar last_serial: rows up to this one were taken.
    :ivar done: whether nothing of it will follow.
    """

    run: int
    summary: Summary
    last_serial: int = BEGINNING
    done: bool = False


class Registration(NamedTuple):
    """A proxy as its shipper registers it.

    :ivar name: of the daemon.
    :ivar host: where the shipper runs.
    :ivar directory: of the journal there.
    :ivar version: of natproxy there.
    """

    name: str
    host: str
    directory: str
    version: str


class Positions:
    """The position in the journal of one proxy, as it was committed last.

    :ivar proxy: number of the proxy.
    :ivar revision: of the position: another shipper, or a retention, has changed it since.
    :ivar segments: what was taken of each segment, by its file, in the order of the segments.
    :ivar runs: number of each run.
    :ivar open: for each run, the open translations, and whether they relay.
    :ivar routes: number of each route.
    :ivar retained: what ended before is not kept, in microseconds since the epoch.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], registration: Registration, now: int
    ) -> None:
        with connection.transaction():
            self._read(connection, registration, now)

    def _read(
        self, connection: psycopg.Connection[Any], registration: Registration, now: int
    ) -> None:
        (self.proxy, self.revision) = _one(
            connection.execute(
                "insert into proxies (name, host, directory, version, heartbeat, checked)"
                " values (%(name)s, %(host)s, %(directory)s, %(version)s, %(now)s, %(oldest)s)"
                " on conflict (name) do update set host = excluded.host,"
                " directory = excluded.directory, version = excluded.version,"
                " heartbeat = excluded.heartbeat returning id, revision",
                {**registration._asdict(), "now": now, "oldest": BEGINNING},
            )
        )
        (self.retained,) = _one(connection.execute("select max(since) from retention"))
        proxy = [self.proxy]
        self.runs: dict[Run, int] = {
            (worker, boot): number
            for number, worker, boot in connection.execute(
                "select id, worker, boot from runs where proxy = %s", proxy
            )
        }
        self.segments: dict[str, Taken] = {}
        for run, worker, boot, last_serial, done, gaps, steps, *rest in connection.execute(
            "select run, worker, boot, last_serial, done, gaps, steps,"
            " file, part, boot_started, opened, complete_to, sealed, stopped, former, beside"
            " from segments join runs on id = run where proxy = %s"
            " order by boot_started, boot, worker, part",
            proxy,
        ):
            file, part, boot_started, opened, complete_to, sealed, stopped, former, beside = rest
            summary = Summary(
                file,
                registration.name,
                worker,
                boot,
                part,
                boot_started,
                opened,
                complete_to,
                sealed,
                stopped,
                tuple(GapRow(*gap) for gap in gaps),
                tuple(Step(*step) for step in steps),
                former=former,
                beside=tuple((beside or "").split()),
            )
            self.segments[file] = Taken(run, summary, last_serial, done)
        self.open: dict[int, dict[int, bool]] = {}
        for run, serial, relaying in connection.execute(
            "select run, serial, relaying is not null from unended join runs on id = run"
            " where proxy = %s and outcome is null",
            proxy,
        ):
            self.open.setdefault(run, {})[serial] = relaying
        self.routes: dict[Ends, int] = {
            (nat, upstream, port): number
            for number, nat, upstream, port in connection.execute(
                "select id, nat, upstream, upstream_port from routes where proxy = %s", proxy
            )
        }

    def newest(self, run: int) -> Taken | None:
        """Return the segment of a run that was taken last."""
        found = [taken for taken in self.segments.values() if taken.run == run]
        return max(found, key=lambda taken: taken.summary.part, default=None)


class Routes:
    """The routes of a proxy: a port is held once at a time for each of them.

    :param positions: of the proxy; new routes are added to it.
    """

    def __init__(self, connection: psycopg.Connection[Any], positions: Positions) -> None:
        self._connection = connection
        self._positions = positions
        # By the ends as segments have them.
        self._numbers: dict[Ends, int] = {}

    def numbers(self, rows: Iterable[Row]) -> dict[Ends, int]:
        """Return the numbers of the routes, with those of some rows.

        New ones are written; the caller commits them.
        """
        for ends in {ends_of(row) for row in rows} - self._numbers.keys():
            self._numbers[ends] = self._number(*ends)
        return self._numbers

    def _number(self, nat: str | None, upstream: str | None, port: int | None) -> int:
        """Return the number of a route.

        It is such that PostgreSQL takes it: a row is refused, and not the batch.
        """
        known, proxy = self._positions.routes, self._positions.proxy
        ends = (
            None if nat is None else storable(nat),
            None if upstream is None else storable(upstream),
            port if isinstance(port, int) else None,
        )
        if ends not in known:
            (known[ends],) = _one(
                self._connection.execute(
                    "insert into routes (proxy, nat, upstream, upstream_port)"
                    " values (%s, %s, %s, %s) returning id",
                    [proxy, *ends],
                )
            )
            if ends[0] is not None:
                self._connection.execute(
                    "update proxies set addresses = array_append(addresses, %(nat)s)"
                    " where id = %(proxy)s and not %(nat)s = any(addresses)",
                    {"nat": ends[0], "proxy": proxy},
                )
        return known[ends]


def ends_of(row: Row) -> Ends:
    """Return the ends of the upstream connection of a row, as the key of its route."""
    return row.nat, row.upstream, row.upstream_port


def store(connection: psycopg.Connection[Any], taken: Taken) -> None:
    """Write what was taken of a segment; the caller commits it."""
    summary = taken.summary
    connection.execute(
        "insert into segments (run, part, file, boot_started, opened, complete_to, sealed, stopped,"
        " former, beside, gaps, steps, last_serial, done)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " on conflict (run, part) do update set complete_to = excluded.complete_to,"
        " sealed = excluded.sealed, stopped = excluded.stopped, gaps = excluded.gaps,"
        " steps = excluded.steps, last_serial = excluded.last_serial, done = excluded.done",
        [
            taken.run,
            summary.part,
            summary.name,
            summary.boot_started,
            summary.opened,
            summary.complete_to,
            summary.sealed,
            summary.stopped,
            summary.former,
            " ".join(summary.beside) or None,
            json.dumps(summary.gaps),
            json.dumps(summary.steps),
            taken.last_serial,
            taken.done,
        ],
    )


def _one(found: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = found.fetchone()
    assert row is not None
    return row
