"""``natproxy journal ship`` as a process that is killed, and whose database comes and goes."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleets import Database
from tests.support.journal_runs import SECOND, START, Translations
from tests.support.journals import paths_of
from tests.support.paths import ROOT
from tests.support.postgres import Server, needs_postgres, running_server, wait_until
from tests.support.silent_relay import SilentRelay
from tests.support.terminal import Terminal
from tests.support.twistd import environment

pytestmark = needs_postgres

KILLS = int(os.environ.get("NATPROXY_TEST_SHIP_KILLS", "4"))
PATIENCE = 60.0
"""Seconds that a process may take; only a failing test needs them."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    with closing(Database(server.new_database())) as database:
        yield database


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Translations]:
    directory = tmp_path / "edge-1"
    directory.mkdir()
    daemon = Translations(directory)
    daemon.start()
    yield daemon
    daemon.close()


def natproxy(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "natproxy", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        natproxy(*arguments),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment({}),
    )


@contextmanager
def shipping(database: Database, daemon: Translations, log: Path) -> Iterator[Any]:
    """Run a shipper for the length of a block; kill it in the end."""
    with log.open("a") as file:
        process = subprocess.Popen(
            natproxy("journal", "ship", "--to", database.url, "--journal", daemon.directory),
            stderr=file,
            env=environment({}),
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)


def write(daemon: Translations, chance: random.Random) -> None:
    """Have some commands begin and end."""
    for _ in range(chance.randrange(200)):
        serial = daemon.register(50_000 + chance.randrange(1000))
        daemon.wait(chance.randrange(1, 1000))
        if chance.random() < 0.95:
            daemon.remove(serial)
    daemon.flush()
    if chance.random() < 0.05:
        daemon.kill()
        daemon.wait(SECOND)
        daemon.start()


def written(daemon: Translations) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return the boot and the serial of what has ended, and of what has a lost end."""
    ended, lost = set(), set()
    for path in paths_of(daemon.directory):
        with closing(sqlite3.connect(path)) as connection:
            (boot,) = connection.execute("select value from meta where key = 'boot'").fetchone()
            for serial, outcome in connection.execute("select serial, outcome from entries"):
                if outcome is not None:
                    (lost if outcome == "lost" else ended).add((boot, serial))
    return sorted(ended), sorted(lost)


def test_killed_at_any_moment_it_ships_each_row_once(
    database: Database, daemon: Translations, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    for _ in range(KILLS):
        with shipping(database, daemon, tmp_path / "log"):
            # From before its first statement to after some batches.
            end = time.monotonic() + chance.uniform(0.3, 1.5)
            while time.monotonic() < end:
                write(daemon, chance)
                time.sleep(0.001)
        # Not while it is read: a daemon would try again later.
        daemon.seal()
    daemon.stop()
    done = run("journal", "ship", "--once", "--to", database.url, "--journal", daemon.directory)
    assert done.returncode == 0, done.stderr
    ended, lost = written(daemon)
    found = database.rows(
        "select boot, serial from entries join runs on id = run order by boot, serial"
    )
    assert found == ended, seed
    assert len(ended) > KILLS
    found = database.rows(
        "select boot, serial from unended join runs on id = run where outcome = 'lost'"
        " order by boot, serial"
    )
    assert found == lost, seed
    assert database.rows("select count(*) from unended where outcome is null") == [(0,)]


def test_database_that_goes_and_comes_back(server: Server, tmp_path: Path) -> None:
    url = server.new_database()
    with closing(Database(url)) as database:
        pass
    daemon = Translations(tmp_path)
    daemon.start()
    log = tmp_path / "log"

    def rows() -> int:
        with closing(Database(url)) as now:
            return int(now.rows("select count(*) from entries")[0][0])

    def command() -> None:
        daemon.remove(daemon.register(50_000))
        daemon.flush()

    with shipping(database, daemon, log) as process:
        command()
        wait_until(lambda: rows() == 1)
        server.stop()
        try:
            for _ in range(100):
                command()
            wait_until(lambda: "PostgreSQL is away" in log.read_text())
            daemon.seal()
        finally:
            server.start()
        wait_until(lambda: rows() == 101, 90)
        wait_until(lambda: "PostgreSQL is back" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert "shipped" in log.read_text().splitlines()[-1]
    assert "Traceback" not in log.read_text()
    daemon.close()


def test_no_segment_is_open_while_a_silent_database_is_waited_for(
    server: Server, tmp_path: Path
) -> None:
    url = server.new_database()
    with closing(Database(url)) as database:
        pass
    journal = tmp_path / "edge-1"
    journal.mkdir()
    with (
        SilentRelay(server.port, b"copy entries") as relay,
        closing(Translations(journal)) as daemon,
    ):
        daemon.start()
        # One segment is sealed, the other one is live.
        for _ in range(2):
            daemon.seal()
            daemon.remove(daemon.register(50_000))
        daemon.flush()
        database.url = url.replace(f":{server.port}/", f":{relay.port}/")
        with shipping(database, daemon, tmp_path / "log") as process:
            assert relay.silent.wait(PATIENCE)
            opened = [os.readlink(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
            assert [path for path in opened if ".segment" in path] == []
            assert process.poll() is None
            daemon.seal()


def test_commands_answer_for_the_fleet(
    database: Database, daemon: Translations, tmp_path: Path
) -> None:
    serial = daemon.register(50_000, client="10.0.0.7", name="a.txt")
    daemon.wait(SECOND)
    daemon.remove(serial)
    daemon.stop()
    shipped = run("journal", "ship", "--once", "--to", database.url, "--journal", daemon.directory)
    assert (shipped.returncode, shipped.stdout) == (0, "")
    assert "shipped 1 row;" in shipped.stderr
    at = f"@{(START + SECOND // 2) / SECOND}"
    fleet = ("--journal", database.url)
    found = run("whois", "50000", "--at", at, *fleet)
    assert (found.returncode, found.stderr) == (0, "")
    assert "10.0.0.7" in found.stdout
    nobody = run("whois", "50001", "--at", at, *fleet)
    assert nobody.returncode == 3
    unknown = run("whois", "50000", "--at", f"@{START / SECOND - 10}", *fleet)
    assert unknown.returncode == 10
    listed = run("history", "client", "10.0.0.0/8", "--json", *fleet)
    assert listed.returncode == 0
    assert '"a.txt"' in listed.stdout
    exported = run("export", "--format", "csv", *fleet)
    assert exported.returncode == 0
    assert len(exported.stdout.splitlines()) == 2
    proxies = run("journal", "proxies", *fleet)
    assert "proxy-9000" in proxies.stdout
    assert run("events", *fleet).returncode == 2


def test_top_shows_what_the_fleet_has_done_lately(database: Database, tmp_path: Path) -> None:
    minute = 60 * SECOND
    for name, client, ago in (("edge-1", "10.0.0.7", minute), ("edge-2", "10.0.0.8", 5 * minute)):
        (tmp_path / name).mkdir()
        with closing(Translations(tmp_path / name)) as daemon:
            daemon.proxy = name
            daemon.offset = time.time_ns() // 1000 - ago
            daemon.start()
            for outcome in ("completed", "completed", "timeout"):
                daemon.remove(daemon.register(50_000, client), outcome)
                daemon.wait(1)
            if name == "edge-1":
                daemon.stop()
            else:
                daemon.register(50_000, client)
                daemon.flush()
    directories = [word for name in ("edge-1", "edge-2") for word in ("--journal", tmp_path / name)]
    shipped = run("journal", "ship", "--once", "--to", database.url, *map(str, directories))
    assert shipped.returncode == 0, shipped.stderr
    top = ("top", "--journal", database.url, "--since", "1h")
    once = run(*top)
    assert (once.returncode, once.stderr) == (0, "")
    title, _, behind, header, *rows = once.stdout.splitlines()
    assert title == "fleet  2 proxies  1 in flight  the last 1h00m"
    assert behind.startswith("edge-2 is 5 min behind")
    assert header.startswith("CLIENT")
    assert [row.split()[:2] for row in rows] == [["10.0.0.7", "0"], ["10.0.0.8", "1"]]
    selected = run(*top, "--by", "outcome", "--json", "client", "10.0.0.7")
    assert "edge-2 is 5 min behind" in selected.stderr
    found = [json.loads(line) for line in selected.stdout.splitlines()]
    assert [each["outcome"] for each in found] == ["completed", "timeout"]
    assert [each["commands"] for each in found] == [round(2 / 3600, 3), round(1 / 3600, 3)]
    with Terminal(natproxy(*top, "--by", "verb"), ROOT, columns=110) as screen:
        screen.wait_for(r"fleet +2 proxies")
        screen.wait_for(r"^VERB +IN FLIGHT(.*\n)+GET +1 ")
        screen.type("gg")
        screen.wait_for(r"^PROXY +IN FLIGHT(.*\n)+edge-1 +0 ")
        screen.type("q")
        assert screen.wait_for_end() == 0
