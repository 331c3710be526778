"""One view of a proxy with two workers: also while one of them hangs, and when it is replaced."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from natproxy.client.control.daemon import Daemon
from natproxy.client.control.http import request
from natproxy.client.errors import ClientError
from natproxy.journal.search import Journal
from natproxy.records.queries import HistoryQuery
from natproxy.records.record import Record
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery
from tests.support.twistd import LIMIT, TWISTD, environment, wait_until

LOOPBACK = "tcp:0:interface=127.0.0.1"
CLIENTS = 16
SIZE = 1 << 30


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory with a short path, with files to serve."""
    path = Path(tempfile.mkdtemp())
    (path / "served").mkdir()
    (path / "served" / "small").write_bytes(b"small\n")
    with (path / "served" / "large").open("wb") as file:
        file.truncate(SIZE)
    yield path
    # Workers whose master was killed may still remove their files.
    shutil.rmtree(path, ignore_errors=True)


class Proxy:
    """A file server, and a proxy with two workers in front of it, as processes."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.directory = directory
        self._stack = stack
        server = self._run("fileserver", "--files=served", "--name=files")
        self.process = self._run(
            "natproxy",
            "--workers=2",
            "--name=edge",
            "--journal=journal",
            f"--upstream=tcp:127.0.0.1:{self._port('fileserver')}",
        )
        self.port = self._port("natproxy")
        self.daemon = Daemon(os.fspath(directory / "edge.sock"))
        wait_until(lambda: self._replies(2))
        self.server = server

    def _run(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [
                *(*TWISTD, "-n", "--pidfile=", f"--logfile={name}.log", name),
                *(f"--listen={LOOPBACK}", *options),
            ],
            cwd=self.directory,
            env=environment({"RUNTIME_DIRECTORY": os.fspath(self.directory)}),
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    def _port(self, name: str) -> int:
        path = self.directory / f"{name}.log"

        def found() -> re.Match[str] | None:
            text = path.read_text() if path.exists() else ""
            return re.search(r"listens on 127\.0\.0\.1:(\d+)", text)

        return int(wait_until(found)[1])

    def _replies(self, workers: int) -> bool:
        with suppress(ClientError):
            return len(self.daemon.status()["workers"]) == workers
        return False

    def pid(self, worker: int) -> int:
        """Return the process of a worker."""
        found = [each for each in self.daemon.status()["workers"] if each["worker"] == worker]
        return int(found[0]["pid"])

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command line."""
        return subprocess.run(
            [sys.executable, "-m", "natproxy", *arguments, f"--control={self.daemon.path}"],
            cwd=self.directory,
            env=environment({"COLUMNS": "200"}),
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )

    def download(self) -> socket.socket:
        """Begin a download that is not read."""
        client = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.port)))
        client.settimeout(LIMIT)
        client.sendall(b"GET large\n")
        assert client.recv(10)
        return client

    def small(self) -> None:
        """Carry out a command."""
        with socket.create_connection(("127.0.0.1", self.port), LIMIT) as client:
            client.sendall(b"GET small\n")
            assert client.recv(1000)

    def metrics(self) -> str:
        with request(self.daemon.path, "GET", "/metrics", timeout=LIMIT) as reply:
            return reply.read(1 << 20).decode()

    def whois(self, port: int, time: int | None = None) -> str:
        return self.daemon.whois(WhoisQuery(port, since=time, until=time)).result


@pytest.fixture
def proxy(directory: Path) -> Iterator[Proxy]:
    with ExitStack() as stack:
        yield Proxy(stack, directory)


def now() -> int:
    return time.time_ns() // 1000


def test_one_view_while_a_worker_hangs_and_is_killed(proxy: Proxy) -> None:
    daemon = proxy.daemon
    clients = [proxy.download() for _ in range(CLIENTS)]
    for _ in range(CLIENTS):
        proxy.small()
    table = list(daemon.table())
    by_worker = {n: [each for each in table if each.worker == n] for n in (0, 1)}
    # The kernel spreads the clients; with 16 of them it would be rare that one worker has none.
    assert len(table) == CLIENTS
    assert all(by_worker.values())
    assert [each.started for each in table] == sorted(each.started or 0 for each in table)
    commands = 'natproxy_commands_total{outcome="completed",verb="GET"}'
    assert f"{commands} {CLIENTS}.0\n" in proxy.metrics()
    for record in table:
        assert proxy.whois(record.nat_port or 0) == FOUND
    assert proxy.whois(1) == NOBODY
    ended = [each for each in daemon.history() if each.outcome == "completed"]
    assert len(ended) == CLIENTS
    shown_status = proxy.command("status").stdout
    assert "workers:    0: process" in shown_status
    assert "\n            1: process" in shown_status
    assert f"{CLIENTS} in flight" in proxy.command("top").stdout

    pid = proxy.pid(1)
    os.kill(pid, signal.SIGSTOP)
    stopped = now()
    # Its master kills it after some seconds: all of this at once.
    with ThreadPoolExecutor() as threads:
        statuses = threads.submit(Daemon(daemon.path).status)
        lookup = threads.submit(Daemon(daemon.path).whois, WhoisQuery(1))
        shown = threads.submit(lambda: list(Daemon(daemon.path).table()))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    assert [each["worker"] for each in statuses.result()["missing"]] == [1]
    assert statuses.result()["commands"]["total"] == CLIENTS
    gap = lookup.result().gap
    assert gap is not None
    assert (lookup.result().result, "worker 1" in gap.cause) == (UNKNOWN, True)
    assert {each.worker for each in shown.result()} == {0}

    wait_until(lambda: not daemon.status()["missing"] and proxy.pid(1) != pid)
    alive = {each.serial for each in daemon.table() if each.worker == 0}
    assert alive == {each.serial for each in by_worker[0]}
    wait_until(lambda: proxy.whois(1) == NOBODY)
    # The journal of the successor closes them once it has recovered.
    expected = {each.serial for each in by_worker[1]}
    wait_until(
        lambda: {each.serial for each in daemon.history() if each.outcome == "lost"} == expected
    )
    for record in by_worker[1]:
        assert proxy.whois(record.nat_port or 0, stopped) == UNKNOWN
    assert float(re.findall(re.escape(commands) + r" (\S+)", proxy.metrics())[0]) >= CLIENTS

    ended_by = daemon.kill(filter="verb GET")
    assert {each.serial for each in ended_by} == {each.serial for each in by_worker[0]}
    acts = [each for each in daemon.events("event kill") if isinstance(each, Record)]
    assert {each.uid for each in acts} == {os.getuid()}
    for client in clients:
        client.close()
    assert proxy.command("drain", "--wait").returncode == 0
    assert proxy.process.wait(LIMIT) == 0
    with Journal(os.fspath(proxy.directory / "journal")) as journal:
        found_rows = list(journal.history(HistoryQuery()))
    rows = {(each.worker, each.boot, each.serial) for each in found_rows}
    assert len(rows) == len(found_rows)
    assert len(rows) == 2 * CLIENTS


def test_followed_events_of_a_worker_that_is_replaced(proxy: Proxy) -> None:
    pid = proxy.pid(0)
    seen: set[str] = set()

    def follow() -> None:
        with suppress(ClientError):
            for event in proxy.daemon.events(follow=True):
                if isinstance(event, Record):
                    seen.add(event.boot)

    def boots() -> set[str]:
        return {each["boot"] for each in Daemon(proxy.daemon.path).status()["workers"]}

    def followed() -> bool:
        # The kernel spreads the clients over the workers.
        proxy.small()
        return seen >= wanted

    # The sockets of the workers are not taken for daemons.
    found = subprocess.run(
        [sys.executable, "-m", "natproxy", "status", "--json"],
        env=environment({"RUNTIME_DIRECTORY": os.fspath(proxy.directory)}),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    names = {each["name"] for each in json.loads(found.stdout)}
    assert names >= {"edge", "files"}
    assert not [name for name in names if ".w" in name]
    wanted = boots()
    threading.Thread(target=follow, daemon=True).start()
    wait_until(followed)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(boots() | wanted) == 3)
    wanted = boots() | wanted
    wait_until(followed)
