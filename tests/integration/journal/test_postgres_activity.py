"""What a fleet has done lately, read again and again from a real PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from natproxy.journal.postgres import activity as activities
from natproxy.journal.postgres.activity import KEYS, Activity, Reading
from natproxy.journal.postgres.connection import DatabaseAway
from tests.support.fleets import PORT, Fleet
from tests.support.journal_runs import SECOND, START, Translations
from tests.support.postgres import Server, needs_postgres

pytestmark = needs_postgres


@contextmanager
def activity(fleet: Fleet, key: str = "client", text: str = "") -> Iterator[Activity]:
    with closing(Activity(fleet.database.url, text, key, 10 * SECOND)) as found:
        yield found


def sums(reading: Reading) -> Counter[str | None]:
    """Return the commands of each group, and of all as ``None``."""
    found = Counter[str | None]()
    for one in reading.ended:
        found[one.key] += one.commands
    return found


def command(daemon: Translations, client: str, outcome: str = "completed") -> None:
    serial = daemon.register(PORT, client)
    daemon.wait(SECOND)
    daemon.remove(serial, outcome)
    daemon.wait(SECOND)


def test_each_command_is_counted_once_in_whichever_order_proxies_ship(fleet: Fleet) -> None:
    early, late = fleet.add("edge-1"), fleet.add("edge-2")
    for daemon in (early, late):
        command(daemon, "10.0.0.1")
        command(daemon, "10.0.0.2", "timeout")
        daemon.flush()
    with activity(fleet) as found:
        fleet.ship("edge-1")
        first = found.read(START - 1, early.now)
        assert sums(first) == {"10.0.0.1": 1, "10.0.0.2": 1, None: 2}
        failed = {one.key: one.failed for one in first.ended}
        assert (failed["10.0.0.1"], failed["10.0.0.2"], failed[None]) == (0, 1, 1)
        assert [proxy.name for proxy in first.proxies] == ["edge-1"]
        assert sums(found.read(START - 1, early.now)) == {}
        command(early, "10.0.0.3")
        early.flush()
        # What ended before is shipped later.
        fleet.ship("edge-1", "edge-2")
        second = sums(found.read(START - 1, early.now))
        assert second == {"10.0.0.1": 1, "10.0.0.2": 1, "10.0.0.3": 1, None: 3}
        found.restart("proxy")
        assert sums(found.read(START - 1, early.now)) == {"edge-1": 3, "edge-2": 2, None: 5}


def test_window_leaves_out_what_ended_before(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    command(daemon, "10.0.0.1")
    since = daemon.now
    command(daemon, "10.0.0.2")
    daemon.flush()
    fleet.ship()
    with activity(fleet) as found:
        assert sums(found.read(since, daemon.now)) == {"10.0.0.2": 1, None: 1}


def test_attempt_that_another_one_follows_is_no_command(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    command(daemon, "10.0.0.1", "retried")
    command(daemon, "10.0.0.1")
    daemon.flush()
    fleet.ship()
    # Summed up by the database, and here.
    for text in ("", "client 10.0.0.0/16"):
        with activity(fleet, text=text) as found:
            ended = found.read(START - 1, daemon.now).ended
            assert [(one.commands, one.failed) for one in ended if one.key is None] == [(1, 0)]
            assert sum(one.bytes for one in ended if one.key is None) == 2000


def test_what_is_open_is_counted_apart(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    command(daemon, "10.0.0.1")
    daemon.register(PORT, "10.0.0.2")
    daemon.register(PORT + 1, "10.0.0.2")
    daemon.flush()
    fleet.ship()
    with activity(fleet) as found:
        reading = found.read(START - 1, daemon.now)
        assert sums(reading) == {"10.0.0.1": 1, None: 1}
        assert [(one.key, one.number) for one in reading.open] == [("10.0.0.2", 2), (None, 2)]
        for key in KEYS:
            found.restart(key)
            assert sums(found.read(START - 1, daemon.now))[None] == 1


def test_filter_selects(fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    for client in ("10.0.0.1", "10.0.1.1"):
        command(daemon, client)
        daemon.register(PORT, client)
    daemon.flush()
    fleet.ship()
    with activity(fleet, text="client 10.0.1.0/24") as found:
        reading = found.read(START - 1, daemon.now)
        assert sums(reading) == {"10.0.1.1": 1, None: 1}
        assert [one.key for one in reading.open] == ["10.0.1.1", None]
    # The database decides the first of these alone, and not the others.
    for text, number in (
        ("verb GET", 2),
        ("name *.txt", 2),
        ("rate > 100G", 0),
        ("not rate > 100G", 2),
        ("client 10.0.0.0/16 and reason \0", 0),
    ):
        with activity(fleet, text=text) as found:
            assert sums(found.read(START - 1, daemon.now))[None] == number, text


def test_of_many_groups_those_with_the_most_are_read_and_the_total_is_of_all(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activities, "MOST", 2)
    daemon = fleet.add("edge-1")
    for number in range(1, 6):
        for _ in range(number):
            command(daemon, f"10.0.0.{number}")
    daemon.flush()
    fleet.ship()
    with closing(Activity(fleet.database.url, "", "client", 3600 * SECOND)) as found:
        counted = sums(found.read(START - 1, daemon.now))
    assert counted["10.0.0.5"] == 5
    assert counted[None] == 15
    assert len(counted) < 6


def test_database_that_was_away_is_read_on(server: Server, fleet: Fleet) -> None:
    daemon = fleet.add("edge-1")
    command(daemon, "10.0.0.1")
    daemon.flush()
    fleet.ship()
    with activity(fleet) as found:
        assert sums(found.read(START - 1, daemon.now))[None] == 1
        fleet.database.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where pid <> pg_backend_pid() and datname = current_database()"
        )
        with pytest.raises(DatabaseAway):
            found.read(START - 1, daemon.now)
        command(daemon, "10.0.0.2")
        daemon.flush()
        fleet.ship()
        assert sums(found.read(START - 1, daemon.now)) == {"10.0.0.2": 1, None: 1}
