"""The log of a daemon that runs: times, signals, a full disk."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.twistd import catches

RUN = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
MICROSECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
PATIENCE = 30.0


def start(cwd: Path, *options: str, arguments: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, "-n", "--pidfile=", *arguments]
    listen = "--listen=tcp:0:interface=127.0.0.1"
    return subprocess.Popen(
        [*command, "natproxy", listen, *options], cwd=cwd, stdout=subprocess.PIPE, text=True
    )


def test_daemon_in_the_foreground_logs_times_with_microseconds(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "listens on" in line:
                    break
        finally:
            process.kill()
    assert lines
    for line in lines:
        assert re.match(rf"{MICROSECONDS} \[", line), line
    assert os.listdir(tmp_path) == []


def wait_for(path: Path, words: str, times: int = 1) -> None:
    end = time.monotonic() + PATIENCE
    while not (path.exists() and path.read_text().count(words) >= times):
        assert time.monotonic() < end, f"{words!r} is not in {path}"
        time.sleep(0.02)


def test_signals_open_the_log_again_and_reload_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "log"
    (tmp_path / "settings.toml").write_text("# none\n")
    with start(tmp_path, "--log=log", "--config=settings.toml") as process:
        try:
            wait_for(path, "listens on")
            # The handlers are installed when the reactor runs.
            end = time.monotonic() + PATIENCE
            while not catches(process.pid, signal.SIGUSR1, signal.SIGHUP):
                assert time.monotonic() < end
                time.sleep(0.02)
            (tmp_path / "settings.toml").write_text("[proxy]\ntimeout = 0\n")
            process.send_signal(signal.SIGHUP)
            wait_for(path, "nothing has changed: settings.toml: proxy.timeout 0: must be")
            (tmp_path / "settings.toml").write_text("[proxy]\nlog-level = 'error'\n")
            process.send_signal(signal.SIGHUP)
            wait_for(path, "SIGHUP: the settings are reloaded: proxy.log-level")
            (tmp_path / "settings.toml").write_text("# none\n")
            process.send_signal(signal.SIGHUP)
            # Until then, only errors are logged.
            wait_for(path, "SIGHUP: the settings are reloaded: proxy.log-level", 2)
            path.rename(tmp_path / "old")
            process.send_signal(signal.SIGUSR1)
            wait_for(path, "has been opened again")
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert "SIGTERM: stopping" in path.read_text()
    assert "listens on" in (tmp_path / "old").read_text()


def commands(port: int, *lines: bytes) -> None:
    """Send commands one after the other, and wait for the reply of each."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        for line in lines:
            connection.sendall(line + b"\n")
            assert connection.recv(4096).startswith(b"ERR")


def listening_port(log: Path) -> int:
    wait_for(log, "listens on")
    found = re.search(r"listens on 127\.0\.0\.1:(\d+)", log.read_text())
    assert found is not None
    return int(found[1])


def signalled(process: subprocess.Popen[str], number: signal.Signals) -> None:
    end = time.monotonic() + PATIENCE
    while not catches(process.pid, number):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)


def test_access_log_is_written_opened_again_and_complete_at_the_end(tmp_path: Path) -> None:
    log, access = tmp_path / "log", tmp_path / "access"
    # Nothing listens on the upstream: each command ends at once.
    options = ("--log=log", "--access-log=access", "--upstream=unix:missing.sock")
    with start(tmp_path, *options) as process:
        try:
            port = listening_port(log)
            commands(port, b"GET first", b"GET a%20b")
            wait_for(access, "a%20b")
            access.rename(tmp_path / "old")
            signalled(process, signal.SIGUSR1)
            wait_for(log, f"{access} has been opened again")
            commands(port, *[b"GET last"] * 100)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    old = [line.split(" ") for line in (tmp_path / "old").read_text().splitlines()]
    assert [(len(words), words[5], words[7]) for words in old] == [
        (14, "first", "error"),
        (14, "a%20b", "error"),
    ]
    assert re.fullmatch(MICROSECONDS, old[0][0])
    new = access.read_text().splitlines()
    assert [line.split(" ")[5] for line in new] == ["last"] * 100
    assert "GET first" not in log.read_text()


def test_access_log_on_a_full_disk_does_not_stop_the_daemon(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    log = tmp_path / "log"
    options = ("--log=log", "--access-log=/dev/full", "--upstream=unix:missing.sock")
    with start(tmp_path, *options) as process:
        try:
            port = listening_port(log)
            commands(port, *[b"GET a"] * 5)
            wait_for(log, "cannot write the access log /dev/full: No space left on device")
            commands(port, b"GET b")
            signalled(process, signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert "the end of the access log /dev/full is lost; lines: 6" in log.read_text()


def test_access_log_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    with start(tmp_path, "--access-log=missing/access") as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
        assert process.wait(PATIENCE) == 1
    assert lines[-1].endswith(f"--access-log {tmp_path}/missing/access: No such file or directory")


def test_full_disk_does_not_stop_the_daemon(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with start(tmp_path, "--log=/dev/full", "--log-size=0") as process:
        try:
            end = time.monotonic() + PATIENCE
            while not catches(process.pid, signal.SIGUSR1):
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
