"""A proxy with two workers under load: workers are killed, and replaced by reloads.

``NATPROXY_TEST_WORKERS=20,20`` is 20 kills and 20 reloads, for `.ci/long`.
"""

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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from natproxy.client.control.daemon import Daemon
from natproxy.client.errors import ClientError
from natproxy.journal.search import Journal
from natproxy.records.queries import HistoryQuery
from tests.support.paths import ROOT
from tests.support.twistd import (
    LIMIT,
    TWISTD,
    application_file,
    catches,
    environment,
)

KILLS, RELOADS = map(int, os.environ.get("NATPROXY_TEST_WORKERS", "2,1").split(","))
LOOPBACK = "tcp:0:interface=127.0.0.1"
RELOADED = "SIGHUP: the settings are reloaded: "
CLIENTS = 6
PACE = 0.01
"""Seconds between two commands of a client."""
SIZE = 24 << 20


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory with a short path, with files to serve."""
    path = Path(tempfile.mkdtemp())
    (path / "served").mkdir()
    (path / "served" / "small").write_bytes(b"small\n")
    with (path / "served" / "large").open("wb") as file:
        file.truncate(SIZE)
    yield path
    shutil.rmtree(path)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 4 * LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Load:
    """Clients that send short commands, several on each connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.done = 0
        self.failed = 0
        self.refused = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send commands until the end of the block."""
        threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def await_commands(self, count: int) -> None:
        """Wait until as many further commands have been served."""
        target = self.done + count
        wait_until(lambda: self.done >= target)

    def _client(self) -> None:
        while not self._stop.is_set():
            try:
                connection = socket.create_connection(("127.0.0.1", self.port), LIMIT)
            except OSError:
                with self._lock:
                    self.refused += 1
                continue
            with connection, connection.makefile("rb") as replies:
                for _ in range(10):
                    if self._stop.wait(PACE) or not self._command(connection, replies.readline):
                        break

    def _command(self, connection: socket.socket, readline: Callable[[], bytes]) -> bool:
        lines: list[bytes] = []
        with suppress(OSError):
            connection.sendall(b"LIST\n")
            while not lines or lines[-1] not in (b"END\n", b""):
                lines.append(readline())
        complete = lines == [b"OK\n", b"large\n", b"small\n", b"END\n"]
        with self._lock:
            self.done += complete
            self.failed += not complete
        return complete


class Process:
    """A daemon as a process, with a log in a file."""

    def __init__(
        self, stack: ExitStack, directory: Path, daemon: str, *options: str, **settings: str
    ) -> None:
        self.path = directory / f"{daemon}.log"
        command = [*TWISTD, "-n", f"--pidfile={daemon}.pid", daemon, "--config=natproxy.toml"]
        self.process = subprocess.Popen(
            [*command, f"--log={self.path}", "--log-size=1000", *options],
            cwd=directory,
            env=environment({"RUNTIME_DIRECTORY": os.fspath(directory), **settings}),
        )
        stack.enter_context(self.process)
        stack.callback(self.process.kill)
        wait_until(lambda: catches(self.process.pid, signal.SIGTERM))
        self.port = int(self.await_line(r"listens on 127\.0\.0\.1:(\d+)"))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.path.read_text() if self.path.exists() else ""

    def await_line(self, pattern: str) -> str:
        """Wait for a line of the log; return its first group."""
        wait_until(lambda: re.search(pattern, self.log) is not None)
        found = re.search(pattern, self.log)
        assert found is not None
        return found[1]

    def workers(self) -> list[int]:
        """Return the processes of the workers."""
        return children_of(self.pid)

    def run(self, name: str) -> tuple[str, str]:
        """Return boot and start that the control socket shows, when it responds."""
        daemon = Daemon(os.fspath(self.path.parent / f"{name}.sock"))
        shown: list[tuple[str, str]] = []

        def responds() -> bool:
            with suppress(ClientError):
                status = daemon.status()
                shown.append((status["boot"], status["started"]))
            return bool(shown)

        wait_until(responds)
        return shown[0]

    def end(self) -> int:
        """Send SIGTERM; return the status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(4 * LIMIT)


class Observers:
    """Connect to UNIX sockets again and again, as programs do that watch a daemon.

    :ivar refused: why a connection was not possible.
    """

    def __init__(self, *paths: Path) -> None:
        self.refused: list[str] = []
        self._stopping = threading.Event()
        self._replies = dict.fromkeys(paths, 0)
        self._threads = [
            threading.Thread(target=self._watch, args=(path,), daemon=True) for path in paths
        ]

    def __enter__(self) -> Observers:
        for thread in self._threads:
            thread.start()
        self.await_replies()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def await_replies(self) -> None:
        """Wait until there is one more reply of each path."""
        before = dict(self._replies)
        wait_until(lambda: self.refused or all(self._replies[p] > before[p] for p in before))

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, path: Path) -> None:
        while not self._stopping.is_set():
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(LIMIT)
                try:
                    client.connect(os.fspath(path))
                except OSError as error:
                    self.refused.append(f"{path}: {error}")
                    return
                # One that is connected already loses its connection with the old program.
                with suppress(OSError):
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    self._replies[path] += bool(client.recv(1000))


class Deployment:
    """A file server, and a proxy with two workers in front of it."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.directory = directory
        self.upstream = ""
        self.write()
        server = Process(stack, directory, "fileserver")
        self.upstream = f"tcp:127.0.0.1:{server.port}"
        self.write()
        self.proxy = Process(stack, directory, "natproxy")

    def write(self, *endpoints: str) -> None:
        """Write the settings, with further endpoints of the proxy."""
        listen = json.dumps([LOOPBACK, *endpoints])
        (self.directory / "natproxy.toml").write_text(
            f'[fileserver]\nlisten = "{LOOPBACK}"\nfiles = "served"\nname = "files"\n'
            f'[proxy]\nlisten = {listen}\nworkers = 2\nname = "edge"\njournal = "journal"\n'
            f"drain = 120\n" + (f'upstream = "{self.upstream}"\n' if self.upstream else "")
        )

    def replace(self, number: int) -> None:
        """Reload with other endpoints, and wait until the new workers serve."""
        path = self.directory / f"{number}.listen"
        self.write(f"unix:{path}")
        reloads = self.proxy.log.count(RELOADED)
        os.kill(self.proxy.pid, signal.SIGHUP)
        wait_until(lambda: self.proxy.log.count(RELOADED) > reloads)
        assert path.exists()


def test_killed_workers_fail_their_own_commands_only(directory: Path) -> None:
    with ExitStack() as stack:
        deployment = Deployment(stack, directory)
        proxy = deployment.proxy
        load = Load(proxy.port)
        with load.running():
            for number in range(KILLS):
                load.await_commands(20)
                before = proxy.workers()
                assert len(before) == 2
                os.kill(before[number % 2], signal.SIGKILL)
                # The other worker serves all clients meanwhile.
                load.await_commands(20)
                started = 3 + number
                wait_until(lambda started=started: proxy.log.count("control socket: ") == started)
        assert load.refused == 0
        assert load.failed <= KILLS * CLIENTS
        assert proxy.log.count("was ended by SIGKILL; the next one is started") == KILLS
        assert proxy.end() == 0
        check_journal(directory / "journal", served_ports(directory / "fileserver.log"))


def served_ports(log: Path) -> Counter[int]:
    """Return the ports from which the file server has received commands, by its log."""
    return Counter(int(port) for port in re.findall(r"127\.0\.0\.1:(\d+) LIST", log.read_text()))


def check_journal(directory: Path, ports: Counter[int]) -> None:
    """Check that the journal has each command, and that its record has no gap."""
    with Journal(os.fspath(directory)) as journal:
        found = list(journal.history(HistoryQuery()))
        oldest, *gaps = journal.gaps()
        assert all(not check.problems for check in journal.verify())
    recorded = Counter(record.nat_port for record in found)
    assert ports
    # What a proxy could not send any more is in the journal only.
    assert not ports - recorded
    assert (recorded - ports).total() <= KILLS * CLIENTS
    assert oldest.since is None
    assert gaps == []
    assert all(record.state in ("removed", "lost") for record in found)
    assert not list(directory.glob("*.spool*"))


def test_reloads_that_replace_workers_fail_no_command(directory: Path) -> None:
    with ExitStack() as stack:
        deployment = Deployment(stack, directory)
        proxy = deployment.proxy
        load = Load(proxy.port)
        with socket.create_connection(("127.0.0.1", proxy.port), LIMIT) as download:
            download.sendall(b"GET large\n")
            received = len(download.recv(1000))
            with load.running():
                for number in range(RELOADS):
                    load.await_commands(20)
                    deployment.replace(number)
                    received += len(download.recv(1000))
                    load.await_commands(20)
            # The old worker still serves the client that it had.
            wait_until(lambda: len(proxy.workers()) == 3)
            while received < SIZE and (data := download.recv(1 << 20)):
                received += len(data)
            assert received >= SIZE
        assert (load.failed, load.refused) == (0, 0)
        wait_until(lambda: len(proxy.workers()) == 2)
        assert proxy.end() == 0


def test_workers_end_in_order_when_their_master_is_killed(directory: Path) -> None:
    with ExitStack() as stack:
        proxy = Deployment(stack, directory).proxy
        workers = proxy.workers()
        with socket.create_connection(("127.0.0.1", proxy.port), LIMIT) as download:
            download.sendall(b"GET large\n")
            received = len(download.recv(1000))
            proxy.process.kill()
            proxy.process.wait()
            # The sockets are closed when both workers drain.
            wait_until(lambda: refuses(proxy.port))
            while data := download.recv(1 << 20):
                received += len(data)
        assert received >= SIZE
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_new_code_is_executed_by_the_master_and_its_workers(directory: Path) -> None:
    library = directory / "library"
    shutil.copytree(ROOT / "natproxy", library / "natproxy")
    shutil.copytree(ROOT / "twisted", library / "twisted")
    (directory / "natproxy.toml").write_text(f'[fileserver]\nlisten = "{LOOPBACK}"\n')
    with ExitStack() as stack:
        web = directory / "web.sock"
        options = ("--files=served", "--workers=2", "--name=files", f"--web=unix:{web}")
        server = Process(stack, directory, "fileserver", *options, PYTHONPATH=str(library))
        observers = stack.enter_context(Observers(directory / "files.sock", web))
        before = server.workers()
        begun = server.run("files")
        load = Load(server.port)
        with load.running():
            load.await_commands(20)
            module = library / "natproxy/daemon/workers/master.py"
            module.write_text(module.read_text().replace("listens on", "runs new code on"))
            os.kill(server.pid, signal.SIGHUP)
            # The same process has executed itself, with the same port.
            assert server.await_line(r"runs new code on 127\.0\.0\.1:(\d+)") == str(server.port)
            load.await_commands(20)
            wait_until(lambda: len(server.workers()) == 2)
            after = server.workers()
            assert not set(before) & set(after)
            assert (directory / "fileserver.pid").read_text().strip() == str(server.pid)
            # Those who watched have waited, instead of being refused.
            observers.await_replies()
            assert server.run("files") == begun
            # It has the workers that it did not start.
            os.kill(after[0], signal.SIGKILL)
            load.await_commands(20)
            wait_until(lambda: len(server.workers()) == 2 and after[0] not in server.workers())
        assert (load.refused, load.done > 0) == (0, True)
        assert load.failed <= CLIENTS
        observers.stop()
        assert observers.refused == []
        assert server.end() == 0
    assert not web.exists()
    assert not (directory / "files.sock").exists()


def test_start_that_fails_in_a_worker_names_the_reason(directory: Path) -> None:
    taken = directory / "edge.w1.sock"
    taken.write_text("not a socket")
    done = subprocess.run(
        [
            *(*TWISTD, "-n", "--pidfile=", "natproxy", f"--listen={LOOPBACK}", "--workers=2"),
            *("--name=edge", f"--control={directory}/edge.sock", "--journal=none"),
        ],
        cwd=directory,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=4 * LIMIT,
    )
    assert done.returncode == 1
    assert f"--control {taken}: there is a file that is not a socket" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@contextmanager
def started(
    directory: Path, command: Sequence[str], pattern: str, **settings: str
) -> Iterator[int]:
    """Run a daemon with a log on standard output, which has its port; send it a command."""
    path = directory / "output"

    def found(pattern: str) -> re.Match[str] | None:
        return re.search(pattern, path.read_text())

    with path.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment(settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    with process:
        try:
            wait_until(lambda: found(pattern) is not None or process.poll() is not None)
            port = found(pattern)
            assert port is not None, path.read_text()
            wait_until(lambda: catches(process.pid, signal.SIGTERM))
            with socket.create_connection(("127.0.0.1", int(port[1])), LIMIT) as client:
                client.sendall(b"LIST\n")
                # The master writes what the worker has logged.
                wait_until(lambda: found("LIST: completed") is not None)
            yield process.pid
            process.terminate()
            assert process.wait(4 * LIMIT) == 0
        finally:
            process.kill()


def test_application_file_and_log_of_twistd(directory: Path) -> None:
    settings = {"LISTEN": LOOPBACK, "FILES": "served", "WORKERS": "2", "CONTROL": "none"}
    variables = {f"NATPROXY_FILESERVER_{name}": value for name, value in settings.items()}
    pattern = r"listens on 127\.0\.0\.1:(\d+); workers: 0 "
    with started(directory, application_file("fileserver"), pattern, **variables) as pid:
        assert len(children_of(pid)) == 2


def test_both_daemons_in_one_process(directory: Path) -> None:
    command = [sys.executable, "-m", "natproxy", "up", "--files=served", "--workers=2"]
    endpoints = [f"--listen={LOOPBACK}", f"--fileserver-listen={LOOPBACK}", "--control=none"]
    with started(directory, [*command, *endpoints], r"proxy +127\.0\.0\.1:(\d+)") as pid:
        assert len(children_of(pid)) == 4


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False
