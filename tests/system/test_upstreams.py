"""Two file servers behind a proxy with two workers: their modes, and the end of one of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from natproxy.client.control.daemon import Daemon
from natproxy.client.control.http import request
from natproxy.client.errors import ClientError
from natproxy.records.upstreams import UpstreamRecord
from tests.support.twistd import LIMIT, TWISTD, environment, wait_until

LOOPBACK = "tcp:0:interface=127.0.0.1"

SETTINGS = """\
[proxy]
listen = [{listen}]
workers = 2
name = "edge"
journal = "journal"
health-interval = 0.2
health-timeout = 10.0

[[proxy.upstream]]
name = "files-a"
endpoint = "tcp:127.0.0.1:{first}"

[[proxy.upstream]]
name = "files-b"
endpoint = "tcp:127.0.0.1:{second}"
"""


class Pair:
    """Two file servers, and a proxy with two workers in front of them, as processes."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.directory = directory
        self._stack = stack
        self.servers = [
            self._run(
                name, "fileserver", f"--listen={LOOPBACK}", "--files=served", f"--name={name}"
            )
            for name in ("a", "b")
        ]
        self._ports = [self._port(name) for name in ("a", "b")]
        self.write(f'"{LOOPBACK}"')
        self.proxy = self._run("proxy", "natproxy", "--config=proxy.toml")
        self._port("proxy")
        self.daemon = Daemon(os.fspath(directory / "edge.sock"))
        wait_until(lambda: len(self.workers()) == 2)

    def write(self, listen: str) -> None:
        """Write the settings of the proxy."""
        first, second = self._ports
        text = SETTINGS.format(listen=listen, first=first, second=second)
        (self.directory / "proxy.toml").write_text(text)

    def _run(self, log: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*TWISTD, "-n", "--pidfile=", f"--logfile={log}.log", *arguments],
            cwd=self.directory,
            env=environment({"RUNTIME_DIRECTORY": os.fspath(self.directory)}),
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    def _port(self, log: str) -> int:
        path = self.directory / f"{log}.log"

        def found() -> re.Match[str] | None:
            text = path.read_text() if path.exists() else ""
            return re.search(r"listens on 127\.0\.0\.1:(\d+)", text)

        return int(wait_until(found)[1])

    def workers(self) -> dict[int, int]:
        """Return the processes of the workers that reply, by their numbers."""
        with suppress(ClientError):
            return {each["worker"]: each["pid"] for each in self.daemon.status()["workers"]}
        return {}

    def upstream(self, name: str) -> UpstreamRecord:
        """Return an upstream as the workers see it that reply."""
        found = self.daemon.upstreams().find(name)
        assert found is not None
        return found

    def modes(self, name: str) -> list[str]:
        """Return the mode of an upstream for each worker that replies."""
        return [each["mode"] for each in self.upstream(name).workers]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command line."""
        return subprocess.run(
            [sys.executable, "-m", "natproxy", *arguments, f"--control={self.daemon.path}"],
            cwd=self.directory,
            env=environment({}),
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )

    def events(self, name: str) -> list[str]:
        """Return the reasons of the events with a name, of all workers."""
        lines = self.command("events", f"event {name}", "--json").stdout.splitlines()
        return [json.loads(line)["reason"] for line in lines]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    # Paths of sockets are short.
    directory = Path(tempfile.mkdtemp())
    (directory / "served").mkdir()
    with ExitStack() as stack:
        yield Pair(stack, directory)
    shutil.rmtree(directory, ignore_errors=True)


def test_modes_outlive_workers_and_reloads(pair: Pair) -> None:
    done = pair.command("upstreams", "drain", "files-a", "--wait")
    assert done.returncode == 0, done.stderr
    assert pair.modes("files-a") == ["drain", "drain"]
    before = pair.workers()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len(after := pair.workers()) == 2 and after[0] != before[0])
    assert pair.modes("files-a") == ["drain", "drain"]
    # With another endpoint, both workers are replaced.
    before = pair.workers()
    pair.write(f'"{LOOPBACK}", "unix:{pair.directory}/listen"')
    assert pair.command("reload").returncode == 0
    wait_until(
        lambda: (
            len(after := pair.workers()) == 2
            and not {*after.values()}.intersection(before.values())
        )
    )
    assert pair.modes("files-a") == ["drain", "drain"]
    assert pair.modes("files-b") == ["ready", "ready"]
    # The only one that is left is not taken out by mistake.
    done = pair.command("upstreams", "maintenance", "files-b")
    assert (done.returncode, pair.modes("files-b")) == (2, ["ready", "ready"])
    assert "files-b is the only upstream that takes commands" in done.stderr
    pair.daemon.set_upstream_mode("files-a", "ready")
    assert pair.modes("files-a") == ["ready", "ready"]


def test_end_of_a_server_is_seen_by_every_worker(pair: Pair) -> None:
    wait_until(lambda: pair.upstream("files-b").verbs)
    assert pair.upstream("files-b").version == 2
    pair.servers[1].kill()
    wait_until(
        lambda: [each["health"] for each in pair.upstream("files-b").workers] == ["down", "down"]
    )
    listed = pair.command("upstreams").stdout
    assert re.search(r"^files-a +up +ready ", listed, re.MULTILINE)
    assert re.search(r"^files-b +down +ready .*the server refuses", listed, re.MULTILINE)
    status = pair.command("status").stdout
    assert "upstreams:  1 up, 1 down (files-b: the server refuses connections)" in status
    downs = wait_until(lambda: len(found := pair.events("upstream-down")) == 2 and found)
    assert all(each.startswith("files-b: ") for each in downs)
    if find_spec("prometheus_client") is not None:
        with request(pair.daemon.path, "GET", "/metrics", None, LIMIT) as reply:
            metrics = reply.read(1 << 20).decode()
        assert 'natproxy_upstream_up{upstream="files-a"} 1.0' in metrics
        assert 'natproxy_upstream_up{upstream="files-b"} 0.0' in metrics
        assert 'natproxy_worker_upstreams_up{worker="1"} 1.0' in metrics
