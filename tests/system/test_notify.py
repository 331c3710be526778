"""Both daemons, run by twistd, notify a service manager, which is a socket of the test."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.twistd import LIMIT, TWISTD, Daemon, running

LOOPBACK = "tcp:0:interface=127.0.0.1"
DAEMONS = {"natproxy": "proxy", "fileserver": "fileserver"}


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(LIMIT)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def received(self) -> list[str]:
        """Wait for a message; return its lines."""
        return self._socket.recv(4096).decode().split("\n")

    def received_besides_signs(self) -> list[str]:
        """Wait for a message that is no sign of life; return its lines."""
        while True:
            lines = self.received()
            if lines != ["WATCHDOG=1"]:
                return lines


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory with a short path, with a file to serve."""
    path = Path(tempfile.mkdtemp())
    (path / "served").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, directory: Path) -> Iterator[Manager]:
    path = request.param == "path"
    with Manager(f"{directory}/notify" if path else f"@natproxy-{uuid.uuid4()}") as manager:
        yield manager


def start(stack: ExitStack, directory: Path, daemon: str, address: str, **variables: str) -> Daemon:
    (directory / "natproxy.toml").write_text(
        f'[proxy]\nlisten = "{LOOPBACK}"\n[fileserver]\nlisten = "{LOOPBACK}"\nfiles = "served"\n'
    )
    command = [*TWISTD, "-n", "--pidfile=", daemon, "--config=natproxy.toml", "--name=notifies"]
    variables |= {"RUNTIME_DIRECTORY": f"{directory}/run", "STATE_DIRECTORY": f"{directory}/state"}
    (directory / "run").mkdir(exist_ok=True)
    (directory / "state").mkdir(exist_ok=True)
    return stack.enter_context(running(command, directory, NOTIFY_SOCKET=address, **variables))


@pytest.mark.parametrize("daemon", DAEMONS)
def test_start_reload_watchdog_and_stop(daemon: str, directory: Path, manager: Manager) -> None:
    with ExitStack() as stack:
        process = start(stack, directory, daemon, manager.address, WATCHDOG_USEC="200000")
        ready, status = manager.received()
        assert ready == "READY=1"
        listens = re.fullmatch(r"STATUS=listens on 127\.0\.0\.1:(\d+)", status)
        assert listens is not None
        # It can be used: it listens, and the control socket is open.
        socket.create_connection(("127.0.0.1", int(listens[1])), LIMIT).close()
        assert (directory / "run" / "notifies.sock").is_socket()
        assert [manager.received() for _ in range(3)] == [["WATCHDOG=1"]] * 3

        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        process.process.send_signal(signal.SIGHUP)
        reloading, clock = manager.received_besides_signs()
        assert reloading == "RELOADING=1"
        name, _, now = clock.partition("=")
        assert name == "MONOTONIC_USEC"
        assert before <= int(now) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert manager.received_besides_signs() == ["READY=1", status]

        if daemon == "fileserver":
            with (directory / "natproxy.toml").open("a") as file:
                file.write("drain = -1\n")
            process.process.send_signal(signal.SIGHUP)
            assert manager.received_besides_signs()[0] == "RELOADING=1"
            lines = manager.received_besides_signs()
            assert lines[0] == "READY=1"
            assert lines[1].startswith(f"{status}; the settings were not reloaded: natproxy.toml:")

        assert process.end() == 0
        assert manager.received_besides_signs() == ["STOPPING=1", "STATUS=draining"]


def test_start_that_fails_is_never_ready(directory: Path) -> None:
    with Manager(f"{directory}/notify") as manager, ExitStack() as stack:
        occupant = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        (directory / "natproxy.toml").write_text("")
        port = occupant.getsockname()[1]
        command = [*TWISTD, "-n", "--pidfile=", "natproxy", "--control=none", "--journal=none"]
        command.append(f"--listen=tcp:{port}:interface=127.0.0.1")
        settings = {"NOTIFY_SOCKET": manager.address}
        process = stack.enter_context(running(command, directory, **settings))
        assert process.process.wait(LIMIT) == 1
        manager._socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.received()


def test_manager_that_is_gone_does_not_stop_the_daemon(directory: Path) -> None:
    with ExitStack() as stack:
        address = f"{directory}/missing"
        process = start(stack, directory, "fileserver", address, WATCHDOG_USEC="2000")
        line = process.await_line(r"(cannot notify the service manager at .*)")
        assert line.endswith(f"at {address} ($NOTIFY_SOCKET): No such file or directory")
        assert process.end() == 0


def test_child_processes_do_not_inherit_the_variables(directory: Path) -> None:
    """An application file has a service that shows what a child of the daemon would inherit."""
    text = (
        "import os\n"
        "from twisted.application.service import Service\n"
        "from twisted.internet import reactor\n"
        "from natproxy.daemon.proxy import make_proxy\n"
        "from natproxy.daemon.proxy_config import ProxyConfig\n"
        "from natproxy.daemon.log_options import LogChoice\n"
        "from natproxy.daemon.application import make_application\n"
        "listen = ('tcp:0:interface=127.0.0.1',)\n"
        "config = ProxyConfig(listen=listen, control='none', journal='none')\n"
        "class Child(Service):\n"
        "    def startService(self):\n"
        "        reactor.callWhenRunning(os.system, 'echo child: $NOTIFY_SOCKET$WATCHDOG_USEC.')\n"
        "application = make_application('p', make_proxy(reactor, config), reactor, LogChoice())\n"
        "Child().setServiceParent(application)\n"
    )
    (directory / "child.tac").write_text(text)
    with Manager(f"{directory}/notify") as manager, ExitStack() as stack:
        settings = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
        command = [*TWISTD, "--pidfile=", "-ny", "child.tac"]
        process = stack.enter_context(running(command, directory, **settings))
        assert manager.received()[0] == "READY=1"
        assert process.await_line(r"child: (.*)") == "."
        assert process.end() == 0
        assert os.environ.get("NOTIFY_SOCKET") is None
