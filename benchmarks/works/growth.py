"""What a gigabyte, and a command, cost with more and more clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.plan import GB, Plan, count_text, size_text
from benchmarks.works.base import Case, Metric, Running, Work, download
from benchmarks.works.commands import SMALL, SMALL_NAME, send_commands


class Growth(Work):
    """The same bodies and commands from 1, 10, 100, … clients."""

    name = "growth"
    title = "More and more clients"
    note = (
        "Bodies are of one size, whatever the number of clients, and each client downloads at "
        "least one. So commands are the same part of the work in each case. GB is 10⁹ bytes."
    )
    peers = ("natproxy", "haproxy-splice", "haproxy-splice-always", "nginx-stream")
    metrics = (
        Metric("cpu_s_per_gb", "CPU s/GB", 3),
        Metric("gb_per_s", "GB/s", 2),
        Metric("cpu_us_per_command", "CPU µs/command", 1),
        Metric("commands_per_s", "commands/s", 0),
    )

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Give one case for each number of clients."""
        body = size_text(plan.growth_body)
        return [
            Case(f"{count_text(count, 'client')}, {body} bodies and 4 KiB commands", count)
            for count in plan.growth
        ]

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Give the body and the small file."""
        return {"body": (plan.growth_body, True), SMALL_NAME: (SMALL, True)}

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Download bodies, then send commands."""
        clients: int = case.value
        plan = running.plan
        size = plan.growth_body
        download(running, "body", size, 1, 1)
        times = max(1, plan.growth_bytes // (clients * size))
        tally, cpu = download(running, "body", size, clients, times)
        return {
            "cpu_s_per_gb": cpu / (tally.received / GB),
            "gb_per_s": tally.received / GB / tally.seconds,
            **send_commands(running, clients, plan.growth_commands),
        }
