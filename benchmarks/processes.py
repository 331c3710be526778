"""Child processes that always end, and ports for them."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.errors import BenchmarkError

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
START = 15.0
"""Seconds until a child must accept connections."""
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """Return a free port below the ephemeral ports."""
    for _ in range(1000):
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise BenchmarkError("no free port")


def module(name: str, *arguments: object) -> list[str]:
    """Give the command line that runs a module of this package."""
    return [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]


class Daemon:
    """A child process that listens; it and its own children end with `stop`.

    :param command: the command line.
    :param port: where it will listen.
    :param log: file for what it writes to its standard output and error.
    :raises BenchmarkError: if it can't be run.
    """

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        self.port = port
        self._log = log
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("wb") as output:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                    start_new_session=True,
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                )
            except OSError as error:
                raise BenchmarkError(f"cannot run {command[0]}: {error.strerror}") from error
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until it accepts a connection.

        :raises BenchmarkError: if it ends instead, or does not do so in time.
        """
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchmarkError(f"ended at once: {self.last_words()}")
            try:
                socket.create_connection((HOST, self.port), 1.0).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise BenchmarkError(f"accepted no connection for {START:g} s: {self.last_words()}")

    def wait_for(self, path: Path) -> None:
        """Wait until it has made a file or a socket.

        :raises BenchmarkError: if it does not do so in time.
        """
        deadline = time.monotonic() + START
        while not path.exists():
            if time.monotonic() > deadline:
                raise BenchmarkError(f"made no {path.name} for {START:g} s: {self.last_words()}")
            time.sleep(0.01)

    def last_words(self) -> str:
        """Give the last line that it has written."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else f"exit status {self._process.poll()}"

    def stop(self) -> None:
        """End it and everything that it has started."""
        try:
            self._signal(signal.SIGTERM)
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait(10)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
