"""The log of a daemon that runs: times, signals, a full disk."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def wait_for(path: Path, words: str) -> None:
    end = time.monotonic() + PATIENCE
    while not (path.exists() and words in path.read_text()):
        assert time.monotonic() < end, f"{words!r} is not in {path}"
        time.sleep(0.02)


def test_signals_open_the_log_again_and_reload_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with start(tmp_path, "--log=log") as process:
        try:
            wait_for(path, "listens on")
            # The handlers are installed when the reactor runs.
            end = time.monotonic() + PATIENCE
            while not _catches(process.pid, signal.SIGUSR1, signal.SIGHUP):
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(signal.SIGHUP)
            wait_for(path, "SIGHUP: nothing is done")
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


def _catches(pid: int, *numbers: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    assert found is not None
    return all(int(found[1], 16) >> (number - 1) & 1 for number in numbers)


def test_full_disk_does_not_stop_the_daemon(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with start(tmp_path, "--log=/dev/full", "--log-size=0") as process:
        try:
            end = time.monotonic() + PATIENCE
            while not _catches(process.pid, signal.SIGHUP):
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
