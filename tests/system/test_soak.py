"""A day's traffic over links with faults, while all is killed: nothing is lost, nothing is left.

``NATPROXY_TEST_SOAK=600`` is ten minutes, half of them with two workers, for `.ci/long`;
``NATPROXY_SOAK_REPORT`` names a file for its report.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import namespaces, wan
from tests.support.accounts import Line
from tests.support.fleet import PATIENCE
from tests.support.namespaces import Network, ip
from tests.support.paths import ROOT
from tests.support.soak import Soak, longest_lives
from tests.support.soak_accounts import SoakAccounts, whois
from tests.support.soak_client import SMALL, Sent
from tests.support.wan import Conditions, Wan

SECONDS = float(os.environ.get("NATPROXY_TEST_SOAK", "2"))
WHOLE = "NATPROXY_TEST_SOAK" in os.environ
HONEST = 12 if WHOLE else 3
LONGEST = 4.0 if WHOLE else 0.6
"""Seconds that a link is cut, at most."""
PACE = 0.05 if WHOLE else 0.1
"""Seconds between two commands of an honest client at noon."""
SAMPLES = 400 if WHOLE else 50
"""Lines of file servers about which ``whois`` is asked, at most."""
GROWTH = 16 << 20
"""Bytes by which the memory of a process may grow."""
ENOUGH = 100
"""Samples of a process's memory, two a second, from which its growth is compared."""

PREFACE = """\
`tests/system/test_soak.py` wrote this page. Clients, a proxy and two file servers over one
directory are in network namespaces, joined by links of 50 MB/s and 1 ms each way. Honest clients
compare every byte with the file's; beside them are slow readers, which often leave inside a reply,
and floods of pipelined commands, each with addresses of their own. A day is compressed into the
time of the run: five times as many commands at noon as at midnight, and four floods.

All the time one thing or another happens: a file server is killed (`kill -9`) or stopped, and
started again after up to two seconds; a worker of the proxy is killed, or its settings are
reloaded; a link is cut for up to four seconds, or has up to 50 ms, 2 % loss and 1 to 20 MB/s for up
to eight. In the last fifth of the time the proxy is killed and stopped as well, with all its
clients; what is said about memory and descriptors of the proxy is of the time before.

In the end, three records of each command are compared: the client's log, the rows of its tries in
the proxy's history, and the access logs of the file servers, which have seen the proxy's ports.
`whois` is asked about such ports. Nothing may be missing of a proxy or a worker that was killed;
the access log of a file server may lack the lines of the last moments before its kill.
"""

REASON = namespaces.reason_against() or wan.reason_against()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


class Quiet(NamedTuple):
    """Descriptors of each process, by its name, when no client is connected."""

    before: dict[str, list[Counter[str]]]
    after: dict[str, list[Counter[str]]]


class Run(NamedTuple):
    """What a run has shown."""

    soak: Soak
    accounts: SoakAccounts
    seconds: float
    seed: int
    quiet: Quiet
    stale: int


REPORTED: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def _report() -> Iterator[None]:
    """Write the report of all runs, if a file is named for it."""
    yield
    path = os.environ.get("NATPROXY_SOAK_REPORT")
    if path is not None:
        # The tests have another working directory.
        (ROOT / path).write_text("\n".join(["# A day under faults", "", PREFACE, *REPORTED]))


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path("/tmp") / f"soak-{os.getpid()}"
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


def test_link_delays_and_cuts() -> None:
    with Network() as network:
        ends = network.machine("a"), network.machine("b")
        link = Wan("link", ends)
        for number, end in enumerate(ends, start=1):
            ip("-n", end.namespace, "address", "add", f"10.85.0.{number}/24", "dev", "link")
        link.change(Conditions(delay=0.05))
        ping = ["ip", "netns", "exec", ends[0].namespace, sys.executable, "-c", ROUND_TRIP]
        took = float(subprocess.run(ping, capture_output=True, check=True, timeout=PATIENCE).stdout)
        assert took >= 0.1
        link.change(Conditions(cut=True))
        done = subprocess.run(ping, capture_output=True, check=False, timeout=PATIENCE)
        assert b"timed out" in done.stderr
        link.close()


ROUND_TRIP = """
import socket, time
began = time.monotonic()
try:
    socket.create_connection(("10.85.0.2", 1), 0.5)
except ConnectionRefusedError:
    print(time.monotonic() - began)
"""


@pytest.mark.parametrize("workers", [1, 2] if WHOLE else [1])
def test_day_of_faults(place: Path, workers: int) -> None:
    seed = int(os.environ.get("NATPROXY_SOAK_SEED", str(random.randrange(1 << 32))))
    sys.stdout.write(f"NATPROXY_SOAK_SEED={seed}\n")
    chance = random.Random(seed)
    seconds = SECONDS / 2 if WHOLE else SECONDS
    with Soak(place, workers, HONEST, LONGEST) as soak:
        began = time.monotonic()
        # All processes have had some load before their descriptors are counted.
        logs = [run_clients(soak, "warm", 1.0 if WHOLE else 0.3)]
        base = soak.await_quiet()
        logs.append(run_clients(soak, "day", seconds * 0.8, chance))
        quiet = Quiet(base, soak.await_quiet())
        stale = soak.stale_rows()
        lives = longest_lives(soak.memories)
        if WHOLE:
            logs.append(run_clients(soak, "night", seconds * 0.2, chance, proxy=True))
            soak.await_quiet()
        elapsed = time.monotonic() - began
        for process in [soak.proxy, *soak.servers.values()]:
            process.end()
        accounts = SoakAccounts(soak, logs)
        accounts.check()
        lines = samples(accounts, chance)
        accounts.check_whois(lines, whois(place / "journal", lines))
        sys.stdout.writelines(troubles(accounts))
        run = Run(soak, accounts, elapsed, seed, quiet, stale)
        REPORTED.extend(report(run, workers))
    assert accounts.wrong == []
    assert stale == 0
    for name, kinds in quiet.after.items():
        assert leaked(quiet.before[name], kinds) == [], f"{name}: {quiet.before[name]} {kinds}"
    for memory in lives.values():
        assert len(memory.sizes) < ENOUGH or memory.growth < GROWTH, memory
    assert [one for one in accounts.sent if unexplained(one, accounts)] == []
    assert accounts.counts["completed, with its row"] > 0
    assert accounts.counts["`whois`: the client and its command"] > 0
    # What is missing is noticed.
    accounts.counts.clear()
    del accounts.sent[: len(accounts.sent) // 2]
    accounts.check()
    assert accounts.wrong != []


def run_clients(
    soak: Soak,
    name: str,
    seconds: float,
    chance: random.Random | None = None,
    *,
    proxy: bool = False,
) -> Path:
    """Run the clients, with faults if there is a source of chance; return their log."""
    clients = soak.start_clients(name, seconds, PACE)
    end = time.monotonic() + seconds
    if chance is None:
        time.sleep(seconds)
    else:
        soak.break_until(end, chance, lambda line: sys.stdout.write(f"{line}\n"), proxy=proxy)
        # All is whole again, and clients are served.
        time.sleep(1.0 if WHOLE else 0.3)
    clients.end()
    return soak.place / f"{name}.log"


def leaked(before: list[Counter[str]], after: list[Counter[str]]) -> list[str]:
    """Return the kinds of descriptors of which there are more than before, in any process."""
    most = before[0].copy()
    for one in before[1:]:
        most |= one
    return [kind for one in after for kind in one if one[kind] > most[kind] + ALLOWED[kind]]


ALLOWED = Counter(pipe=32, journal=4)
"""Pipes that the relays keep, with two descriptors each; files of a segment of the journal."""


def unexplained(sent: Sent, accounts: SoakAccounts) -> bool:
    """Return whether an honest client was cut off without a fault between it and a proxy."""
    if sent.role != "honest" or sent.status != "broken":
        return False
    faults = ("cut front", "worsen front", "kill proxy", "stop proxy", "kill worker")
    return not accounts.during(sent.sent, sent.ended, *faults)


def troubles(accounts: SoakAccounts) -> Iterator[str]:
    """Return lines about what honest clients have lost or received as an error, with the tries."""
    for sent in accounts.sent:
        if unexplained(sent, accounts) or (sent.role, sent.status) == ("honest", "error"):
            yield f"{sent}\n"
            yield from (f"  {row}\n" for row in accounts.tries_of(sent))


def samples(accounts: SoakAccounts, chance: random.Random) -> list[Line]:
    return chance.sample(accounts.lines, min(len(accounts.lines), SAMPLES))


def percentile(values: list[float], part: float) -> float:
    """Return a percentile, 0 if there are no values."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else 0.0


def report(run: Run, workers: int) -> list[str]:
    """Return the lines of the report about a run."""
    soak, accounts = run.soak, run.accounts
    honest = [one for one in accounts.sent if one.role == "honest"]
    statuses = Counter(one.status for one in honest)
    broken = [one for one in honest if one.status == "broken"]
    kinds = Counter((fault.kind, fault.target) for fault in soak.faults)
    unknown = sum(count for title, count in accounts.counts.items() if "unknown" in title)
    tries = sum(len(each) > 1 for each in accounts.commands.values())
    lines = [
        f"## {'One process' if workers == 1 else f'{workers} workers'}",
        "",
        f"{run.seconds:.0f} s, {len(soak.honest)} honest clients, {len(soak.slow)} slow ones,"
        f" {len(soak.floods)} floods, seed {run.seed}; {len(soak.faults)} faults. Honest clients"
        f" sent {len(honest):,} commands: {statuses['completed']:,} completed,"
        f" {statuses['error']:,} had an error as their reply, {statuses['broken']:,} were cut off,"
        f" {sum(unexplained(one, accounts) for one in broken)} of these without a fault of the"
        f" proxy, a worker or the clients' link. {tries:,} commands had several tries."
        f" Checks of health: {accounts.checks:,}.",
        "",
        f"**Wrong bytes: {statuses['wrong']}. Stale rows: {run.stale}. Commands that are not"
        f" accounted for: {len(accounts.wrong)}; unknown: {unknown:,}.**",
        "",
        "| honest clients, replies up to 4 KiB | number | p50 ms | p99 ms | longest ms |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    small = [one for one in honest if one.status == "completed" and one.size <= SMALL]
    troubled = {id(one) for one in small if any_fault(one, soak)}
    for title, chosen in (
        ("all", small),
        ("beside no fault", [one for one in small if id(one) not in troubled]),
        ("beside a fault", [one for one in small if id(one) in troubled]),
    ):
        took = [(one.ended - one.sent) * 1000 for one in chosen]
        shown = " | ".join(f"{percentile(took, part):,.1f}" for part in (0.5, 0.99, 1.0))
        lines.append(f"| {title} | {len(chosen):,} | {shown} |")
    lines += [
        "",
        "| process that lived longest | memory, first, MiB | last, MiB | growth, MiB |"
        " descriptors before | after |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for name, memory in sorted(longest_lives(soak.memories).items()):
        sizes = [memory.sizes[0], memory.sizes[-1], memory.growth]
        shown = " | ".join(f"{size / 2**20:.1f}" for size in sizes)
        counts = " | ".join(kinds_text(each[name]) for each in run.quiet)
        lines.append(f"| {name} | {shown} | {counts} |")
    lines += [
        "",
        *error_lines(honest),
        "| commands and records | number |",
        "| --- | ---: |",
        *(f"| {title} | {number:,} |" for title, number in sorted(accounts.counts.items())),
        "",
        "| fault | times |",
        "| --- | ---: |",
        *(f"| {' '.join(one)} | {kinds[one]} |" for one in sorted(kinds)),
        "",
    ]
    return lines


def error_lines(honest: list[Sent]) -> list[str]:
    """Return the lines of the report about the errors that honest clients have received."""
    errors = Counter(one.text for one in honest if one.status == "error")
    if not errors:
        return []
    rows = (f"| `{text}` | {number} |" for text, number in errors.most_common(10))
    return ["| error of an honest client | times |", "| --- | ---: |", *rows, ""]


def any_fault(sent: Sent, soak: Soak) -> bool:
    """Return whether anything was killed, cut or worse while a command was executed."""
    return any(
        fault.began <= sent.ended and sent.sent <= fault.ended + 1.0 for fault in soak.faults
    )


def kinds_text(processes: list[Counter[str]]) -> str:
    return "; ".join(", ".join(f"{kind} {one[kind]}" for kind in sorted(one)) for one in processes)
