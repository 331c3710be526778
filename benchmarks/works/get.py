"""One large file, fetched by a command line client: what it costs the client."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.peers.clients import Fetching
from benchmarks.plan import GB, Plan, size_text
from benchmarks.processes import Use, run_client
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
        patience = running.plan.patience
        command = peer.fetch(running.target.port, "got")
        fetch(command, "got", case.value, patience)
        used = fetch(command, "got", case.value, patience)
        return {"cpu_s_per_gb": used.cpu / (case.value / GB), "seconds": used.seconds}


def fetch(command: list[str], name: str, size: int, patience: float) -> Use:
    """Run a client in a directory of its own, and return what it has used.

    :param name: of the file that it saves there.
    :param size: that the file must have.
    :raises BenchmarkError: if it fails.
    """
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        os.sync()
        used = run_client(command, Path(directory), patience)
        if (Path(directory) / name).stat().st_size != size:
            raise BenchmarkError(f"{command[0]} has saved a part of the file only")
        return used
