"""The journal of a fleet in a real PostgreSQL: what is shipped, and what is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from tempfile import TemporaryDirectory
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from natproxy.journal.postgres import reading
from natproxy.journal.postgres.search import FleetJournal
from natproxy.journal.search import Journal
from natproxy.records.queries import HistoryQuery
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery
from tests.support.fleets import Database, Ship
from tests.support.journal_runs import SECOND, START, Translations
from tests.support.journals import MEMORY
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
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
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
                for limit in (None, 3):
                    query = HistoryQuery("", since, until, limit)
                    assert list(fleet.history(query)) == list(journal.history(query))
