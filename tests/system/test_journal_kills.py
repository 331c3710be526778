"""The journal of processes that are killed under load, and of those whose disk is full.

Each process prints its events before the journal can have them: that record is compared with the
journal's.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from natproxy.journal.rows import GapRow
from natproxy.journal.search import Journal
from natproxy.records.record import parse_time
from natproxy.records.whois import FOUND, NOBODY, WhoisQuery
from tests.support.journal_load import client_of, port_of
from tests.support.journals import entries_of, gaps_of, meta_of, paths_of
from tests.support.loopback import PATIENCE
from tests.support.paths import ROOT

KILLS = int(os.environ.get("NATPROXY_JOURNAL_KILLS", "3"))
"""Processes to kill; ``.ci/long`` kills 50."""

RING = 60_000
SAMPLES = 4000
"""Times of which whois is asked."""

SECOND = 1_000_000

ROWS = 400
"""Entries of a segment: few, so that some processes are killed while one is sealed."""


@dataclass
class Run:
    """What a process printed.

    :ivar begun: when each translation began, by serial, in microseconds since the epoch.
    :ivar ended: when each ended.
    :ivar errors: of the journal; empty for the end of one.
    :ivar killed: when the process ended, likewise; ``None`` if it stopped in order.
    """

    process: subprocess.Popen[bytes]
    boot: str = ""
    begun: dict[int, int] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    killed: int | None = None

    def read(self) -> None:
        """Read until the process has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith(b"\n"):
                break
            word, *values = line.decode().split(maxsplit=1 if line.startswith(b"error") else 2)
            if word == "boot":
                self.boot = values[0]
            elif word == "error":
                self.errors.append(values[0].strip() if values else "")
            else:
                times = self.begun if word == "begin" else self.ended
                times[int(values[0])] = int(values[1])

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until something is true of what was printed."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, "the process has ended"
            assert time.monotonic() < deadline, f"in vain; errors: {self.errors}"
            time.sleep(0.005)

    def finish(self, number: signal.Signals) -> None:
        """End the process."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        if number == signal.SIGKILL:
            self.killed = round(time.time() * 1e6)


@contextmanager
def load(
    directory: Path,
    ring: int = RING,
    rows: int = ROWS,
    max_size: int = 10**9,
    *,
    spool: bool = True,
) -> Iterator[Run]:
    """Run a process until the end of the block, which has to end it.

    :param spool: whether there is space for its spool.
    """
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.journal_load",
            *map(str, (directory, ring, rows, max_size, int(spool))),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    run = Run(process)
    reader = threading.Thread(target=run.read)
    reader.start()
    try:
        yield run
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait(PATIENCE)
        reader.join(PATIENCE)
        assert process.stdout is not None
        process.stdout.close()


def stop(run: Run) -> None:
    """End a process in order."""
    run.finish(signal.SIGTERM)
    assert run.process.returncode == 0


def check(directory: Path, runs: list[Run], *, gapless: bool = False) -> None:
    """Compare the journal with what the processes printed.

    :param gapless: whether no event may be missing, also not in a gap.
    """
    entries = {(entry["boot"], entry["serial"]): entry for entry in entries_of(str(directory))}
    gaps = gaps_of(str(directory))
    for run in runs:
        for serial, begun in run.begun.items():
            entry = entries.pop((run.boot, serial), None)
            if entry is None:
                assert not gapless, f"translation {serial} of {run.boot} is missing"
                assert in_gap(gaps, begun), f"translation {serial} of {run.boot} is missing"
                continue
            assert (entry["nat_port"], entry["client"]) == (port_of(serial), client_of(serial))
            assert parse_time(entry["started"]) == begun
            if entry["ended"] is None:
                assert entry["state"] == "lost"
                assert not (gapless and serial in run.ended), f"the end of {serial} is missing"
                ended = run.ended.get(serial, run.killed)
                assert ended is not None
                assert in_gap(gaps, ended), f"the end of {serial} of {run.boot} is missing"
            elif serial in run.ended:
                assert parse_time(entry["ended"]) == run.ended[serial]
    # The process may be killed between two lines, but no more than those are missing.
    assert len(entries) <= len(runs)


def check_whois(directory: Path, runs: list[Run]) -> dict[str, int]:
    """Check that whois finds the right client or a gap, at each time of a translation.

    :return: how often each result was found.
    """
    truth: dict[int, list[tuple[int, int, str]]] = {}
    samples: list[tuple[int, int]] = []
    for run in runs:
        for serial, begun in run.begun.items():
            last = run.ended.get(serial, run.killed)
            assert last is not None
            port = port_of(serial)
            truth.setdefault(port, []).append((begun, last, client_of(serial)))
            samples += [(port, time) for time in {begun, (begun + last) // 2, last}]
    samples = random.sample(samples, min(SAMPLES, len(samples)))
    # Beside translations, too.
    samples += [(port, time + random.randrange(-SECOND, SECOND)) for port, time in samples]
    with Journal(os.fspath(directory)) as journal:
        replies = journal.whois_all(
            [WhoisQuery(port, since=time, until=time) for port, time in samples]
        )
    results: dict[str, int] = {}
    for (port, moment), reply in zip(samples, replies, strict=True):
        held = {client for begun, last, client in truth[port] if begun <= moment <= last}
        named = {record.client for record in reply.translations}
        if reply.result == NOBODY:
            assert not held, f"nobody, but {held} held {port} at {moment}"
        elif reply.result == FOUND:
            assert held, f"{named} did not hold {port} at {moment}"
            assert held <= named, f"{named} in place of {held} at {port} at {moment}"
        results[reply.result] = results.get(reply.result, 0) + 1
    return results


def in_gap(gaps: list[GapRow], time: int) -> bool:
    """Return whether a time is in a gap."""
    return any(
        gap.since is not None and gap.until is not None and gap.since <= time <= gap.until
        for gap in gaps
    )


def check_files(directory: Path) -> None:
    """Check that every file is readable, and that only the last one is not sealed."""
    assert not list(directory.glob("*.damaged"))
    *sealed, _last = paths_of(str(directory))
    for path in sealed:
        with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
            assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
            assert connection.execute("select 1 from meta where key = 'sealed'").fetchone()
    for path in paths_of(str(directory)):
        assert not os.path.exists(f"{path}-wal")


def test_killed_under_load(tmp_path: Path) -> None:
    runs = []
    for _ in range(KILLS):
        with load(tmp_path) as run:
            run.wait(lambda run=run: run.begun)
            time.sleep(random.uniform(0, 1.2))
            run.finish(signal.SIGKILL)
        runs.append(run)
    with load(tmp_path) as last:
        last.wait(lambda: last.begun)
        stop(last)
    check(tmp_path, [*runs, last], gapless=True)
    check_files(tmp_path)
    check_whois(tmp_path, [*runs, last])
    check_found(tmp_path, [*runs, last])
    # One that was killed before its first write has the gap of that as well.
    assert {gap.cause for gap in gaps_of(str(tmp_path))} <= {"ended", "unwritten"}
    assert not list(tmp_path.glob("*.spool*"))
    assert {run.boot for run in runs if run.begun} <= boots(tmp_path)


def test_killed_under_load_without_a_spool(tmp_path: Path) -> None:
    with load(tmp_path, spool=False) as run:
        run.wait(lambda: len(run.ended) > 300)
        run.finish(signal.SIGKILL)
    with load(tmp_path) as last:
        last.wait(lambda: last.begun)
        stop(last)
    check(tmp_path, [run, last])
    check_whois(tmp_path, [run, last])
    (killed,) = gaps_of(str(tmp_path))
    assert killed.cause == "killed"
    assert run.killed is not None
    assert in_gap([killed], run.killed)
    assert killed.since is not None
    # A quarter of a second and a write; much more on a busy machine.
    assert run.killed - killed.since < 5_000_000


def check_found(directory: Path, runs: list[Run]) -> None:
    """Check that whois finds each client when its translation begins, and at its end."""
    samples = [
        (port_of(serial), time, client_of(serial))
        for run in runs
        for times in (run.begun, run.ended)
        for serial, time in times.items()
    ]
    samples = random.sample(samples, min(SAMPLES, len(samples)))
    with Journal(os.fspath(directory)) as journal:
        replies = journal.whois_all(
            [WhoisQuery(port, since=at, until=at) for port, at, _ in samples]
        )
    for (port, at, client), reply in zip(samples, replies, strict=True):
        assert reply.result == FOUND, f"{reply.result} for {port} at {at}: {reply.gap}"
        assert client in {record.client for record in reply.translations}


def test_oldest_history_is_unknown_when_it_was_deleted(tmp_path: Path) -> None:
    runs = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGTERM):
        with load(tmp_path, max_size=400_000) as run:
            run.wait(lambda run=run: len(run.ended) > 1500)
            run.finish(number)
        runs.append(run)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    # It is checked after each seal.
    assert size < 800_000
    results = check_whois(tmp_path, runs)
    assert results["unknown"] > 1000
    assert results["found"] > 100
    with Journal(os.fspath(tmp_path)) as journal:
        (oldest,) = journal.gaps()[:1]
    assert oldest.since is None
    assert oldest.until is not None
    assert oldest.until > max(runs[0].begun.values())


def boots(directory: Path) -> set[str]:
    """Return the runs of which the journal has something."""
    return {meta_of(path)["boot"] for path in paths_of(str(directory))}


def test_files_of_limited_size_and_back(tmp_path: Path) -> None:
    with load(tmp_path, ring=3000, rows=10**6) as run:
        run.wait(lambda: len(run.ended) > 300)
        hard = resource.RLIM_INFINITY
        resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (4096, hard))
        run.wait(lambda: run.errors)
        before = len(run.ended)
        # Commands are not affected.
        run.wait(lambda: len(run.ended) > before + 2000)
        resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        run.wait(lambda: run.errors[-1] == "")
        run.wait(lambda: len(run.ended) > before + 2500)
        stop(run)
    check(tmp_path, [run])
    check_files(tmp_path)
    check_whois(tmp_path, [run])
    assert "the disk is full" in run.errors[0]
    assert "disk" in [gap.cause for gap in gaps_of(str(tmp_path))]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_disk_is_full_and_has_space_again(small_disk: Path) -> None:
    journal = small_disk / "journal"
    with load(journal, ring=3000, rows=10**6) as run:
        run.wait(lambda: len(run.ended) > 300)
        with open(small_disk / "other", "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 65_536)
        run.wait(lambda: run.errors)
        before = len(run.ended)
        run.wait(lambda: len(run.ended) > before + 2000)
        os.unlink(small_disk / "other")
        run.wait(lambda: run.errors[-1] == "")
        run.wait(lambda: len(run.ended) > before + 2500)
        stop(run)
    check(journal, [run])
    check_files(journal)
    check_whois(journal, [run])
    assert "free some space, or lower --journal-max-size" in run.errors[0]
    assert "disk" in [gap.cause for gap in gaps_of(str(journal))]


def test_journal_leaves_space_to_others(small_disk: Path) -> None:
    journal = small_disk / "journal"
    free = os.statvfs(small_disk)
    with open(small_disk / "other", "wb") as file:
        file.write(b"x" * (free.f_bavail * free.f_frsize - (1 << 20)))
    with load(journal, ring=3000, rows=10**6) as run:
        run.wait(lambda: run.errors)
        now = os.statvfs(small_disk)
        assert now.f_bavail * now.f_frsize > 100 << 10
        before = len(run.ended)
        run.wait(lambda: len(run.ended) > before + 500)
        stop(run)
    assert "are left to others" in run.errors[0]
