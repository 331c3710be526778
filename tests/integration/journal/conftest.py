"""One PostgreSQL for the tests that need it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.fleets import Database, Fleet
from tests.support.postgres import Server, running_server


@pytest.fixture(scope="session")
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


@pytest.fixture
def fleet(database: Database, tmp_path: Path) -> Iterator[Fleet]:
    with closing(Fleet(database, tmp_path)) as fleet:
        yield fleet
