"""The database of a fleet's journal is away while a proxy has load: nothing is lost or doubled.

``NATPROXY_TEST_OUTAGE=3600,100`` is an hour at 100 commands per second, for `.ci/long`;
``NATPROXY_OUTAGE_REPORT`` names a file for its report.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.fleets import Database
from tests.support.loopback import free_port
from tests.support.paced_load import Command, PacedLoad, percentile
from tests.support.paths import ROOT
from tests.support.postgres import needs_postgres, running_server, wait_until
from tests.support.twistd import TWISTD, await_port, environment

pytestmark = [
    needs_postgres,
    # `test_ship` has a database that goes for a moment.
    pytest.mark.skipif("NATPROXY_TEST_OUTAGE" not in os.environ, reason="it takes some time"),
]

SECONDS, RATE = map(int, os.environ.get("NATPROXY_TEST_OUTAGE", "2,40").split(","))
BESIDE = max(1.0, min(60.0, SECONDS / 10))
"""Seconds of load before the database goes."""

PATIENCE = 60.0
"""Seconds that a start or an end may take; only a failing test needs them."""

LONGEST_DELAY = 75.0
"""Seconds until the shipper tries again at the latest."""

NATPROXY = sys.executable, "-m", "natproxy"

PREFACE = """\
`tests/system/test_ship_outage.py` wrote this page. Clients send `DOWNLOAD` of a file of 100 bytes
through a proxy at a steady rate. PostgreSQL is stopped (`immediate`) and started again, and the
shipper is killed (`kill -9`) in the middle of that time. In the end the history of the proxy and
the rows in the database are compared with the commands that the clients have sent.
"""


class Figures(NamedTuple):
    """What was measured. Times are seconds of the monotonic clock.

    :ivar began: when the load began; `away` and `back` are those of the database.
    :ivar connected: when the shipper was connected again.
    :ivar caught_up: when the database had all rows of until then.
    :ivar disk: bytes of the journal's directory when the database went, and when it came back.
    """

    began: float
    away: float
    back: float
    connected: float
    caught_up: float
    disk: tuple[int, int]


@contextmanager
def process(command: list[str], place: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of a block; kill it in the end."""
    with (place / f"{name}.out").open("ab") as output:
        started = subprocess.Popen(
            command, cwd=place, env=environment({}), stdout=output, stderr=output
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait(PATIENCE)


@contextmanager
def proxy_with_files(place: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a file server with one file, and a proxy; yield the proxy's port and process."""
    (place / "files").mkdir()
    (place / "files" / "a").write_bytes(b"x" * 100)
    server, proxy = free_port(), free_port()
    daemon = [*TWISTD, "-n", "--pidfile="]
    files = [
        *(*daemon, "fileserver", f"--listen=tcp:{server}:interface=127.0.0.1"),
        *("--files=files", f"--control={place}/f.sock"),
    ]
    through = [
        *(*daemon, "natproxy", "--name=edge-1", f"--listen=tcp:{proxy}:interface=127.0.0.1"),
        *(f"--upstream=tcp:127.0.0.1:{server}", f"--control={place}/p.sock", "--journal=journal"),
    ]
    with process(files, place, "files"), process(through, place, "proxy") as running:
        await_port(server)
        await_port(proxy)
        yield proxy, running


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_database_is_away_under_load(tmp_path: Path) -> None:
    ship = [*NATPROXY, "journal", "ship", "--journal=journal", "--to"]
    log = tmp_path / "shipper.out"
    with running_server() as server, proxy_with_files(tmp_path) as (port, proxy):
        url = server.new_database()
        with closing(Database(url)):
            # The tables are there.
            pass
        with (
            PacedLoad(port, "a", RATE) as load,
            process([*ship, url], tmp_path, "shipper") as first,
        ):
            began = time.monotonic()
            with closing(Database(url)) as database:
                wait_until(lambda: shipped(database) > 0)
            time.sleep(max(0.0, began + BESIDE - time.monotonic()))
            away, before = time.monotonic(), size_of(tmp_path / "journal")
            server.stop()
            time.sleep(SECONDS / 2)
            first.kill()
            with process([*ship, url], tmp_path, "shipper") as second:
                wait_until(lambda: "PostgreSQL is away" in log.read_text())
                time.sleep(max(0.0, away + SECONDS - time.monotonic()))
                back, disk = time.monotonic(), (before, size_of(tmp_path / "journal"))
                server.start()
                with closing(Database(url)) as database:
                    started = shipped(database)
                    wait_until(lambda: shipped(database) > started, LONGEST_DELAY + PATIENCE)
                    connected = time.monotonic()
                    due = len(load.commands(until=connected))
                    wait_until(lambda: shipped(database) >= due, PATIENCE + SECONDS)
                    figures = Figures(began, away, back, connected, time.monotonic(), disk)
                    load.stop()
                    proxy.send_signal(signal.SIGTERM)
                    proxy.wait(PATIENCE)
                    sent = load.commands()
                    wait_until(lambda: shipped(database) >= len(sent), PATIENCE)
                second.send_signal(signal.SIGTERM)
                assert second.wait(PATIENCE) == 0
        history = rows_of(tmp_path, "--journal=journal")
        fleet = rows_of(tmp_path, f"--journal={url}")
    report(figures, sent, history, fleet)
    assert [command for command in sent if command.failure] == []
    assert len(history) == len(sent)
    assert sorted(fleet) == sorted(history)
    assert len(set(fleet)) == len(fleet)
    assert "Traceback" not in log.read_text()


def shipped(database: Database) -> int:
    """Return the number of commands in the database."""
    return int(database.rows("select count(*) from entries")[0][0])


def rows_of(place: Path, journal: str) -> list[tuple[str, int]]:
    """Return boot and number of each command of a history that was completed."""
    done = subprocess.run(
        [*NATPROXY, "history", journal, "--json"],
        cwd=place,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [(row["boot"], row["serial"]) for row in rows if row["outcome"] == "completed"]


def report(
    figures: Figures,
    sent: list[Command],
    history: list[tuple[str, int]],
    fleet: list[tuple[str, int]],
) -> None:
    """Write the report, if a file is named for it."""
    path = os.environ.get("NATPROXY_OUTAGE_REPORT")
    if path is None:
        return
    before = [one for one in sent if one.began < figures.away]
    during = [one for one in sent if figures.away <= one.began < figures.back]
    seconds = figures.away - figures.began, figures.back - figures.away
    lost, twice = len(set(history) - set(fleet)), len(fleet) - len(set(fleet))
    used = figures.disk[1] - figures.disk[0]
    lines = [
        "# The database is away",
        "",
        PREFACE,
        f"Away for {seconds[1]:.0f} s, {len(during):,} commands meanwhile.",
        "",
        f"**Lost: {lost}. Twice: {twice}.** Of {len(sent):,} commands in all,"
        f" {sum(1 for one in sent if one.failure)} failed.",
        "",
        "| | before | while the database was away |",
        "| --- | ---: | ---: |",
        f"| commands/s | {len(before) / seconds[0]:.0f} | {len(during) / seconds[1]:.0f} |",
        f"| ms of a command, median | {1e3 * percentile(before, 0.5):.1f}"
        f" | {1e3 * percentile(during, 0.5):.1f} |",
        f"| ms of a command, p99 | {1e3 * percentile(before, 0.99):.0f}"
        f" | {1e3 * percentile(during, 0.99):.0f} |",
        "",
        "| | |",
        "| --- | ---: |",
        "| from the start of PostgreSQL until the shipper had tried again |"
        f" {figures.connected - figures.back:.1f} s |",
        "| from then on until the database had everything |"
        f" {figures.caught_up - figures.connected:.1f} s |",
        f"| disk that the journal took meanwhile | {used / 1e6:.1f} MB,"
        f" {used / max(1, len(during)):.0f} bytes a command |",
        "",
    ]
    # The tests have another working directory.
    (ROOT / path).write_text("\n".join(lines))
