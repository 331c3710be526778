"""Time-outs of the daemons do not follow the wall clock: processes whose wall clock jumps."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.loopback import HOST, PATIENCE
from tests.support.paths import ROOT
from tests.support.twistd import LIMIT, TWISTD, application_file, running

HOUR = 3600.0


# Read by Python at its start: a wall clock that jumps by one signal.
SHIM = """
import os, signal, time
wall_clock, jumped = time.time, [0.0]
time.time = lambda: wall_clock() + jumped[0]
signal.signal(signal.SIGUSR2, lambda *_: jumped.append(jumped.pop() + float(os.environ["JUMP"])))
"""

PROXY = [*TWISTD, "--pidfile=", "-n", "natproxy"]
FILE_SERVER = [*TWISTD, "--pidfile=", "-n", "fileserver", "--files=."]
UP = [sys.executable, "-m", "natproxy", "up", "--files=."]


class Jumping:
    """A daemon with a wall clock that jumps."""

    def __init__(self, path: Path, pid: int) -> None:
        self._path = path
        self._pid = pid

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        try:
            connection.connect(os.fspath(self._path))
        except OSError:
            connection.close()
            raise
        return connection

    def jump(self) -> None:
        """Make the clock jump, and wait for a later turn of the reactor."""
        # A client has its reply before the daemon has set the time for its next command.
        self.turn()
        os.kill(self._pid, signal.SIGUSR2)
        self.turn()

    def turn(self) -> None:
        """Wait for the end of a turn of the reactor."""
        with self.connect() as other:
            # Each daemon replies to this without the other.
            assert reply_to(other, b"x" * 20_000) == b"ERR line too long\n"

    def wait(self) -> None:
        for _ in range(int(LIMIT / 0.02)):
            try:
                self.connect().close()
                return
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.02)
        pytest.fail("it does not listen")


@contextmanager
def jumping(command: list[str], tmp_path: Path, jump: float, **settings: str) -> Iterator[Jumping]:
    """Run a daemon that listens on the socket ``here`` in its directory."""
    (tmp_path / "sitecustomize.py").write_text(SHIM)
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    with running(command, tmp_path, PYTHONPATH=path, JUMP=str(jump), **settings) as daemon:
        one = Jumping(tmp_path / "here", daemon.process.pid)
        one.wait()
        yield one


def reply_to(connection: socket.socket, command: bytes = b"\xff\n") -> bytes:
    """Send a command that has a reply of one line, and return that."""
    connection.sendall(command)
    return line_from(connection)


def line_from(connection: socket.socket) -> bytes:
    """Return the next line, or nothing at the connection's end."""
    with connection.makefile("rb") as stream:
        return stream.readline()


LISTEN = "--listen=unix:here"


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ([*PROXY, LISTEN, "--upstream=tcp:127.0.0.1:1"], {}),
        ([*FILE_SERVER, LISTEN], {}),
        (
            application_file("natproxy"),
            {
                "NATPROXY_PROXY_LISTEN": "unix:here",
                "NATPROXY_PROXY_UPSTREAM": "tcp:127.0.0.1:1",
            },
        ),
        ([*UP, LISTEN, "--fileserver-listen=unix:behind"], {}),
    ],
    ids=["natproxy", "fileserver", "natproxy.tac", "natproxy up"],
)
def test_idle_client_is_not_disconnected_when_the_clock_jumps_forward(
    command: list[str], settings: dict[str, str], tmp_path: Path
) -> None:
    with jumping(command, tmp_path, HOUR, **settings) as daemon, daemon.connect() as client:
        assert reply_to(client)
        daemon.jump()
        assert reply_to(client)


def test_silent_upstream_is_noticed_although_the_clock_jumps_back(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as silent:
        upstream = f"--upstream=tcp:{HOST}:{silent.getsockname()[1]}"
        command = [*PROXY, LISTEN, upstream, "--timeout=2"]
        with jumping(command, tmp_path, -HOUR) as daemon, daemon.connect() as client:
            client.sendall(b"LIST\n")
            # The command has reached the upstream: its time runs.
            silent.settimeout(PATIENCE)
            with silent.accept()[0] as upstream_end:
                upstream_end.settimeout(PATIENCE)
                assert line_from(upstream_end) == b"LIST\n"
                daemon.jump()
                assert b"silent for 2 s" in line_from(client)


def test_idle_client_is_disconnected_although_the_clock_jumps_back(tmp_path: Path) -> None:
    command = [*FILE_SERVER, LISTEN, "--timeout=1"]
    with jumping(command, tmp_path, -HOUR) as daemon, daemon.connect() as client:
        assert reply_to(client)
        daemon.jump()
        assert client.recv(1) == b""
