"""Many small files: copied, and compared when nothing has changed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.peers import Copying
from benchmarks.plan import KIB, Plan, Tree
from benchmarks.processes import run_client
from benchmarks.trees import Source, fresh_directory, inodes
from benchmarks.works.base import Case, Metric, Running, Work

_WARM = Tree(32, KIB, 2)
"""Copied once before, so that a server that is older than a moment is measured."""


_MOST_OF_ARIA2 = 10_000
"""Files that aria2 is given at most: it takes more than a millisecond for each."""


class _Copies(Work):
    metrics = (
        Metric("seconds", "seconds", 2),
        Metric("client_us", "client, CPU µs/file", 1),
        Metric("server_us", "server, CPU µs/file", 1),
        Metric("proxy_us", "proxy, CPU µs/file", 1),
    )

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Return none: there are trees."""
        return {}


class Many(_Copies):
    """A tree of small files on the server becomes one here."""

    name = "many"
    title = "Copying many small files"
    note = (
        "Seconds are those of the client's process, from its start to its end, into a new "
        "directory. CPU time is that of each process involved. "
        "`natproxy sync` and `rsync --fsync` wait until the files are on the disk, the others "
        "don't. All read the same files, which are in the page cache, and each copy is compared "
        "with them. aria2 does not take part where it would take minutes. rsync's daemon has a "
        "process for each connection, whose CPU time is known to "
        "10 ms only."
    )
    peers = (
        "sync",
        "sync-no-fsync",
        "sync-direct",
        "sync-direct-no-fsync",
        "rsync",
        "rsync-fsync",
        "rclone",
        "wget-tree",
        "aria2",
    )

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Return one case for each tree."""
        return [Case(tree.title, tree) for tree in plan.many]

    def make_files(self, directory: Path, plan: Plan) -> None:
        """Create the trees."""
        for tree in (_WARM, *plan.many):
            Source(directory, tree).make()

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Copy a small tree, and then the tree for the record."""
        if running.peer.name == "aria2" and case.value.files > _MOST_OF_ARIA2:
            return {}
        copy_fresh(running, Source(running.files, _WARM))
        return copy_fresh(running, Source(running.files, case.value))


class Resync(_Copies):
    """The tree is there already, and is the same."""

    name = "resync"
    title = "Comparing many files of which none has changed"
    note = (
        "As in `many`, but the directory holds all files with their sizes and times, and none of "
        "them is to be written. All peers compare the same directory."
    )
    peers = ("sync", "sync-direct", "rsync", "rclone")

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Return the one case."""
        return [Case(plan.resync.title, plan.resync)]

    def make_files(self, directory: Path, plan: Plan) -> None:
        """Create the tree, and a copy of it beside the directory that is served."""
        source = Source(directory, plan.resync)
        source.make()
        shutil.copytree(source.path, _copy_of(source))

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Compare once; no file may be another afterwards."""
        source = Source(running.files, case.value)
        target = _copy_of(source)
        before = inodes(target)
        found = copy(running, source, target)
        if inodes(target) != before:
            raise BenchmarkError("files that are the same have been copied")
        source.check(target)
        return found


def _copy_of(source: Source) -> Path:
    return source.files.parent / f"{source.tree.name}-copy"


def copy_fresh(running: Running, source: Source, port: int | None = None) -> dict[str, float]:
    """Copy a tree into a new directory, compare it, and return what that cost.

    :param port: where the client connects to, if it is not the peer's own.
    :raises BenchmarkError: if it fails, or the copy differs.
    """
    with fresh_directory(running.files.parent) as target:
        found = copy(running, source, target, port)
        source.check(target)
    return found


def copy(
    running: Running, source: Source, target: Path, port: int | None = None
) -> dict[str, float]:
    """Let a client copy a tree into a directory, and return what that cost.

    :raises BenchmarkError: if it fails.
    """
    peer, plan = running.peer, running.plan
    assert isinstance(peer, Copying)
    command = peer.copy(port or running.target.port, source, target)
    os.sync()
    time.sleep(plan.settle)
    before = _cpu_seconds(running)
    used = run_client(command, source.files.parent, plan.patience)
    time.sleep(plan.settle)
    costs = {name: cpu - before[name] for name, cpu in _cpu_seconds(running).items()}
    costs["client_us"] = used.cpu
    per_file = {name: cpu / source.tree.files * 1e6 for name, cpu in costs.items()}
    return {"seconds": used.seconds, **per_file}


def _cpu_seconds(running: Running) -> dict[str, float]:
    if running.origin is None:
        return {"server_us": running.processes.cpu_seconds()}
    return {
        "server_us": running.origin.cpu_seconds(),
        "proxy_us": running.processes.cpu_seconds(),
    }
