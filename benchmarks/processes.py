"""Child processes that always end, and ports for them."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Use:
    """What a program has used from its start to its end.

    :ivar seconds: by the clock.
    :ivar cpu: seconds of CPU, those of the processes that it has started included.
    """

    seconds: float
    cpu: float


def run_client(command: Sequence[str], directory: Path, patience: float) -> Use:
    """Run a program to its end.

    :param directory: its working directory.
    :param patience: seconds after which it is killed.
    :raises BenchmarkError: if it fails, or is killed.
    """
    # Like an installed program, it finds its modules compiled; and peers are asked directly.
    environment = {**os.environ, "no_proxy": HOST, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        timer = threading.Timer(patience, process.kill)
        timer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace").strip()[-300:]
            name = " ".join(map(str, command[:4]))
            raise BenchmarkError(f"{name} … ended with {process.returncode}: {said}")
    return Use(seconds, used.ru_utime + used.ru_stime)


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
