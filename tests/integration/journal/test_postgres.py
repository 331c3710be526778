"""The journal of a fleet in a real PostgreSQL: what is shipped, and what is found."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from natproxy.journal.postgres import reading, search
from natproxy.journal.postgres.connection import PostgresError, connect, shown
from natproxy.journal.postgres.fleet import read_proxies
from natproxy.journal.postgres.migrate import check_schema, migrate, migrations
from natproxy.journal.postgres.partitions import DAY, day_of, partition_name, retain
from natproxy.journal.postgres.positions import Registration
from natproxy.journal.postgres.rows import ALL
from natproxy.journal.postgres.search import FleetJournal
from natproxy.journal.postgres.shipment import AnotherShipper, Shipment, Superseded
from natproxy.journal.search import Journal
from natproxy.journal.segment import Segment
from natproxy.records.filter import parse
from natproxy.records.queries import HistoryQuery
from natproxy.records.record import Origin, Record
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery, WhoisReply
from tests.support.filters import NOW, fill, filters, records
from tests.support.fleets import Database, Ship
from tests.support.journal_runs import SECOND, START, Translations
from tests.support.journals import MEMORY, paths_of
from tests.support.postgres import Server, needs_postgres, running_server

pytestmark = needs_postgres

PORT = 50_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    with closing(Database(server.new_database())) as database:
        yield database


@pytest.fixture
def database(shared: Database) -> Database:
    shared.empty()
    return shared


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


def at(time: int, port: int = PORT) -> WhoisQuery:
    return WhoisQuery(port, since=time, until=time)


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
                    f"select e.serial from {ALL} where {where}".encode(), params
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


@pytest.fixture
def fleet(database: Database, tmp_path: Path) -> Iterator[Fleet]:
    with closing(Fleet(database, tmp_path)) as fleet:
        yield fleet


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


def test_entry_that_is_refused_is_set_aside_and_its_time_is_a_gap(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    for port in range(PORT, PORT + 40):
        serial = daemon.register(port)
        daemon.wait(SECOND)
        daemon.remove(serial)
        daemon.wait(SECOND)
    daemon.flush()
    path = paths_of(daemon.directory)[0]
    # A NUL is text for SQLite, and not for PostgreSQL; a damaged file may have any type.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("update entries set reason = 'a' || char(0) where serial = 7")
        connection.execute("update entries set bytes = 'many' where serial in (20, 21)")
        connection.commit()
    fleet.ship()
    rows = fleet.database.rows("select serial from entries order by serial")
    assert [serial for (serial,) in rows] == [n for n in range(1, 41) if n not in (7, 20, 21)]
    refused = fleet.database.rows("select reason, entry from refused order by id")
    assert len(refused) == 3
    assert "NUL" in refused[0][0]
    assert "many" in refused[1][1]
    assert fleet.database.rows("select shipped, refused from proxies") == [(37, 3)]
    started = START + 2 * 6 * SECOND
    reply = fleet.ask(at(started + SECOND // 2, PORT + 6))
    assert reply.result == UNKNOWN
    assert reply.gap is not None
    assert reply.gap.cause == "edge-1: PostgreSQL refused an entry"
    assert fleet.ask(at(started + SECOND * 7 // 2, PORT + 7)).result == NOBODY
    # They are not tried again.
    fleet.ships["edge-1"].restart()
    fleet.ship()
    assert len(fleet.database.rows("select 1 from refused")) == 3


def test_segments_that_were_deleted_before_they_were_shipped_are_a_gap(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    long = daemon.register(PORT + 1)
    daemon.wait(SECOND)
    daemon.flush()
    fleet.ship()
    shipped = daemon.now
    for _ in range(3):
        daemon.wait(SECOND)
        serial = daemon.register(PORT)
        daemon.wait(SECOND)
        daemon.remove(serial)
        daemon.seal()
    daemon.remove(long)
    resumed = daemon.now
    daemon.wait(SECOND)
    daemon.seal()
    for path in paths_of(daemon.directory)[:3]:
        os.unlink(path)
    fleet.ship()
    fleet.ship()
    assert len(fleet.ships["edge-1"].complaints) == 1
    assert "deleted" in fleet.ships["edge-1"].complaints[0]
    for time, result in (
        (START, NOBODY),
        (shipped - 1, NOBODY),
        (shipped + SECOND, UNKNOWN),
        (resumed + SECOND // 2, NOBODY),
    ):
        assert fleet.ask(at(time)).result == result, time - START
    # This one was open when the hole began, and is there after it.
    for time in (START, resumed - 1, resumed):
        assert fleet.ask(at(time, PORT + 1)).result == FOUND
    # It is not told again.
    fleet.ships["edge-1"].restart()
    fleet.ship()
    assert len(fleet.ships["edge-1"].complaints) == 1


def test_translation_that_ends_in_a_hole_is_lost(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    # A segment is sealed if a translation has ended in it.
    daemon.remove(daemon.register(PORT + 2))
    serial = daemon.register(PORT)
    daemon.wait(SECOND)
    daemon.flush()
    fleet.ship()
    shipped = daemon.now
    daemon.seal()
    daemon.wait(SECOND)
    daemon.remove(serial)
    daemon.register(PORT + 1)
    daemon.seal()
    daemon.wait(SECOND)
    daemon.flush()
    for path in paths_of(daemon.directory)[:2]:
        os.unlink(path)
    fleet.ship()
    assert fleet.database.rows("select outcome from unended order by serial") == [
        ("lost",),
        (None,),
    ]
    assert fleet.ask(at(shipped - 1)).result == FOUND
    reply = fleet.ask(at(shipped + SECOND))
    assert (reply.result, len(reply.translations)) == (UNKNOWN, 1)
    assert fleet.ask(at(daemon.now - 1)).result == NOBODY


def test_run_whose_last_segments_were_deleted_has_a_gap_until_the_next_one(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    daemon.remove(daemon.register(PORT + 2))
    serial = daemon.register(PORT)
    daemon.wait(SECOND)
    daemon.flush()
    fleet.ship()
    shipped = daemon.now
    for sealed in (False, True):
        daemon.wait(SECOND)
        if sealed:
            daemon.seal()
            fleet.ship()
            shipped = daemon.now - 1
        daemon.wait(SECOND)
        daemon.register(PORT + 3)
        daemon.remove(daemon.register(PORT + 2))
        daemon.kill()
        daemon.wait(10 * SECOND)
        daemon.start()
        started = daemon.now
        for path in paths_of(daemon.directory)[:-1]:
            os.unlink(path)
        fleet.ship()
        fleet.ship()
        for time, result in (
            (shipped - SECOND // 2, NOBODY),
            (shipped + SECOND, UNKNOWN),
            (started - SECOND, UNKNOWN),
        ):
            assert fleet.ask(at(time, PORT + 2)).result == result, (sealed, time - START)
        daemon.wait(SECOND)
        daemon.remove(daemon.register(PORT + 2))
        daemon.wait(SECOND)
        daemon.flush()
        fleet.ship()
        assert fleet.ask(at(daemon.now - SECOND // 2, PORT + 2)).result == NOBODY
    assert fleet.ask(at(START + SECOND // 2)).result == FOUND
    assert fleet.database.rows(f"select outcome from unended where serial = {serial}")[0] == (
        "lost",
    )


def test_second_shipper_of_a_proxy_is_refused(fleet: Fleet, server: Server) -> None:
    daemon = fleet.add("edge-1")
    fleet.ship()
    with closing(connect(fleet.database.url)) as other:
        registration = Registration("edge-1", "host", daemon.directory, "1")
        with pytest.raises(AnotherShipper, match="edge-1"):
            Shipment(other, registration, lambda: daemon.now, print)


def test_position_that_another_process_has_changed_is_read_again(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    fleet.ship()
    fleet.database.connection.execute("update proxies set revision = revision + 1")
    serial = daemon.register(PORT)
    daemon.remove(serial)
    daemon.flush()
    with pytest.raises(Superseded):
        fleet.ship()
    assert fleet.database.rows("select count(*) from entries") == [(0,)]
    fleet.ships["edge-1"].restart()
    fleet.ship()
    assert fleet.database.rows("select count(*) from entries") == [(1,)]


def test_retention_deletes_days_and_their_time_is_unknown(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    times = []
    for _ in range(3):
        daemon.wait(DAY)
        serial = daemon.register(PORT)
        times.append(daemon.now)
        daemon.wait(SECOND)
        daemon.remove(serial)
        daemon.seal()
        fleet.ship()
    assert [fleet.ask(at(time)).result for time in times] == [FOUND] * 3
    deleted = retain(fleet.database.connection, times[1])
    assert partition_name(day_of(times[0])) in deleted
    assert partition_name(day_of(times[1])) not in deleted
    assert [fleet.ask(at(time)).result for time in times] == [UNKNOWN, FOUND, FOUND]
    assert fleet.ask(at(times[1] - 1)).result == NOBODY
    assert retain(fleet.database.connection, times[1]) == []
    # The segments are still there, and are not shipped again.
    with pytest.raises(Superseded):
        fleet.ship()
    fleet.ships["edge-1"].restart()
    fleet.ship()
    assert fleet.database.rows("select count(*) from entries") == [(2,)]
    assert fleet.ask(at(times[0])).result == UNKNOWN
    assert fleet.ask(at(times[1])).result == FOUND


def test_workers_have_one_record(fleet: Fleet) -> None:
    """Their segments are in one directory; a proxy is complete as far as all of them are."""
    daemon = fleet.add("edge-1")
    other = Translations(daemon.directory)
    other.proxy, other.worker, other.boots = "edge-1", 1, 100
    other.start()
    try:
        for each, port in ((daemon, PORT), (other, PORT + 1)):
            serial = each.register(port)
            each.wait(SECOND)
            each.remove(serial)
            each.wait(SECOND)
        daemon.flush()
        fleet.ship()
        assert fleet.ask(at(START)).result == FOUND
        reply = fleet.ask(at(daemon.now - 1))
        assert reply.result == UNKNOWN
        other.flush()
        fleet.ship()
        assert fleet.ask(at(START, PORT + 1)).translations[0].worker == 1
        assert fleet.ask(at(daemon.now - 1)).result == NOBODY
        (proxy,) = read_proxies(fleet.database.connection)
        assert sorted(proxy.complete_to) == [0, 1]
        assert proxy.addresses == ["10.1.0.1"]
    finally:
        other.close()


def test_damaged_segment_is_a_gap_and_the_next_ones_are_shipped(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    times = []
    for _ in range(3):
        daemon.wait(SECOND)
        serial = daemon.register(PORT)
        times.append(daemon.now)
        daemon.wait(SECOND)
        daemon.remove(serial)
        daemon.seal()
    damaged = Path(paths_of(daemon.directory)[1])
    content = damaged.read_bytes()
    damaged.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    fleet.ship()
    fleet.ship()
    results = [fleet.ask(at(time)).result for time in times]
    assert results == [FOUND, UNKNOWN, FOUND]
    assert any(damaged.name in complaint for complaint in fleet.ships["edge-1"].complaints)


def test_migrations_are_applied_once_and_a_newer_schema_is_refused(server: Server) -> None:
    with closing(connect(server.new_database())) as connection:
        with pytest.raises(PostgresError, match="natproxy journal migrate"):
            check_schema(connection)
        assert migrate(connection) == sorted(migrations())
        assert migrate(connection) == []
        check_schema(connection)
        connection.execute("insert into versions (version) values (99)")
        for refused in (check_schema, migrate):
            with pytest.raises(PostgresError, match=r"version 99.*use a newer natproxy"):
                refused(connection)


def test_two_migrations_at_once_wait_for_each_other(server: Server) -> None:
    url = server.new_database()

    def run(_: int) -> list[int]:
        with closing(connect(url)) as connection:
            return migrate(connection)

    with ThreadPoolExecutor(4) as threads:
        applied = [number for numbers in threads.map(run, range(4)) for number in numbers]
    assert sorted(applied) == sorted(migrations())


def test_password_is_in_no_message(server: Server) -> None:
    secret = "tell-no-one"
    for url in (
        f"postgresql://u:{secret}@127.0.0.1:1/d",
        f"postgresql://u:{secret}@at@127.0.0.1:1/d",
        f"postgresql://u:{secret}@127.0.0.1:port/d",
        f"postgresql://u:{secret}@127.0.0.1/d?nothing=1",
        f"postgresql://u:%zz{secret}@127.0.0.1/d",
    ):
        with pytest.raises(PostgresError) as caught:
            connect(url)
        assert secret not in str(caught.value)
    assert shown(f"postgresql://u:{secret}@h:5/d") == "postgresql://u@h:5/d"


def test_filter_with_what_postgresql_does_not_take(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    daemon.register(PORT)
    daemon.flush()
    fleet.ship()
    with closing(FleetJournal(fleet.database.url)) as journal:
        for text in ("reason '\\x00*'", "reason 'a\0b'", "reason '\udc80'", "name '\udcff'"):
            assert list(journal.history(HistoryQuery(text))) == []
            assert len(list(journal.history(HistoryQuery(f"not {text}")))) == 1
