"""The daemons in processes that have few descriptors: every admitted client is served."""

from __future__ import annotations

import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.descriptors import (
    file_server_capacity,
    observers_for,
    proxy_capacity,
)
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy_config import ProxyConfig

HOST = "127.0.0.1"
PATIENCE = 20.0
SIZE = 1_000_000
HEADER = b"OK 1000000\n"
RUN = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
LISTEN = f"--listen=tcp:0:interface={HOST}:backlog=1024"


@contextmanager
def running(limit: str, *arguments: str, cwd: Path) -> Iterator[tuple[int, int, Path]]:
    """Run a daemon under ``ulimit``; yield its port, the clients that it admits, and its log."""
    log = cwd / f"{arguments[0]}.log"
    command = [sys.executable, "-c", RUN, "-n", "--pidfile=", f"--logfile={log}", *arguments]
    shell = ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh"]
    with subprocess.Popen([*shell, *command], cwd=cwd, stdin=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + PATIENCE
            while True:
                text = log.read_text() if log.exists() else ""
                started = re.search(r"listens on [\d.]+:(\d+); clients at once: (\d+)", text)
                if started:
                    break
                assert process.poll() is None
                assert time.monotonic() < end, text
                time.sleep(0.02)
            yield int(started[1]), int(started[2]), log
        finally:
            process.kill()


def assert_admitted_clients_are_served(port: int, clients: int) -> None:
    """Connect twice as many clients as are admitted, all downloading at the same time."""
    with ExitStack() as stack:
        connections = []
        for _ in range(2 * clients):
            connection = stack.enter_context(socket.create_connection((HOST, port), PATIENCE))
            connections.append(connection)
        for connection in connections:
            try:
                connection.sendall(b"DOWNLOAD large\n")
            except OSError:
                # It was closed at once.
                continue
        served = refused = 0
        for connection in connections:
            reply = b""
            try:
                while len(reply) < SIZE + len(HEADER):
                    data = connection.recv(1 << 20)
                    if not data:
                        break
                    reply += data
            except ConnectionResetError:
                pass
            if reply.startswith(HEADER):
                served += 1
                assert len(reply) == SIZE + len(HEADER)
            else:
                refused += 1
                assert reply in (
                    b"",
                    b"ERR proxy error: too many clients\n",
                    b"ERR 503 too many clients\n",
                )
        assert (served, refused) == (clients, clients)


def clients_of(config: DaemonConfig, descriptors: int) -> int:
    """Return how many clients a daemon with a number of descriptors admits."""
    capacity = proxy_capacity if isinstance(config, ProxyConfig) else file_server_capacity
    return capacity(descriptors, observers_for(config, descriptors)).clients


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "large").write_bytes(b"x" * SIZE)
    return tmp_path


@pytest.mark.parametrize("relay", ["auto", "splice", "copy"])
def test_proxy_serves_every_client_that_it_admits(files: Path, relay: str) -> None:
    with running("-n 1024", "fileserver", LISTEN, cwd=files) as (upstream, _, _):
        proxy = ("natproxy", LISTEN, f"--upstream=tcp:{HOST}:{upstream}", f"--relay={relay}")
        unlimited = ("--max-clients=1000", "--max-clients-per-host=0")
        with running("-n 256", *proxy, *unlimited, cwd=files) as (port, clients, log):
            assert clients == clients_of(ProxyConfig(), 256) >= 16
            assert_admitted_clients_are_served(port, clients)
            text = log.read_text()
            assert f"--max-clients 1000: there are descriptors for {clients} clients" in text
            assert "EMFILE" not in text
            assert "Traceback" not in text


@pytest.mark.parametrize("relay", ["auto", "sendfile", "copy"])
def test_file_server_serves_every_client_that_it_admits(files: Path, relay: str) -> None:
    server = ("fileserver", LISTEN, f"--relay={relay}")
    with running("-n 256", *server, cwd=files) as (port, clients, log):
        assert clients == clients_of(FileServerConfig(), 256) >= 16
        assert_admitted_clients_are_served(port, clients)
        assert "EMFILE" not in log.read_text()


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1024, reason="the hard limit is too low"
)
def test_soft_limit_is_raised_to_the_hard_one(files: Path) -> None:
    with running("-Sn 100 && ulimit -Hn 1024", "fileserver", LISTEN, cwd=files) as (_, clients, _):
        assert clients == clients_of(FileServerConfig(), 1024)
