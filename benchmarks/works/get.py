"""One large file, fetched by a command line client: what it costs the client."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.peers.clients import Fetching
from benchmarks.plan import GB, Plan, size_text
from benchmarks.works.base import Case, Metric, Running, Work


class Get(Work):
    """A file on the server becomes a file here."""

    name = "get"
    title = "Downloading a file from the command line"
    note = (
        "GB is 10⁹ bytes. CPU is that of the client's process, from its start to its end. "
        "`natproxy get` waits until the file is on the disk (`fsync`), the others don't."
    )
    peers = ("get", "get-verify", "curl", "wget")
    metrics = (
        Metric("cpu_s_per_gb", "CPU s/GB", 3),
        Metric("seconds", "seconds", 2),
    )

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Give the one case: one file."""
        return [Case(f"one file of {size_text(plan.get)}", plan.get)]

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Give the file."""
        return {"got": (plan.get, True)}

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Fetch the file, once for nothing and then for the record."""
        peer = running.peer
        assert isinstance(peer, Fetching)
        _fetch(peer.fetch(running.target.port, "got"), case.value)
        seconds, cpu = _fetch(peer.fetch(running.target.port, "got"), case.value)
        return {"cpu_s_per_gb": cpu / (case.value / GB), "seconds": seconds}


def _fetch(command: list[str], size: int) -> tuple[float, float]:
    """Run a client in a directory of its own; give the seconds that it took, and of the CPU."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        os.sync()
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise BenchmarkError(f"{command[0]} ended with {process.returncode}: {said.strip()}")
        if (Path(directory, "got")).stat().st_size != size:
            raise BenchmarkError(f"{command[0]} has saved a part of the file only")
    return seconds, used.ru_utime + used.ru_stime
