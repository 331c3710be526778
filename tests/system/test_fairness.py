"""Ten honest clients beside one at full blast: commands, bulk, digests and packs.

Both daemons have half of one core, in a control group of their own. Each client has an address of
its own. It takes minutes and a quiet machine: ``NATPROXY_TEST_FAIRNESS=10000,3`` is 10,000 short
commands of the honest clients in each of three runs, for `.ci/long`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles

import pytest

from tests.support.twistd import TWISTD, environment

COMMANDS, RUNS = map(int, os.environ.get("NATPROXY_TEST_FAIRNESS", "0,0").split(","))
HONEST = 10
PACE = 0.04
"""Seconds between two commands of an honest client: its share, since half a core serves about 900
commands a second through both daemons, and eleven clients share it."""
SHARE = 0.8
SLOWEST = 0.020
"""Seconds within which 99 % of the short commands are to have their replies. It is printed and
decides nothing: on a machine that is slow at times, it is missed at times."""
SMALL = 256
LIMITS = """
[proxy]
max-delay = 5.0
[proxy.limits.client]
commands = 4
commands-per-second = 60
burst = 8
bytes-per-second = "8M"
digests = 1
listings = 1
packs = 1
"""
PERIOD = 2_000
"""Microseconds of the group's period. Who has used half of one waits for the next one."""


class Group:
    """A control group with half of one core; without the right to make one, nothing is limited."""

    def __init__(self, name: str) -> None:
        self.limited = True
        root = Path("/sys/fs/cgroup")
        try:
            if (root / "cgroup.controllers").exists():
                self.path = root / name
                self.path.mkdir()
                (self.path / "cpu.max").write_text(f"{PERIOD // 2} {PERIOD}")
            else:
                self.path = root / "cpu" / name
                self.path.mkdir()
                (self.path / "cpu.cfs_period_us").write_text(str(PERIOD))
                (self.path / "cpu.cfs_quota_us").write_text(str(PERIOD // 2))
        except OSError:
            self.limited = False

    def add(self, pid: int) -> None:
        if self.limited:
            (self.path / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        if self.limited:
            self.path.rmdir()


@contextmanager
def daemon(directory: Path, group: Group, *arguments: str) -> Iterator[int]:
    """Run a daemon in the group; yield its port."""
    log = directory / f"{arguments[0]}.log"
    log.unlink(missing_ok=True)
    command = [*TWISTD, "-n", "--pidfile=", "-l", os.fspath(log), *arguments, "--control=none"]
    with subprocess.Popen(command, cwd=directory, env=environment({})) as process:
        group.add(process.pid)
        try:
            end = time.monotonic() + 30
            while " listens on " not in (text := log.read_text() if log.exists() else ""):
                assert time.monotonic() < end, text
                time.sleep(0.05)
            yield int(text.partition(" listens on 127.0.0.1:")[2].split()[0].rstrip(",;"))
        finally:
            process.kill()


def connect(port: int, host: str) -> socket.socket:
    """Return a connection from an address of this host."""
    connection = socket.create_connection(("127.0.0.1", port), 60, (host, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class HonestClient(threading.Thread):
    """Sends a short command every `PACE` seconds, and measures the time to its reply."""

    def __init__(self, port: int, number: int, commands: int) -> None:
        super().__init__()
        self.port, self.number, self.commands = port, number, commands
        self.host = f"127.0.1.{number + 1}"
        self.latencies: list[float] = []
        self.refused = 0
        self.elapsed = 0.0

    def run(self) -> None:
        lines = cycle((b"STAT small0\n", b"GET small1\n", b"STAT small2\n", b"STAT absent\n"))
        with connect(self.port, self.host) as connection:
            # Not all at the same moment.
            time.sleep(PACE * self.number / HONEST)
            began = due = time.monotonic()
            for _ in range(self.commands):
                time.sleep(max(0.0, due - time.monotonic()))
                sent = time.monotonic()
                connection.sendall(next(lines))
                reply = connection.recv(65_536)
                self.latencies.append(time.monotonic() - sent)
                self.refused += reply.startswith(b"ERR 429")
                due += PACE
            self.elapsed = time.monotonic() - began


def blast(port: int) -> None:
    """Send all that 40 connections can take, until the process is killed."""

    def send(line: bytes, times: int) -> None:
        while True:
            try:
                with connect(port, "127.0.0.1") as connection:

                    def write() -> None:
                        while True:
                            connection.sendall(line * times)

                    threading.Thread(target=write, daemon=True).start()
                    while connection.recv(1 << 20):
                        pass
            except OSError:
                time.sleep(0.01)

    pack = b"PACK " + b" ".join(b"small%d" % number for number in range(SMALL)) + b"\n"
    for line, times in ((b"STAT small0\n", 64), (b"GET bulk\n", 1), (b"HASH bulk\n", 1), (pack, 1)):
        for _ in range(10):
            threading.Thread(target=send, args=(line, times), daemon=True).start()
    threading.Event().wait()


@contextmanager
def blasting(port: int) -> Iterator[None]:
    """Let a process blast."""
    with subprocess.Popen([sys.executable, "-m", "tests.system.test_fairness", str(port)]) as one:
        time.sleep(2)
        try:
            assert one.poll() is None
            yield
        finally:
            one.kill()


def honest_clients(port: int, commands: int) -> list[HonestClient]:
    """Let the honest clients send all of their commands."""
    clients = [HonestClient(port, number, commands // HONEST) for number in range(HONEST)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return clients


@pytest.mark.skipif(not RUNS, reason="NATPROXY_TEST_FAIRNESS is not set: it takes minutes")
@pytest.mark.parametrize("run", range(RUNS))
def test_honest_clients_keep_their_share(tmp_path: Path, run: int) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for number in range(SMALL):
        (files / f"small{number}").write_bytes(os.urandom(1024))
    (files / "bulk").write_bytes(os.urandom(64 << 20))
    (tmp_path / "limits.toml").write_text(LIMITS)
    group = Group(f"natproxy-fairness-{os.getpid()}-{run}")
    with ExitStack() as stack:
        stack.callback(group.remove)
        listen = ("--listen", "tcp:0:interface=127.0.0.1")
        upstream = stack.enter_context(
            daemon(tmp_path, group, "fileserver", *listen, f"--files={files}")
        )
        port = stack.enter_context(
            daemon(
                tmp_path,
                group,
                "natproxy",
                *listen,
                f"--upstream=tcp:127.0.0.1:{upstream}",
                "--journal=none",
                "--config=limits.toml",
            )
        )
        with blasting(port):
            clients = honest_clients(port, COMMANDS)
    latencies = sorted(latency for client in clients for latency in client.latencies)
    shares = [client.commands * PACE / client.elapsed for client in clients]
    p99 = quantiles(latencies, n=100)[98]
    sys.stdout.write(
        f"run {run + 1}: {len(latencies)} commands, share {min(shares):.3f} to {max(shares):.3f},"
        f" p50 {1000 * median(latencies):.2f} ms, p99 {1000 * p99:.2f} ms,"
        f" longest {1000 * latencies[-1]:.1f} ms, goal {'met' if p99 < SLOWEST else 'missed'};"
        f" half of one core: {'yes' if group.limited else 'no control group'}\n"
    )
    assert sum(client.refused for client in clients) == 0
    assert min(shares) >= SHARE


if __name__ == "__main__":
    blast(int(sys.argv[1]))
