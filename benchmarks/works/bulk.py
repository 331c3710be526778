"""Large bodies: through a proxy, and straight from a file server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.plan import GB, Plan
from benchmarks.works.base import Case, Metric, Running, Work, download


class _Bulk(Work):
    metrics = (
        Metric("cpu_s_per_gb", "CPU s/GB", 3),
        Metric("gb_per_s", "GB/s", 2),
    )

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Give one case for each size and number of streams."""
        return [Case(bulk.title, bulk) for bulk in plan.bulk]

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Give one file for each size."""
        return {f"bulk-{bulk.size}": (bulk.size, True) for bulk in plan.bulk}

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Download, once for nothing and then for the record."""
        bulk = case.value
        name = f"bulk-{bulk.size}"
        download(running, name, bulk.size, 1, 1)
        tally, cpu = download(running, name, bulk.size, bulk.streams, bulk.times)
        return {
            "cpu_s_per_gb": cpu / (tally.received / GB),
            "gb_per_s": tally.received / GB / tally.seconds,
        }


class Relay(_Bulk):
    """Large bodies through a proxy."""

    name = "relay"
    title = "Relaying large bodies"
    note = (
        "GB is 10⁹ bytes. CPU is that of the proxy's own processes. All proxies use the "
        "same file server, which sends from the page cache."
    )
    peers = (
        "natproxy",
        "natproxy-copy",
        "haproxy-splice",
        "haproxy-splice-always",
        "haproxy-copy",
        "nginx-stream",
        "portforward",
        "threads",
        "splice-floor",
    )


class Serve(_Bulk):
    """Large bodies straight from a file server."""

    name = "serve"
    title = "Serving large bodies"
    note = "GB is 10⁹ bytes. The files are in the page cache."
    peers = ("fileserver", "nginx-http", "pyftpdlib", "filesender", "sendfile-floor")
