"""Searches in a real PostgreSQL find what those in segments find."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timezone
from tempfile import TemporaryDirectory
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from natproxy.journal.postgres import reading
from natproxy.journal.postgres.rows import ALL
from natproxy.journal.postgres.search import FleetJournal
from natproxy.journal.search import Journal
from natproxy.journal.segment import Segment
from natproxy.journal.summary import END
from natproxy.records.filter import parse
from natproxy.records.queries import HistoryQuery
from natproxy.records.record import Origin, Record
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery
from tests.support.filters import NOW, fill, filters, records
from tests.support.fleets import PORT, Database, Fleet, Ship, at
from tests.support.journal_runs import SECOND, START, Translations
from tests.support.journals import MEMORY
from tests.support.postgres import needs_postgres

pytestmark = needs_postgres

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("register"), st.integers(0, 2)),
        st.tuples(st.just("remove"), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.integers(1, 20)),
        st.tuples(
            st.sampled_from(["flush", "seal", "restart", "kill", "lose", "ship", "new ship"]),
            st.just(0),
        ),
        st.tuples(st.just("step"), st.sampled_from([-30, -3, 5, 40])),
    ),
    min_size=4,
    max_size=25,
)


class Play:
    """Things that happen to a daemon and its shipper."""

    def __init__(self, database: Database, directory: str) -> None:
        self.daemon = Translations(directory)
        self.ship = Ship(database, directory, lambda: self.daemon.now)
        self._ports: dict[int, int] = {}
        self._clients = 0

    def close(self) -> None:
        self.daemon.close()
        self.ship.close()

    def run(self, steps: list[tuple[str, int]]) -> None:
        self.daemon.start()
        for action, value in steps:
            self._do(action, value)

    def _do(self, action: str, value: int) -> None:
        daemon, ports = self.daemon, self._ports
        if action == "wait":
            daemon.wait(value * SECOND // 2)
        elif action == "register" and value not in ports:
            self._clients += 1
            ports[value] = daemon.register(PORT + value, f"10.9.0.{self._clients}")
        elif action == "remove" and value in ports:
            daemon.remove(ports.pop(value))
        elif action in ("flush", "seal", "lose"):
            getattr(daemon, action)()
        elif action in ("restart", "kill"):
            ports.clear()
            (daemon.stop if action == "restart" else daemon.kill)()
            daemon.wait(SECOND)
            daemon.start()
        elif action == "step":
            daemon.step(value * SECOND)
        elif action in ("ship", "new ship"):
            if action == "new ship":
                self.ship.restart()
            self.ship.run()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, closed=st.booleans(), piece=st.integers(1, 4))
def test_whois_and_history_agree_with_the_segments(
    database: Database, steps: list[tuple[str, int]], closed: bool, piece: int
) -> None:
    database.empty()
    with (
        TemporaryDirectory(dir=MEMORY) as directory,
        mock.patch.object(reading, "ROWS", piece),
        closing(Play(database, directory)) as play,
        closing(FleetJournal(database.url)) as fleet,
    ):
        play.run(steps)
        if closed:
            play.daemon.stop()
        play.ship.run()
        daemon = play.daemon
        walls = {START - SECOND, daemon.now, *range(START, daemon.now + 1, SECOND // 2)}
        # What a shipper has not seen yet is unknown.
        walls = {wall for wall in walls if wall <= daemon.now}
        queries = [at(wall, PORT + port) for wall in sorted(walls) for port in range(3)]
        queries += [
            WhoisQuery(PORT, since=wall, until=wall + 7 * SECOND)
            for wall in sorted(walls)
            if wall + 7 * SECOND <= daemon.now
        ]
        with Journal(directory) as journal:
            expected = journal.whois_all(queries)
            found = fleet.whois_all(queries)
            for query, mine, theirs in zip(queries, found, expected, strict=True):
                assert mine.result == theirs.result, query
                assert set(mine.translations) == set(theirs.translations), query
            for since, until in ((None, None), (START + 3 * SECOND, START + 9 * SECOND)):
                # Where the clock was set back, segments have the order of serials.
                for limit in (None,) if any(step[0] == "step" for step in steps) else (None, 3):
                    query = HistoryQuery("", since, until, limit)
                    theirs = sorted(journal.history(query), key=by_start)
                    assert list(fleet.history(query)) == theirs


def by_start(record: Record) -> tuple[object, ...]:
    return record.started, record.boot, record.serial


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    translations=st.lists(records(), max_size=8), texts=st.lists(filters, min_size=1, max_size=6)
)
def test_filters_select_what_python_selects(
    database: Database, translations: list[Record], texts: list[str]
) -> None:
    database.empty()
    kept = insert(database, translations)
    with database.connection.cursor() as cursor:
        for text in texts:
            chosen = parse(text, NOW, timezone.utc)
            where, params, exact = chosen.postgres(NOW)
            found = {
                row[0]
                for row in cursor.execute(
                    f"select e.serial from {ALL} where {where}".encode(), [END, *params]
                )
            }
            expected = {record.serial for record in kept if chosen.matches(record, NOW)}
            assert found >= expected, text
            if exact:
                assert found == expected, text


def insert(database: Database, translations: list[Record]) -> list[Record]:
    """Write translations as a shipper does; return them with their serial numbers."""
    with TemporaryDirectory(dir=MEMORY) as directory:
        segment = Segment.create(directory, Origin("proxy-9000", 1, "abcd"), START, START)
        segment.close()
        path = segment.path
        with closing(sqlite3.connect(path)) as connection:
            fill(connection, translations)
        ship = Ship(database, directory, lambda: NOW)
        ship.run()
        ship.close()
        with Journal(directory) as journal:
            return list(journal.history(HistoryQuery()))


def test_attempts_of_a_command_are_shipped(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    first = daemon.register(PORT)
    daemon.flush()
    fleet.ship()
    daemon.wait(SECOND)
    daemon.remove(first, "retried")
    second = daemon.register(PORT + 1, earlier=(first, 1, 1000))
    daemon.flush()
    # The second one is open at first, and has ended later.
    for outcome in (None, "completed"):
        fleet.ship()
        with closing(FleetJournal(fleet.database.url)) as journal:

            def attempts(text: str, journal: FleetJournal = journal) -> list[tuple[object, ...]]:
                found = journal.history(HistoryQuery(text))
                return [(each.command, each.attempt, each.outcome) for each in found]

            both = [(first, 1, "retried"), (first, 2, outcome)]
            assert attempts("") == attempts(f"command = {first}") == both
            assert attempts("attempt > 1") == both[1:]
            assert attempts("outcome retried") == both[:1]
            # Only the last event of a command has its total.
            assert attempts("total > 1") == []
            assert attempts("not total > 1") == both
        reply = fleet.ask(at(START + SECOND // 2))
        assert reply.result == FOUND
        assert [(each.command, each.attempt) for each in reply.translations] == [(first, 1)]
        if outcome is None:
            daemon.wait(SECOND)
            daemon.remove(second)
            daemon.flush()
    reply = fleet.ask(at(START + SECOND + SECOND // 2, PORT + 1))
    assert [(each.command, each.attempt) for each in reply.translations] == [(first, 2)]


def test_proxy_that_is_behind_is_named(fleet: Fleet) -> None:
    for name in ("edge-1", "edge-2", "edge-3"):
        fleet.add(name)
    fleet.ship()
    for daemon in fleet.daemons.values():
        daemon.wait(40 * SECOND)
        daemon.flush()
    fleet.ship("edge-1", "edge-2")
    now = fleet.daemons["edge-3"].now
    reply = fleet.ask(at(now - 10 * SECOND), now)
    assert reply.result == UNKNOWN
    assert reply.gap is not None
    assert reply.gap.cause == "edge-3 is 40 s behind"
    assert reply.gap.since is not None
    fleet.ship("edge-3")
    assert fleet.ask(at(now - 10 * SECOND), now).result == NOBODY
    # What one proxy has is found, although another one may have had the port as well.
    serial = fleet.daemons["edge-1"].register(PORT)
    fleet.daemons["edge-1"].wait(SECOND)
    fleet.daemons["edge-1"].remove(serial)
    fleet.daemons["edge-1"].flush()
    fleet.ship("edge-1")
    reply = fleet.ask(at(now), now)
    assert reply.result == FOUND
    assert reply.gap is not None
    assert "edge-2" in reply.gap.cause
    assert "edge-3" in reply.gap.cause
    assert [record.proxy for record in reply.translations] == ["edge-1"]


def test_retired_proxy_is_not_waited_for(fleet: Fleet) -> None:
    first, second = fleet.add("edge-1"), fleet.add("edge-2")
    second.stop()
    fleet.ship()
    first.wait(60 * SECOND)
    first.flush()
    fleet.ship("edge-1")
    assert fleet.ask(at(first.now - 1)).result == UNKNOWN
    fleet.database.connection.execute("update proxies set retired = true where name = 'edge-2'")
    assert fleet.ask(at(first.now - 1)).result == NOBODY


def test_database_without_a_proxy_is_unknown(fleet: Fleet) -> None:
    assert fleet.ask(at(START)).result == UNKNOWN


def test_filter_with_what_postgresql_does_not_take(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    daemon.register(PORT)
    daemon.flush()
    fleet.ship()
    with closing(FleetJournal(fleet.database.url)) as journal:
        for text in ("reason '\\x00*'", "reason 'a\0b'", "reason '\udc80'", "name '\udcff'"):
            assert list(journal.history(HistoryQuery(text))) == []
            assert len(list(journal.history(HistoryQuery(f"not {text}")))) == 1
