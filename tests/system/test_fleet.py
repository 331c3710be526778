"""A fleet whose parts are killed and cut off at random: every accepted command is accounted for.

``NATPROXY_TEST_FLEET=600,12`` is ten minutes with twelve clients, for `.ci/long`;
``NATPROXY_FLEET_REPORT`` names a file for its report.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.support.accounts import Accounts, Line, natproxy, read_lines
from tests.support.fleet import (
    DATABASE_URL,
    NATPROXY,
    PATIENCE,
    Fleet,
    missing_programs,
    short_place,
    sources,
)
from tests.support.namespaces import reason_against
from tests.support.paths import ROOT

SECONDS, CLIENTS = map(int, os.environ.get("NATPROXY_TEST_FLEET", "2,2").split(","))
PACE = 0.05
"""Seconds between two commands of a client."""
SAMPLES = 400
"""Lines of file servers about which ``whois`` is asked, at most."""

WHOLE = "NATPROXY_TEST_FLEET" in os.environ
"""Whether there are an object store and a database as well; their start takes some time."""
WORKERS = (2, 2, 2) if WHOLE else (2, 1)
"""Of each proxy."""

WHOIS = "whois", "-", "--within=1"

PREFACE = """\
`tests/system/test_fleet.py` wrote this page. In network namespaces, proxies with two workers each
stand in front of file servers over one bucket of a SeaweedFS, and a shipper beside each proxy
copies its journal to one PostgreSQL. All the time something is killed (`kill -9`; PostgreSQL by
SIGQUIT) and started again, or the link of a machine is cut and mended. Of a proxy, the master or a
single worker is killed. Clients, each with an address of its own, send commands to any proxy and
log what they have seen.

In the end three records of each command are compared: the client's log, the history of the proxy,
and the access log of the file server, of which one sees the proxy's ports and the other the
translation in the PROXY header. The database must have each row of each history once. `whois` is
asked about ports that file servers have seen: of the proxy's journal, and of the database. Nothing
may be missing of a proxy that was killed: each event is in its spool before its effects can be
seen. The access log of a file server is flushed each 0.1 s, so that its last lines before a kill
may be missing.
"""

REASON = reason_against() or (missing_programs() if WHOLE else None)
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture
def place() -> Iterator[Path]:
    path = short_place()
    yield path
    shutil.rmtree(path)


def test_every_command_is_accounted_for(place: Path) -> None:
    seed = int(os.environ.get("NATPROXY_FLEET_SEED", str(random.randrange(1 << 32))))
    sys.stdout.write(f"NATPROXY_FLEET_SEED={seed}\n")
    chance = random.Random(seed)
    with Fleet(place, CLIENTS, WORKERS, store=WHOLE, database=WHOLE) as fleet:
        clients = fleet.start_clients(PACE)
        began = time.monotonic()
        fleet.break_until(began + SECONDS, chance, lambda line: sys.stdout.write(f"{line}\n"))
        # All is whole again, and each client is served again.
        await_served(fleet, time.time())
        clients.end()
        elapsed = time.monotonic() - began
        fleet.stop()
        accounts = Accounts(fleet)
        accounts.check()
        asked = list(numbered(fleet)) if WHOLE else list(numbered(fleet))[:1]
        sampled = {name: samples(accounts, number, chance) for number, name in asked}
        for name, lines in sampled.items():
            journal = f"--journal={place}/{name}.journal"
            answers = natproxy(*WHOIS, journal, lines=questions(lines))
            accounts.check_whois("`whois` of a proxy", lines, answers)
        if WHOLE:
            fleet.await_rows(sum(map(len, accounts.rows.values())))
            database = f"--journal={DATABASE_URL}"
            history = fleet.run_at_database(*NATPROXY, "history", database, "--json")
            accounts.check_database(map(json.loads, history.splitlines()))
            lines = [line for each in sampled.values() for line in each]
            answered = fleet.run_at_database(
                *NATPROXY, *WHOIS, database, "--json", lines=questions(lines)
            )
            found = [json.loads(line) for line in answered.splitlines()]
            accounts.check_whois("`whois` of the fleet", lines, found)
        report(fleet, accounts, elapsed, seed)
    assert accounts.wrong == []
    assert accounts.counts["completed, with its row"] > 0
    assert accounts.counts["`whois` of a proxy: the client and its command"] > 0
    # A record that is missing is noticed.
    accounts.counts.clear()
    for rows in accounts.rows.values():
        del rows[len(rows) // 2]
    accounts.check()
    assert accounts.wrong != []


def await_served(fleet: Fleet, since: float) -> None:
    """Wait until a file server has served each client after a time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        lines = [
            line
            for server in fleet.servers
            for line in read_lines(fleet.place / f"{server}.access")
            if line.began > since
        ]
        # The directory of a file is the address of its client.
        missing = set(fleet.hosts) - {line.name.partition("/")[0] for line in lines}
        if not missing:
            return
        assert time.monotonic() < deadline, f"not served any more: {missing}"
        time.sleep(0.2)


def numbered(fleet: Fleet) -> Iterator[tuple[int, str]]:
    return enumerate(fleet.proxies, start=1)


def samples(accounts: Accounts, proxy: int, chance: random.Random) -> list[Line]:
    """Return lines of the file servers that have seen a port of a proxy."""
    seen = [line for line in accounts.lines if line.peer[0] in sources(proxy)]
    return chance.sample(seen, min(len(seen), SAMPLES))


def questions(lines: list[Line]) -> str:
    """Return what ``natproxy whois -`` reads.

    A file server may notice late that the proxy has cancelled a command, but not when it began.
    """
    times = [datetime.fromtimestamp(line.began, timezone.utc).isoformat() for line in lines]
    return "".join(
        f"{line.peer[0]}:{line.peer[1]} {time}\n" for line, time in zip(lines, times, strict=True)
    )


def report(fleet: Fleet, accounts: Accounts, elapsed: float, seed: int) -> None:
    """Write the report, if a file is named for it."""
    path = os.environ.get("NATPROXY_FLEET_REPORT")
    if path is None:
        return
    kinds = Counter((fault.kind, fault.target) for fault in fleet.faults)
    spent = Counter[tuple[str, str]]()
    for fault in fleet.faults:
        spent[fault.kind, fault.target] += fault.ended - fault.began  # type: ignore[assignment]
    statuses = Counter(one.status for one in accounts.sent)
    commands = sorted(accounts.counts.items())
    faults = sorted(kinds)
    lines = [
        "# The fleet under faults",
        "",
        PREFACE,
        f"{elapsed:.0f} s, {CLIENTS} clients, {len(fleet.proxies)} proxies with"
        f" {' and '.join(map(str, sorted(set(WORKERS))))} workers,"
        f" {len(fleet.servers)} file servers, seed {seed}. {len(accounts.sent):,} commands were"
        f" sent: {statuses['completed']:,} completed, {statuses['error']:,} had an error as their"
        f" reply, and of {statuses['broken']:,} the client has not seen the end.",
        "",
        f"**{len(fleet.faults)} faults; commands that are not accounted for:"
        f" {len(accounts.wrong)}.**",
        "",
        "| commands and records | number |",
        "| --- | ---: |",
        *(f"| {title} | {number:,} |" for title, number in commands),
        "",
        "| fault | times | seconds |",
        "| --- | ---: | ---: |",
        *(f"| {' '.join(one)} | {kinds[one]} | {spent[one]:.1f} |" for one in faults),
        "",
    ]
    # The tests have another working directory.
    (ROOT / path).write_text("\n".join(lines))
