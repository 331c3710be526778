"""The same over a long link: what round trips cost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.peers import Copying, Fetching
from benchmarks.plan import KIB, Plan, Tree, size_text
from benchmarks.processes import Daemon, free_port, module
from benchmarks.trees import Source
from benchmarks.works.base import Case, Metric, Running, Work
from benchmarks.works.get import fetch
from benchmarks.works.many import copy_fresh

_SMALL = 4 * KIB
_SMALL_NAME = "small"


@dataclass(frozen=True)
class _Link:
    """What passes over a link.

    :ivar round_trip: in seconds.
    :ivar tree: that is copied; one small file if it is None.
    """

    round_trip: float
    tree: Tree | None


class Far(Work):
    """Small files, and one small file, over links with a delay."""

    name = "far"
    title = "Long links"
    note = (
        "Between the client and the peer is a relay that delays each byte, and TCP's handshake, "
        "by half a round trip in each direction. It imitates neither bandwidth nor loss nor slow "
        "start. The proxy is at the server's end of the link. Seconds are those of the client's "
        "process, from its start to its end; for one file, the median of several downloads."
    )
    peers = (
        "sync",
        "sync-no-fsync",
        "sync-direct",
        "rsync",
        "rsync-fsync",
        "rclone",
        "aria2",
        "get-proxied",
        "get",
        "curl",
        "wget",
    )
    metrics = (
        Metric("seconds", "seconds", 3),
        Metric("client_us", "client, CPU µs/file", 1),
    )

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Return two cases for each link."""
        return [
            Case(f"{title}, round trip of {round_trip * 1000:g} ms", _Link(round_trip, tree))
            for round_trip in plan.round_trips
            for title, tree in (
                (plan.far.title, plan.far),
                (f"one file of {size_text(_SMALL)}", None),
            )
        ]

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Return the small file."""
        return {_SMALL_NAME: (_SMALL, True)}

    def make_files(self, directory: Path, plan: Plan) -> None:
        """Create the small file and the tree."""
        super().make_files(directory, plan)
        Source(directory, plan.far).make()

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Copy the tree, or fetch the file, whatever the peer is for."""
        link, peer, plan = case.value, running.peer, running.plan
        if isinstance(peer, Copying if link.tree is None else Fetching):
            return {}
        with _delayed(running.target.port, link.round_trip) as port:
            if link.tree is not None:
                found = copy_fresh(running, Source(running.files, link.tree), port)
                return {metric.key: found[metric.key] for metric in self.metrics}
            assert isinstance(peer, Fetching)
            command = peer.fetch(port, _SMALL_NAME)
            used = [
                fetch(command, _SMALL_NAME, _SMALL, plan.patience) for _ in range(plan.far_gets)
            ]
        return {
            "seconds": median(each.seconds for each in used),
            "client_us": median(each.cpu for each in used) * 1e6,
        }


@contextmanager
def _delayed(port: int, round_trip: float) -> Iterator[int]:
    """Run a relay with a delay in front of a port, and return the relay's."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        relay = Daemon(
            module("daemons.delay", near := free_port(), port, round_trip / 2),
            near,
            Path(directory, "delay.log"),
        )
        try:
            relay.wait_until_ready()
            yield near
        finally:
            relay.stop()
