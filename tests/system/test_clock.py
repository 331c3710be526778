"""Time-outs do not follow the wall clock: a reactor's delayed calls, and daemons as processes."""

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
from twisted.internet.base import ReactorBase
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python import runtime
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon import fileserver
from natproxy.daemon import proxy as proxy_plugin
from natproxy.daemon.clock import use_monotonic_time
from tests.support.loopback import HOST, PATIENCE
from tests.support.paths import ROOT
from tests.system.test_deploy import LIMIT, TWISTD, application_file, running

HOUR = 3600.0


class Reactor(ReactorBase):
    """A reactor with delayed calls, and nothing else."""

    def installWaker(self) -> None:
        """No thread wakes it."""

    def getThreadPool(self) -> object:
        return self


class MonotonicTimeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wall, self.monotonic = 1_700_000_000.0, 1000.0
        self.patch(runtime, "seconds", lambda: self.wall)
        self.patch(time, "monotonic", lambda: self.monotonic)
        self.reactor = Reactor()
        self.reactor.seconds = runtime.seconds
        self.called: list[str] = []

    def later(self, seconds: float, name: str) -> None:
        self.reactor.callLater(seconds, self.called.append, name)

    def passes(self, seconds: float, jump: float = 0.0) -> list[str]:
        """Let time pass, and the wall clock jump; return what is called."""
        self.called.clear()
        self.monotonic += seconds
        self.wall += seconds + jump
        self.reactor.runUntilCurrent()
        return self.called

    def test_delayed_calls_keep_their_time_when_the_wall_clock_jumps(self) -> None:
        use_monotonic_time(self.reactor)
        for jump in (HOUR, -HOUR):
            self.later(10, "a")
            self.later(0, "at once")
            self.assertEqual(self.passes(0.0, jump), ["at once"])
            self.assertEqual(self.passes(9.5), [])
            self.assertAlmostEqual(self.reactor.timeout(), 0.5)
            self.assertEqual(self.passes(0.5), ["a"])

    def test_calls_that_are_pending_keep_the_time_that_they_have_left(self) -> None:
        for seconds in (30, 10, 20, 40):
            self.later(seconds, str(seconds))
        self.passes(5)
        self.later(15, "20 too")
        postponed = self.reactor.callLater(1, self.called.append, "postponed")
        postponed.delay(20)
        use_monotonic_time(self.reactor)
        self.assertEqual(self.passes(4.9, HOUR), [])
        self.assertEqual(self.passes(0.2, -2 * HOUR), ["10"])
        self.assertEqual(sorted(self.passes(10)), ["20", "20 too"])
        self.assertEqual(self.passes(6), ["postponed"])
        self.assertEqual(self.passes(4), ["30"])
        self.assertEqual(self.passes(10), ["40"])

    def test_pending_call_can_still_be_moved_and_cancelled(self) -> None:
        first = self.reactor.callLater(5, self.called.append, "first")
        second = self.reactor.callLater(6, self.called.append, "second")
        use_monotonic_time(self.reactor)
        first.reset(3)
        second.cancel()
        self.assertEqual(self.passes(3), ["first"])
        self.assertEqual(self.passes(HOUR), [])

    def test_call_that_is_overdue_is_not_called_in_the_past(self) -> None:
        self.later(1, "overdue")
        self.wall += HOUR
        use_monotonic_time(self.reactor)
        self.assertEqual(self.passes(0), ["overdue"])

    def test_reactor_with_a_clock_of_its_own_is_not_changed(self) -> None:
        clock = Clock()
        use_monotonic_time(clock)
        clock.advance(5)
        self.assertEqual(clock.seconds(), 5)

    def test_both_daemons_do_it_when_they_are_made(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        server = fileserver.Options(self.reactor)
        server.parseOptions([f"--files={directory}"])
        fileserver.make_daemon(server)
        self.assertIs(self.reactor.seconds, time.monotonic)
        self.reactor.seconds = runtime.seconds
        proxy = proxy_plugin.Options(self.reactor)
        proxy.parseOptions([])
        proxy_plugin.make_daemon(proxy)
        self.assertIs(self.reactor.seconds, time.monotonic)

    def test_reactor_of_a_test_keeps_its_clock(self) -> None:
        reactor = MemoryReactorClock()
        proxy = proxy_plugin.Options(reactor)
        proxy.parseOptions([])
        proxy_plugin.make_daemon(proxy)
        reactor.advance(7)
        self.assertEqual(reactor.seconds(), 7)


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
        """Let the clock jump, and wait until the reactor has had a turn since."""
        # A client has its reply before the daemon has set the time for its next command.
        self.turn()
        os.kill(self._pid, signal.SIGUSR2)
        self.turn()

    def turn(self) -> None:
        """Wait for the end of a turn of the reactor."""
        with self.connect() as other:
            # Both daemons reply to this by themselves.
            assert ask(other, b"x" * 20_000) == b"ERR line too long\n"

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


def ask(connection: socket.socket, command: bytes = b"\xff\n") -> bytes:
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
                "NATPROXY_LISTEN": "unix:here",
                "NATPROXY_UPSTREAM": "tcp:127.0.0.1:1",
            },
        ),
        ([*UP, LISTEN, "--fileserver-listen=unix:behind"], {}),
    ],
    ids=["natproxy", "fileserver", "natproxy.tac", "natproxy up"],
)
def test_idle_client_is_not_cut_off_when_the_clock_jumps_forward(
    command: list[str], settings: dict[str, str], tmp_path: Path
) -> None:
    with jumping(command, tmp_path, HOUR, **settings) as daemon, daemon.connect() as client:
        assert ask(client)
        daemon.jump()
        assert ask(client)


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


def test_idle_client_is_cut_off_although_the_clock_jumps_back(tmp_path: Path) -> None:
    command = [*FILE_SERVER, LISTEN, "--timeout=1"]
    with jumping(command, tmp_path, -HOUR) as daemon, daemon.connect() as client:
        assert ask(client)
        daemon.jump()
        assert client.recv(1) == b""
