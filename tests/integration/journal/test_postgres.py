"""What is shipped to a real PostgreSQL, and what is not."""

from __future__ import annotations

import os
import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from unittest import mock

import pytest

from natproxy.journal.postgres import shipper
from natproxy.journal.postgres.connection import DatabaseAway, PostgresError, connect, shown
from natproxy.journal.postgres.fleet import read_proxies
from natproxy.journal.postgres.holes import UNSHIPPED
from natproxy.journal.postgres.migrate import check_schema, migrate, migrations
from natproxy.journal.postgres.partitions import DAY, day_of, partition_name, retain
from natproxy.journal.postgres.positions import Registration
from natproxy.journal.postgres.shipment import AnotherShipper, Shipment, Superseded
from natproxy.journal.postgres.shipper import Settings, Shipper
from natproxy.journal.schema import CAUSES
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN
from tests.support.fleets import PORT, Fleet, at
from tests.support.journal_runs import SECOND, START, Translations
from tests.support.journals import paths_of
from tests.support.postgres import Server, needs_postgres

pytestmark = needs_postgres


def test_entry_that_is_refused_is_set_aside_and_its_time_is_a_gap(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    for port in range(PORT, PORT + 40):
        serial = daemon.register(port)
        daemon.wait(SECOND)
        daemon.remove(serial)
        daemon.wait(SECOND)
    daemon.flush()
    path = paths_of(daemon.directory)[0]
    # A NUL is text for SQLite, and not for PostgreSQL.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("update entries set reason = 'a' || char(0) where serial = 7")
        connection.execute("update entries set reason = 'many' || char(0) where serial in (20, 21)")
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


def passes(fleet: Fleet, daemon: Translations, count: int) -> list[str]:
    """Have a shipper look at a journal several times, the last time in vain as it is stopped.

    :return: what it reports.
    """
    complaints: list[str] = []
    stop = Event()
    looks = iter(range(count))

    def journals() -> list[str]:
        if next(looks) == count - 1:
            stop.set()
        daemon.wait(SECOND)
        daemon.flush()
        return [daemon.directory]

    with mock.patch.object(shipper, "PAUSE", 0.001):
        Shipper(Settings(fleet.database.url), journals, complaints.append, stop).run()
    return complaints


@pytest.mark.parametrize(
    "damage",
    [
        "update entries set bytes = 'many'",
        "update entries set verb = x'ff'",
        "update entries set started = 1 << 62",
        "update hosts set host = x'ff' where id = 1",
        "update meta set value = 'soon' where key = 'opened'",
    ],
)
def test_segment_with_a_malformed_value_is_a_gap_and_is_reported_once(
    fleet: Fleet, damage: str
) -> None:
    daemon = fleet.add("edge-1")
    times = []
    for _ in range(3):
        daemon.wait(SECOND)
        serial = daemon.register(PORT)
        times.append(daemon.now)
        daemon.wait(SECOND)
        daemon.remove(serial)
        daemon.wait(SECOND)
        daemon.seal()
    damaged = Path(paths_of(daemon.directory)[1])
    with closing(sqlite3.connect(damaged)) as connection:
        connection.execute("pragma ignore_check_constraints = on")
        connection.execute(damage)
        connection.commit()
    # It has been read before.
    Path(daemon.directory, "catalogue.sqlite").unlink()
    complaints = passes(fleet, daemon, 4)
    assert len([one for one in complaints if damaged.name in one]) == 1, complaints
    assert len([one for one in complaints if "the record has a gap" in one]) == 1, complaints
    passes(fleet, daemon, 2)
    assert [fleet.ask(at(time)).result for time in times] == [FOUND, UNKNOWN, FOUND]
    # It may be what had the port at another time in it, too.
    assert fleet.ask(at(times[1] + SECOND * 3 // 2)).result == UNKNOWN
    assert fleet.ask(at(times[2] + SECOND * 3 // 2)).result == NOBODY
    causes = {cause for (cause,) in fleet.database.rows("select cause from gaps")}
    assert CAUSES[UNSHIPPED] in causes


def test_live_segment_that_stays_unreadable_is_reported(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    daemon.remove(daemon.register(PORT))
    serial = daemon.register(PORT)
    daemon.wait(SECOND)
    started = daemon.now
    daemon.flush()
    (live,) = paths_of(daemon.directory)
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("update entries set bytes = 'many' where serial = 1")
        connection.commit()
    complaints = passes(fleet, daemon, 6)
    assert len([one for one in complaints if Path(live).name in one]) == 1, complaints
    assert fleet.ask(at(started, PORT + 1)).result == UNKNOWN
    daemon.seal()
    daemon.remove(serial)
    daemon.wait(SECOND)
    passes(fleet, daemon, 4)
    assert fleet.ask(at(started, PORT + 1)).result == UNKNOWN
    assert fleet.ask(at(daemon.now - 3 * SECOND, PORT + 1)).result == NOBODY


def test_database_that_accepts_and_says_nothing_is_away(tmp_path: Path) -> None:
    with closing(Translations(tmp_path)) as daemon, socket.create_server(("127.0.0.1", 0)) as one:
        daemon.start()
        daemon.remove(daemon.register(PORT))
        daemon.flush()
        url = f"postgresql://u@127.0.0.1:{one.getsockname()[1]}/d?connect_timeout=2"
        shipping = Shipper(Settings(url, once=True), lambda: [str(tmp_path)], str, Event())
        with pytest.raises(DatabaseAway, match="PostgreSQL is away"):
            shipping.run()
        # Nothing is open.
        daemon.seal()
