"""What is in ``deploy/``, run for real: application files, units, socket activation."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
INSTALLED = "/opt/natproxy/.venv/bin/twistd"
LIMIT = 30.0
UNITS = ["natproxy", "natproxy-activated", "natproxy-fileserver"]

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze"
)
needs_activate = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None or not socket.has_dualstack_ipv6(),
    reason="there is no systemd-socket-activate, or no IPv6",
)


class Daemon:
    """A daemon that runs, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def await_line(self, pattern: str) -> str:
        """Read on until a line matches; give its first group."""
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            found = re.search(pattern, line)
            if found:
                return found[1]
        pytest.fail(f"{pattern!r} was not said in: {''.join(seen)}")

    def end(self) -> int:
        """Send SIGTERM and give the exit status."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=LIMIT)
        return self.process.returncode


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **settings}


@contextmanager
def running(command: Sequence[str], cwd: Path, **settings: str) -> Iterator[Daemon]:
    """Run a daemon, for no longer than the limit."""
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        too_long = threading.Timer(LIMIT, process.kill)
        too_long.start()
        try:
            yield Daemon(process)
        finally:
            too_long.cancel()
            too_long.join()
            process.kill()


def start_file_server(stack: ExitStack, cwd: Path) -> tuple[Daemon, str]:
    """Run the file server's application file and give its port."""
    (cwd / "served").mkdir()
    (cwd / "served" / "one file").write_bytes(b"its content")
    server = stack.enter_context(
        running(
            application_file("fileserver"),
            cwd,
            FILESERVER_LISTEN="tcp:0:interface=127.0.0.1",
            FILESERVER_FILES="served",
        )
    )
    return server, server.await_line(r"starting on (\d+)")


def application_file(name: str) -> list[str]:
    return [*TWISTD, "--pidfile=", "-ny", str(DEPLOY / f"{name}.tac")]


def ask(address: tuple[str, int], commands: bytes) -> bytes:
    """Send commands, half-close, and give all that comes back."""
    with socket.create_connection(address, timeout=LIMIT) as client:
        client.sendall(commands)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def refused_start(name: str, cwd: Path, **settings: str) -> str:
    """Run an application file that cannot start and give what it says on stderr."""
    done = subprocess.run(
        application_file(name),
        cwd=cwd,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_application_files_work_together(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server, server_port = start_file_server(stack, tmp_path)
        proxy = stack.enter_context(
            running(
                application_file("natproxy"),
                tmp_path,
                NATPROXY_LISTEN=f"tcp:0:interface=127.0.0.1 unix:{tmp_path}/proxy.sock",
                NATPROXY_UPSTREAM=f"tcp:127.0.0.1:{server_port}",
            )
        )
        proxy_port = int(proxy.await_line(r"starting on (\d+)"))
        proxy.await_line(r"starting on '(.*proxy.sock)'")
        reply = ask(("127.0.0.1", proxy_port), b"LIST\nDOWNLOAD one file\n")
        assert reply == b"OK\none file\nEND\nOK 11\nits content"
        nat_port = proxy.await_line(r"LIST: completed.* from port (\d+)")
        assert server.await_line(r"127\.0\.0\.1:(\d+) LIST: completed") == nat_port
        assert proxy.end() == 0
        assert server.end() == 0


@pytest.mark.parametrize("name", ["natproxy", "fileserver"])
def test_application_file_says_in_one_line_that_the_port_is_in_use(
    name: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        listen = f"tcp:{occupant.getsockname()[1]}:interface=127.0.0.1"
        said = refused_start(name, tmp_path, **{f"{name.upper()}_LISTEN": listen})
    assert said == (
        f"cannot listen on {listen}: Address already in use;"
        f" choose another one with {name.upper()}_LISTEN\n"
    )


@pytest.mark.parametrize("name", ["natproxy", "fileserver"])
@pytest.mark.parametrize(
    ("setting", "option", "value"),
    [
        ("LISTEN", "--listen", "bogus:1"),
        ("DRAIN", "--drain", "soon"),
        ("TIMEOUT", "--timeout", "0"),
    ],
)
def test_application_file_says_in_one_line_which_setting_is_wrong(
    name: str, setting: str, option: str, value: str, tmp_path: Path
) -> None:
    said = refused_start(name, tmp_path, **{f"{name.upper()}_{setting}": value})
    assert re.fullmatch(rf"twistd {name}: {option} {value}: [^\n]+\n", said)


def test_application_file_does_not_create_the_directory_that_it_is_told(tmp_path: Path) -> None:
    said = refused_start("fileserver", tmp_path, FILESERVER_FILES="typo")
    assert said.startswith("twistd fileserver: --files typo: no such directory")
    assert list(tmp_path.iterdir()) == []


def test_application_file_creates_the_default_directory(tmp_path: Path) -> None:
    listen = "tcp:0:interface=127.0.0.1"
    with running(application_file("fileserver"), tmp_path, FILESERVER_LISTEN=listen) as server:
        server.await_line(r"starting on (\d+)")
    assert (tmp_path / "files").is_dir()


@pytest.mark.parametrize("name", ["natproxy", "fileserver"])
def test_application_file_logs_where_it_is_told(name: str, tmp_path: Path) -> None:
    variables = {"LISTEN": "tcp:0:interface=127.0.0.1", "LOG": "log", "MAX_CLIENTS": "7"}
    variables |= {"MAX_CLIENTS_PER_HOST": "3", "FIRST_COMMAND_TIMEOUT": "0.2"}
    settings = {f"{name.upper()}_{variable}": value for variable, value in variables.items()}
    with running(application_file(name), tmp_path, **settings) as daemon:
        said = None
        while said is None:
            text = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
            said = re.search(
                r"listens on 127\.0\.0\.1:(\d+); clients at once: 7, of one host: 3", text
            )
            assert daemon.process.poll() is None
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z ", text)
        with socket.create_connection(("127.0.0.1", int(said[1])), LIMIT) as client:
            # It sends no command.
            assert client.recv(1) == b""


@needs_activate
def test_socket_activated_proxy_serves_the_client_that_woke_it(tmp_path: Path) -> None:
    unit = (DEPLOY / "natproxy-activated.service").read_text().replace("\\\n", " ")
    command = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert command is not None
    program, *arguments = shlex.split(command[1])
    assert program == INSTALLED
    name = re.search(r"^FileDescriptorName=(.*)$", socket_unit(), re.MULTILINE)
    assert name is not None
    with ExitStack() as stack:
        _, server_port = start_file_server(stack, tmp_path)
        upstream = arguments.index("tcp:127.0.0.1:9001")
        arguments[upstream] = f"tcp:127.0.0.1:{server_port}"
        port = free_port()
        activate = ["systemd-socket-activate", "-l", str(port), f"--fdname={name[1]}"]
        imports = ["-E", f"PYTHONPATH={ROOT}"]
        proxy = stack.enter_context(running([*activate, *imports, *TWISTD, *arguments], tmp_path))
        proxy.await_line("(Listening on)")
        # An IPv6 socket that takes IPv4 clients too.
        assert ask(("127.0.0.1", port), b"LIST\n") == b"OK\none file\nEND\n"
        assert ask(("::1", port), b"DOWNLOAD one file\n") == b"OK 11\nits content"
        assert proxy.end() == 0


@needs_analyze
@pytest.mark.parametrize(
    "unit", [*(f"{unit}.service" for unit in UNITS), "natproxy-activated.socket"]
)
def test_unit_is_understood_by_systemd(unit: str, tmp_path: Path) -> None:
    for file in DEPLOY.glob("natproxy*.*"):
        if file.suffix in (".service", ".socket"):
            text = file.read_text()
            (tmp_path / file.name).write_text(text.replace(INSTALLED, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    complaints = [line for line in done.stderr.splitlines() if "natproxy" in line]
    assert (done.returncode, complaints) == (0, [])


@needs_analyze
@pytest.mark.parametrize("unit", UNITS)
def test_unit_exposes_little(unit: str) -> None:
    analyze = ("systemd-analyze", "security", "--offline=true", "--threshold=15")
    done = subprocess.run(
        [*analyze, str(DEPLOY / f"{unit}.service")], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_unit_gives_a_daemon_more_time_to_stop_than_it_takes_to_drain(unit: str) -> None:
    text = (DEPLOY / f"{unit}.service").read_text()
    drain = re.search(r"--drain (\d+)", text)
    stop = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert drain is not None
    assert stop is not None
    assert int(stop[1]) > int(drain[1])


def socket_unit() -> str:
    return (DEPLOY / "natproxy-activated.socket").read_text()


def free_port() -> int:
    """A port that nobody listens on; systemd-socket-activate takes no port 0."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as probe:
        return int(probe.getsockname()[1])
