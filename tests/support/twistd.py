"""Daemons as processes, run by ``twistd``."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")

LIMIT = 30.0
"""Seconds that a process may run."""


def wait_until(condition: Callable[[], Any]) -> Any:
    """Wait until a condition holds; return its value."""
    deadline = time.monotonic() + 2 * LIMIT
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def await_port(port: int) -> None:
    """Wait until something listens on a port of the loopback interface."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    pytest.fail(f"nothing listens on port {port}")


def catches(pid: int, *numbers: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    assert found is not None
    return all(int(found[1], 16) >> (number - 1) & 1 for number in numbers)


class Daemon:
    """A daemon that runs, and its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def await_line(self, pattern: str) -> str:
        """Read output until a line matches; return its first group."""
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            found = re.search(pattern, line)
            if found:
                return found[1]
        pytest.fail(f"{pattern!r} is not in: {''.join(seen)}")

    def await_handler(self, number: int) -> None:
        """Wait until the daemon has a handler for a signal: once the reactor runs."""
        deadline = time.monotonic() + LIMIT
        while not catches(self.process.pid, number):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=LIMIT)
        return self.process.returncode


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process: without settings but these."""
    inherited = {name: text for name, text in os.environ.items() if "NATPROXY" not in name}
    return {**inherited, "PYTHONPATH": str(ROOT), **settings}


@contextmanager
def running(command: Sequence[str], cwd: Path, **settings: str) -> Iterator[Daemon]:
    """Run a daemon, for no longer than `LIMIT`."""
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


def application_file(name: str) -> list[str]:
    """Return the command that runs an application file of ``deploy/``."""
    return [*TWISTD, "--pidfile=", "-ny", str(DEPLOY / f"{name}.tac")]


def refused_start(name: str, cwd: Path, **settings: str) -> str:
    """Run an application file that cannot start, and return what it writes to stderr."""
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
