"""A fleet whose parts are killed and cut off at random: every accepted command is accounted for.

``NATPROXY_TEST_FLEET=600,12`` is ten minutes with twelve clients, for `.ci/long`;
``NATPROXY_FLEET_REPORT`` names a file for its report.
"""

from __future__ import annotations

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

from tests.support.accounts import Accounts, Line, natproxy
from tests.support.fleet import Fleet, short_place, sources
from tests.support.namespaces import reason_against

SECONDS, CLIENTS = map(int, os.environ.get("NATPROXY_TEST_FLEET", "6,6").split(","))
PACE = 0.05
"""Seconds between two commands of a client."""
SAMPLES = 400
"""Lines of file servers about which ``whois`` is asked, at most."""

REASON = reason_against()
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
    with Fleet(place, CLIENTS) as fleet:
        clients = fleet.start_clients(PACE)
        began = time.monotonic()
        fleet.break_until(began + SECONDS, chance, lambda line: sys.stdout.write(f"{line}\n"))
        # All is whole again, and each client is served again.
        whole = time.time()
        time.sleep(2.0)
        clients.end()
        elapsed = time.monotonic() - began
        fleet.stop()
        accounts = Accounts(fleet)
        accounts.check()
        answers = ask(fleet, accounts, chance)
        report(fleet, accounts, answers, elapsed, seed)
    assert accounts.wrong == []
    served = {one.client for one in accounts.sent if one.status == "completed" and one.sent > whole}
    assert served == set(fleet.hosts)
    assert accounts.counts["completed, with its row"] > 0
    assert answers["the client and its command"] > 0


def ask(fleet: Fleet, accounts: Accounts, chance: random.Random) -> Counter[str]:
    """Ask each proxy's journal about ports of the file servers' logs; return the numbers."""
    answers: Counter[str] = Counter()
    for number, name in enumerate(fleet.proxies, start=1):
        seen = [
            line
            for line in accounts.lines
            if line.translation == "-" and line.peer[0] in sources(number)
        ]
        chosen = chance.sample(seen, min(len(seen), SAMPLES))
        lines = "".join(f"{line.peer[1]} {moment(line)}\n" for line in chosen)
        journal = f"--journal={fleet.place}/{name}.journal"
        found = natproxy("whois", "-", "--within=1", journal, lines=lines) if chosen else []
        for line, answer in zip(chosen, found, strict=True):
            named = {(one["client"], one["name"]) for one in answer["translations"]}
            if (line.name.partition("/")[0], line.name) in named:
                answers["the client and its command"] += 1
            elif answer["result"] == "unknown" and accounts.killed_after(name, line.ended):
                answers["unknown, within the last flush before a kill"] += 1
            else:
                accounts.wrong.append(f"whois: {answer}: {line}")
    return answers


def moment(line: Line) -> str:
    return datetime.fromtimestamp(line.ended, timezone.utc).isoformat()


def report(
    fleet: Fleet, accounts: Accounts, answers: Counter[str], elapsed: float, seed: int
) -> None:
    """Write the report, if a file is named for it."""
    path = os.environ.get("NATPROXY_FLEET_REPORT")
    if path is None:
        return
    kinds = Counter((fault.kind, fault.target) for fault in fleet.faults)
    spent = Counter[tuple[str, str]]()
    for fault in fleet.faults:
        spent[fault.kind, fault.target] += fault.ended - fault.began  # type: ignore[assignment]
    statuses = Counter(one.status for one in accounts.sent)
    lines = [
        "# The fleet under faults",
        "",
        f"{elapsed:.0f} s, {CLIENTS} clients, {len(fleet.proxies)} proxies,"
        f" {len(fleet.servers)} file servers, seed {seed}; see `tests/system/test_fleet.py`.",
        "",
        f"{len(accounts.sent):,} commands were sent: {statuses['completed']:,} completed,"
        f" {statuses['error']:,} refused with an error, {statuses['broken']:,} broken off."
        f" {len(fleet.faults)} faults. Commands that are not accounted for: {len(accounts.wrong)}.",
        "",
        "| commands and records | number |",
        "| --- | --- |",
        *(f"| {title} | {number:,} |" for title, number in sorted(accounts.counts.items())),
        *(f"| `whois` names {title} | {number:,} |" for title, number in sorted(answers.items())),
        "",
        "| fault | times | seconds |",
        "| --- | --- | --- |",
        *(
            f"| {kind} {target} | {kinds[kind, target]} | {spent[kind, target]:.1f} |"
            for kind, target in sorted(kinds)
        ),
        "",
    ]
    Path(path).write_text("\n".join(lines))
